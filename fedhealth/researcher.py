"""The researcher's side in Python: a study to load, check, simulate, sign and submit, and results as data frames.

    import fedhealth

    study = fedhealth.Study.load("protocols/heart-disease-diagnosis.toml")
    result = study.simulate("heart.csv", site_column="hospital", patient_column="id")
    result.metrics

It says nothing that the commands of `fedhealth study` do not say, and calls the same functions. Whatever takes long to
load is loaded where it is used, so that `import fedhealth` costs nothing.
"""

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

    from fedhealth.coordinator.evidence import Evidence
    from fedhealth.coordinator.report import Score
    from fedhealth.coordinator.research_frames import Summary
    from fedhealth.learning.binary_figures import Figures
    from fedhealth.learning.figures import FigureTable
    from fedhealth.learning.foresight import Foresight
    from fedhealth.simulation.run import Simulation
    from fedhealth.study.protocol import Study as Protocol

EVERYBODY = "all together"
"""What stands for all hospitals where others have their names."""

_BIAS = "(bias)"


class Study:
    """A study protocol.

    Attributes:
        protocol: what it says, as the file's model.
    """

    def __init__(self, protocol: "Protocol") -> None:
        self.protocol = protocol

    @classmethod
    def load(cls, path: str | Path) -> "Study":
        """Read a protocol file.

        Raises:
            ConfigInvalid: missing, not TOML, or not a protocol; says where and what was wanted.
        """
        from fedhealth.study.protocol import load_study

        return cls(load_study(Path(path)))

    def __repr__(self) -> str:
        return f"<Study {self.protocol.name} {self.digest[:12]}>"

    @property
    def digest(self) -> str:
        """The study's name to every machine: 64 hexadecimal digits, others for one changed word."""
        return self.protocol.digest

    def check(self, limits: Sequence[str | Path] = ()) -> "Foresight":
        """Return what is knowable before it runs: costs, noise at hospitals of each size, what sites' limits say.

        Args:
            limits: what sites publish: SITE.limits.json files, or folders of them.

        Raises:
            ConfigInvalid: a file is wrong, or no mechanism gives so little epsilon.
        """
        from fedhealth.learning.foresight import foresee
        from fedhealth.policy.limits import read_limits

        return foresee(self.protocol, read_limits([Path(path) for path in limits]))

    def simulate(
        self,
        data: str | Path,
        site_column: str,
        *,
        patient_column: str | None = None,
        declared_patients: int | None = None,
        seed: int = 0,
        rounds: int | None = None,
        out: str | Path | None = None,
        reference: bool = True,
        workers: int | None = None,
        on_progress: Callable[[str, int], None] = lambda what, rounds: None,
    ) -> "SimulationResult":
        """Run it over a table in which each value of a column is a hospital. Nothing of it is private.

        Args:
            data: a CSV or Parquet file.
            site_column: its values name the hospitals.
            patient_column: names the patient; every row is one if None.
            declared_patients: public figure of every hospital; each one's own number, rounded, if None.
            seed: decides the noise and who is held out.
            rounds: others than the protocol's.
            out: folder for all it leaves; runs/simulation-DATE if None.
            reference: also work out what is not private.
            workers: processes; as many as pay if None. The result is the same.
            on_progress: told what is done, and how many rounds are completed.

        Raises:
            ConfigInvalid: the folder is in use, or the file holds many tables.
            DataUnusable: the table cannot be used so.
            FederationFailed: a process ended.
        """
        from fedhealth.simulation.hospitals import Split
        from fedhealth.simulation.run import simulate_table, with_rounds

        folder = Path(out) if out else Path("runs") / f"simulation-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
        split = Split(site_column, patient_column, declared_patients, seed)
        found = simulate_table(
            with_rounds(self.protocol, rounds),
            Path(data),
            split,
            folder,
            with_reference=reference,
            workers=workers,
            on_progress=on_progress,
        )
        return SimulationResult(found)

    def sign(self, key: str | Path) -> bytes:
        """Return the signed study, which `submit` hands in; one changed byte makes it another study.

        Args:
            key: file of the researcher's signing key (`fedhealth study keygen`).

        Raises:
            ConfigInvalid: the protocol has open questions, or no mechanism can serve it.
        """
        from fedhealth.learning.open_texts import refuse_open_texts
        from fedhealth.learning.plan import plan_study
        from fedhealth.signing import load_signing_key
        from fedhealth.study.signature import sign_study

        refuse_open_texts(self.protocol)
        plan_study(self.protocol)
        return sign_study(self.protocol, load_signing_key(Path(key)))

    def submit(self, key: str | Path, coordinator: str | Path) -> "Summary":
        """Sign it and hand it to the coordinator, which offers it to the sites; again, it changes nothing.

        Args:
            key: file of the researcher's signing key.
            coordinator: its research socket.

        Raises:
            ConfigInvalid: as `sign`; or too many studies wait.
            LinkUnavailable: the coordinator does not answer.
        """
        from fedhealth.coordinator.research_client import submit_study

        return submit_study(Path(coordinator), self.sign(key))


class SimulationResult:
    """What a simulation found, as data frames; everything is in `folder` too.

    Args:
        found: by `fedhealth.simulation`.
    """

    def __init__(self, found: "Simulation") -> None:
        self._found = found

    def __repr__(self) -> str:
        return f"<SimulationResult of {self._found.study.name} in {self.folder}>"

    @property
    def folder(self) -> Path:
        """Where the report, the evidence, the model and the simulated ledger are."""
        return self._found.folder

    @property
    def warnings(self) -> tuple[str, ...]:
        """What you should know of the table."""
        return self._found.warnings

    @property
    def evidence(self) -> "Evidence":
        """What a real federation could publish."""
        return self._found.evidence

    @cached_property
    def metrics(self) -> "pd.DataFrame":
        """Figures with 95 % intervals that include the noise, one row for each site and metric, and all together.

        Columns: site, group (of patients, "" for all), metric, estimate, low, high, withheld. Where `withheld` gives a
        reason there is no number.
        """
        import pandas as pd

        rows = [
            (site, row.group, row.name, row.figure.estimate, row.figure.low, row.figure.high, row.figure.withheld)
            for site, figures in self._by_site()
            for row in figures.named()
        ]
        return pd.DataFrame(rows, columns=["site", "group", "metric", "estimate", "low", "high", "withheld"])

    @cached_property
    def participation(self) -> "pd.DataFrame":
        """Who took part: a row for each round, a column for each site, True where it gave its release."""
        import pandas as pd

        rounds = range(1, self.evidence.rounds_completed + 1)
        given = {site.site: [number in set(site.rounds) for number in rounds] for site in self.evidence.sites}
        return pd.DataFrame(given, index=pd.Index(rounds, name="round"))

    @cached_property
    def privacy(self) -> "pd.DataFrame":
        """What it costs a patient, exactly: a row for each site and purpose."""
        import pandas as pd

        return pd.DataFrame(
            [
                {"site": site.site, **line.model_dump(), "delta": site.delta}
                for site in self.evidence.sites
                for line in site.spent
            ]
        )

    @cached_property
    def model(self) -> "pd.Series[float]":
        """The private model's weights by the names of its inputs; inputs are scaled to [-1, 1] by the public ranges.

        Of Cox's regression, the logs of the baseline hazard follow, by the end of each interval. A network's weights
        are numbered. Empty where nothing is trained.
        """
        import pandas as pd

        names = list(_weights_of(self._found.study, len(self._found.weights)))
        return pd.Series(self._found.weights, index=names, name="weight")

    @cached_property
    def not_private(self) -> "pd.DataFrame":
        """What only a simulation may know: raw figures of each model on held-out patients.

        Columns: model, patients (whose they are), and accuracy and auc, or of survival concordance; of a study that
        trains nothing group, figure, estimate, low and high, from the same patients without noise. Empty if no
        reference was asked for.
        """
        import pandas as pd

        from fedhealth.coordinator.report import EstimateReference

        if isinstance(reference := self._found.reference, EstimateReference):
            return pd.DataFrame(
                [
                    (row.group, row.name, row.figure.estimate, row.figure.low, row.figure.high)
                    for row in reference.without_privacy.rows
                ],
                columns=["group", "figure", "estimate", "low", "high"],
            )
        measures = ["concordance"] if reference and reference.measure == "concordance" else ["accuracy", "auc"]
        rows = [
            (model, patients, *(getattr(score, measure) for measure in measures))
            for model, patients, score in self._raw_rows()
        ]
        return pd.DataFrame(rows, columns=["model", "patients", *measures])

    def _by_site(self) -> "Iterator[tuple[str, Figures | FigureTable]]":
        for site in self.evidence.sites:
            if site.figures is not None:
                yield site.site, site.figures
        yield EVERYBODY, self.evidence.pooled

    def _raw_rows(self) -> "Iterator[tuple[str, str, Score]]":
        from fedhealth.coordinator.report import Reference

        reference = self._found.reference
        if not isinstance(reference, Reference):
            return
        for site in reference.sites:
            yield f"{site.site} alone", site.site, site.local_alone
            yield f"{site.site} alone", EVERYBODY, site.local_alone_pooled
            yield "federated, private", site.site, site.federated
        yield "federated, private", EVERYBODY, reference.federated
        if reference.federated_without_privacy is not None:
            yield "federated, without clip and noise", EVERYBODY, reference.federated_without_privacy
        yield "one table, no privacy", EVERYBODY, reference.pooled_without_privacy


def _weights_of(study: "Protocol", count: int) -> Iterator[str]:
    """Yield a name for each of a model's weights, in order."""
    if study.training is None:
        return
    if study.model.hidden or study.model.modalities:
        yield from (f"weight {number}" for number in range(1, count + 1))
        return
    yield from _inputs_of(study)
    if study.endpoint.kind == "survival":
        yield from (f"(log hazard up to {end:g} {study.endpoint.time_unit})" for end in study.endpoint.interval_ends)
    else:
        yield _BIAS


def _inputs_of(study: "Protocol") -> Iterator[str]:
    """Yield the names of the model's inputs, in order."""
    for feature in study.features:
        if feature.kind == "category":
            yield from (f"{feature.column}={word}" for word in feature.categories)
        elif feature.kind == "molecule":
            for number, each in enumerate(feature.fingerprints, 1):
                yield from (f"{feature.column} fingerprint {number}.{place}" for place in range(1, each.size + 1))
            yield from (f"{feature.column} {each.name}" for each in feature.descriptors)
        elif feature.kind == "image":
            yield from (f"{feature.column} {name}" for name in feature.inputs.names(feature.shape))
        else:
            yield feature.column
        if feature.missing_indicator:
            yield f"{feature.column} missing"
