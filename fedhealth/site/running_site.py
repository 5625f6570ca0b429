"""A running site under its administrators: what they do beside its gate, and how long the gate is quiet for it.

Approving a study, changing a consent and pinning a researcher's key make the gate prepare its studies anew: one that is
approved, or allowed by now, needs its records, and a patient who is forgotten must be in none of them. That takes a
time that depends on the table. So after each such act, whatever came of it, the gate reads and says nothing until a
time that follows from public figures alone has passed since it began (`quiet_seconds`), or, after an overrun, until its
next multiple. The other side sees a gate that is slow once. Whether its ledger has grown since tells an approval or a
key from a change of consent or an act that was declined, never whose consent, or whether that patient is in the data.

Leaves to others: how a gate keeps quiet (`gate_process`), who is heard (`administration`).
"""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedhealth.errors import FedHealthError
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Digest
from fedhealth.site.approval import write_approval
from fedhealth.site.consent import write_consent
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock, read_inputs
from fedhealth.site.gate_process import prepare_studies
from fedhealth.site.held_gate import HeldGate
from fedhealth.site.instructions import (
    Approve,
    ChangeConsent,
    Distrust,
    Instruction,
    Trust,
    carry_out,
    check_site,
)
from fedhealth.site.state import SiteState
from fedhealth.study.features import Feature
from fedhealth.study.images import ImageFeature, Scattering
from fedhealth.study.molecules import MoleculeFeature
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import open_signed

_LOG = logging.getLogger(__name__)
_QUIET_SECONDS = 1.0
_QUIET_SECONDS_A_PATIENT = 100e-6
"""For reading a patient's records, and again for preparing them for each study; a few records take half of it."""

_QUIET_SECONDS_A_CODE = 20e-6
"""Of an index, for a search study: some ten times what reading a code took here."""
_QUIET_SECONDS_A_STRUCTURE = 5e-3
"""For the fingerprints and descriptors of a molecule; a drug's take a third of it."""

_QUIET_SECONDS_AN_IMAGE = 10e-3
_QUIET_SECONDS_A_PIXEL = 1e-6
"""For reading an image and describing it; a small volume takes a third of it."""

_QUIET_SECONDS_A_COEFFICIENT = 30e-9
"""For a scattering coefficient, by pixel; it takes a third to a half of it."""

_QUIET_SECONDS_TO_RESAMPLE = 0.5
"""For an image whose own size nobody knows; a head in voxels of 1 mm takes a half of it."""


_Changing = Approve | ChangeConsent | Trust | Distrust
"""After these the studies are prepared anew."""


def quiet_seconds(declared_patients: int, studies: int, reading: float = 0.0) -> float:
    """Return how long a gate is quiet at least after an act for which it reads its data.

    Args:
        declared_patients: the public round figure of the site.
        studies: how many are approved and not withdrawn.
        reading: seconds for the molecules and images of one patient, of all studies together (`reading_seconds`).
    """
    a_patient = _QUIET_SECONDS_A_PATIENT * (1 + studies) + reading
    return _QUIET_SECONDS + a_patient * declared_patients


def reading_seconds(study: Study | SearchStudy) -> float:
    """Return how long the molecules, images or codes of one patient may take, as many as a study reads at most."""
    if isinstance(study, SearchStudy):
        return _QUIET_SECONDS_A_CODE * study.counts.most_codes_of_a_patient
    return sum(map(_seconds_a_cell, study.features)) * study.max_records_per_patient


def _seconds_a_cell(feature: Feature) -> float:
    if isinstance(feature, MoleculeFeature):
        return _QUIET_SECONDS_A_STRUCTURE
    if not isinstance(feature, ImageFeature):
        return 0.0
    pixels = math.prod(feature.shape)
    seconds = _QUIET_SECONDS_AN_IMAGE + _QUIET_SECONDS_A_PIXEL * pixels
    if isinstance(feature.inputs, Scattering):
        seconds += _QUIET_SECONDS_A_COEFFICIENT * pixels * feature.width
    return seconds + _QUIET_SECONDS_TO_RESAMPLE * (feature.fit == "resample")


class RunningSite:
    """Has a gate do what administrators say, between two frames.

    Args:
        folder: the site's folder.
        state: the site's state.
        gate: the gate.
        ledger: the gate's.
        clock: the gate's.

    Attributes:
        quiet_until: the monotonic second before which whoever serves the gate must read and say nothing.
    """

    def __init__(self, folder: Path, state: SiteState, gate: Gate | HeldGate, ledger: Ledger, clock: Clock) -> None:
        self._folder, self._state, self._gate, self._ledger, self._clock = folder, state, gate, ledger, clock
        self.quiet_until = -math.inf

    def administer(self, instruction: Instruction, by: str) -> None:
        """Do what an administrator says; it holds from the next frame on.

        Args:
            instruction: what to do.
            by: the local user who says so.

        Raises:
            FedHealthError: for the administrator; nothing was done.
        """
        gate = self._gate
        if isinstance(gate, HeldGate):
            gate.check()
        elif isinstance(instruction, _Changing):
            with self._quiet(gate):
                gate.check_not_held()
                check_site(instruction, self._ledger)
                self._change(gate, instruction, by)
        else:
            gate.administer(instruction, by)

    def _change(self, gate: Gate, instruction: _Changing, by: str) -> None:
        at = self._clock.unix_ms()
        if isinstance(instruction, Approve):
            # As at a start: policy, pinned keys and data as they are now.
            inputs = read_inputs(self._folder, self._state, self._ledger, by, at, gate.inputs.device)
            write_approval(self._folder, self._state, self._ledger, instruction, by, at)
        else:
            # What was read at the start, so that no file that cannot be read keeps a patient in.
            inputs = gate.inputs
            if isinstance(instruction, ChangeConsent):
                write_consent(self._ledger, instruction, inputs.marks.scheme, by, at)
            else:
                carry_out(instruction, self._ledger, by, at)
        gate.renew(inputs)
        prepare_studies(gate, self._state, self._ledger)

    @contextmanager
    def _quiet(self, gate: Gate) -> Iterator[None]:
        """Keep the gate quiet after an act until a public time since the act began, also if it fails."""
        began = self._clock.monotonic()
        try:
            yield
        finally:
            account = self._ledger.account
            studies = account.approved.keys() - account.withdrawn
            reading = sum(map(self._reading_seconds, studies))
            seconds = quiet_seconds(gate.inputs.site.data_set.declared_patients, len(studies), reading)
            multiples = max(1, math.ceil((self._clock.monotonic() - began) / seconds))
            if multiples > 1:
                _LOG.warning(
                    "reading the data took long: the gate is quiet for %(multiple)d times the public duration",
                    {"multiple": multiples},
                )
            self.quiet_until = began + multiples * seconds

    def _reading_seconds(self, digest: Digest) -> float:
        try:
            return reading_seconds(open_signed((self._state.studies / f"{digest}.json").read_bytes()).study)
        except (FedHealthError, OSError):
            return 0.0  # it is not prepared either
