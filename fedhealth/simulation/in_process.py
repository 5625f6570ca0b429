"""Run a study over simulated hospitals: Flower's strategy here, the gates in this process or in several.

The strategy, its codec and the order of the sites are those of a real run, so that the same study, records, secrets
and seed give the same model to the last bit, whatever the number of processes.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from numpy.typing import NDArray

from fedhealth.coordinator.evidence import LedgerHead
from fedhealth.coordinator.server_app import StudyCodec
from fedhealth.flower.link_grid import BatchGrid, NotReleased, Question, set_task_identity
from fedhealth.flower.own_weights import OwnWeights
from fedhealth.flower.rounds import EXAMPLES, Course, evaluate_model, train_rounds
from fedhealth.flower.strategies import strategy_for
from fedhealth.flower.weight_average import WeightAverage
from fedhealth.learning.models.table import model_of, own_weights_of
from fedhealth.privacy.release import StepName
from fedhealth.simulation.gates import SimulatedSite, SiteGroup
from fedhealth.study.protocol import Study

_STEPS: dict[str, StepName] = {"train": "train", "evaluate": "evaluate"}


class Gates(Protocol):
    """The gates of all simulated sites, wherever they are."""

    def releases(self, step: StepName, number: int, data: Mapping[str, bytes]) -> Mapping[str, bytes | NotReleased]:
        """Return the answer of each site in `data` to a question with its own input."""
        ...

    def heads(self) -> Mapping[str, LedgerHead]:
        """Return the countersigned head of each site's ledger."""
        ...

    def write_ledgers(self, path: Path) -> None:
        """Write what the ledgers hold to a new file."""
        ...

    def close(self) -> None:
        """Leave nothing running."""
        ...


class SimulatedFederation:
    """The coordinator's side of one study over gates that are in memory.

    Args:
        study: the protocol.
        declared_patients: each site's public figure.
        gates: of the same sites.
    """

    def __init__(self, study: Study, declared_patients: Mapping[str, int], gates: Gates) -> None:
        self.study = study
        self._gates, self._sites = gates, len(declared_patients)
        set_task_identity(run_id=int(study.digest[:12], 16))
        self._grid = BatchGrid(list(declared_patients), self._ask_all, StudyCodec(study, dict(declared_patients)))
        self._strategy = strategy_for(study, len(declared_patients))

    def train(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Yield the number of each round, and the model that would be published if it were the last.

        Raises:
            SiteMissing: a gate failed.
        """
        start = model_of(self.study).start(self.study)
        course, average = Course(self.study.rounds, self._is_everybody), WeightAverage(self.study)
        for trained in train_rounds(self._grid, self._strategy, start, course, OwnWeights(own_weights_of(self.study))):
            yield trained.round, average.after(trained.round, trained.weights)

    def evaluate(self, weights: NDArray[np.float64]) -> dict[str, dict[str, float]]:
        """Return the noisy counts of each site.

        Raises:
            SiteMissing: a gate failed.
        """
        replies, _ = evaluate_model(self._grid, self._strategy, weights, self._is_everybody)
        return {
            site: {cell: float(str(count)) for cell, count in reply.items() if cell != EXAMPLES}
            for site, reply in replies.items()
        }

    def close(self) -> None:
        """Leave nothing running."""
        self._grid.close()
        self._gates.close()

    def _is_everybody(self, given: Collection[str]) -> bool:
        """Say whether all sites gave a release: nobody is away here, so that whoever gives none has failed."""
        return len(given) == self._sites

    def _ask_all(self, questions: Sequence[Question]) -> list[bytes | NotReleased]:
        """Ask sites the one question of a step."""
        asked = {question[1:3] for question in questions}
        if len(asked) != 1:
            raise ValueError("a strategy asked sites for different things in one step")
        ((step, number),) = asked
        answers = self._gates.releases(_STEPS[step], number, {site: data for site, *_, data in questions})
        return [answers[site] for site, *_ in questions]


class InProcessFederation(SimulatedFederation):
    """The same with all gates in this process.

    Args:
        study: the protocol.
        sites: at least two.
    """

    def __init__(self, study: Study, sites: Sequence[SimulatedSite]) -> None:
        declared = {site.file.id: site.file.data_set.declared_patients for site in sites}
        super().__init__(study, declared, SiteGroup(study, sites, Ed25519PrivateKey.generate()))
