"""What a gate prepares of its data set before anybody asks: the records of each approved study, and their version.

Everything that depends on patients is read here once, at the gate's start: the table without the patients who withdrew
their consent, its version in the local journal, and each study's two sides. So no round pays for reading records,
and no reply's time tells of it.

Invariants: a study is prepared only as it was approved, on the data set that pays for it; a study that could not be
prepared has no records here, and the gate is busy to it. What is computed on the records is left to the gate.
"""

import hashlib
import hmac
import secrets
from functools import lru_cache, partial
from importlib.metadata import PackageNotFoundError, version

import numpy as np
from numpy.typing import NDArray

from fedhealth.errors import ApprovalMissing, PolicyForbids
from fedhealth.learning.plan import plan_study
from fedhealth.policy.rules import check_policy
from fedhealth.privacy.journal import DataNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import Cohort, Digest
from fedhealth.privacy.stream import SECRET_BYTES, SiteNoiseSecret
from fedhealth.records.marks import without_patients
from fedhealth.records.table import Records, made_up_records, prepare_records
from fedhealth.search.coded_patients import CodedPatients
from fedhealth.site.cohorts import rows_of_cohort
from fedhealth.site.consent import forgotten_patients
from fedhealth.site.gate_inputs import Clock, Compute, GateInputs
from fedhealth.site.study_steps import sides_asked
from fedhealth.study.protocol import Study
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import AnySigned, SignedSearch, open_signed

_COMPUTING = ("fedhealth", "numpy", "torch", "monai")
"""Packages whose version may change a sum in its last bits; the last is of the extra `imaging`."""


class PreparedStudies:
    """The studies that a gate has taken in, and their records; owns both.

    Attributes:
        signed: each study that is as approved.
        records: the sides of those whose records could be read.
        coded: of search studies, the patients that they count.
        forbidden: studies that were approved and that the policy forbids now.
        versions: of each of these, what its records are, as in the key of a release's noise.
        data_version: of the data set, part of each.
    """

    def __init__(self, inputs: GateInputs, ledger: Ledger, compute: Compute, clock: Clock) -> None:
        self._inputs, self._ledger, self._compute, self._clock = inputs, ledger, compute, clock
        self.signed: dict[Digest, AnySigned] = {}
        self.records: dict[Digest, dict[Cohort, Records]] = {}
        self.coded: dict[Digest, CodedPatients] = {}
        self.versions: dict[Digest, str] = {}
        self.forbidden: set[Digest] = set()
        marks = inputs.marks
        self._forgotten = forgotten_patients(ledger, inputs.site.data_set.name, marks.scheme)
        self._table, members = without_patients(inputs.table, marks, self._forgotten)
        self.data_version = self._note_data_version(members)

    def drop(self) -> None:
        """Forget every study and its records."""
        self.signed.clear()
        self.records.clear()
        self.coded.clear()
        self.versions.clear()
        self.forbidden.clear()

    def is_ready(self, study: Digest) -> bool:
        """Say whether a study that was taken in can be computed."""
        return study in self.records or study in self.coded

    def prepare(self, data: bytes) -> Study | SearchStudy:
        """Take in an approved study ahead of its first round, so that no round pays for reading records.

        Args:
            data: a signed study.

        Raises:
            FedHealthError: for the administrator; the study or the data set is not as approved.
        """
        signed = open_signed(data)
        digest = signed.study.digest
        try:
            check_policy(self._inputs.policy, signed, self._inputs.researchers)
        except PolicyForbids:
            self.forbidden.add(digest)
            raise
        if signed.study.data_set != self._inputs.site.data_set.name:
            raise ApprovalMissing(
                f"study '{signed.study.name}' was approved for data set '{signed.study.data_set}', which pays for it",
                got=f"data set '{self._inputs.site.data_set.name}' in site.toml",
                next_step="Correct site.toml, or withdraw the study.",
            )
        approval, inputs = self._ledger.account.approved.get(digest), self._inputs
        data_set = inputs.site.data_set
        if approval is None:
            raise ApprovalMissing(f"study '{signed.study.name}' is not approved here", next_step="Approve it first.")
        if approval.sides != sides_asked(signed.study, data_set, inputs.split_key):
            raise ApprovalMissing(
                f"study '{signed.study.name}' was approved with other patients on its two sides",
                got="another split key, patient column or split column than at approval",
                next_step="Put split_key, patient_column and split_column in site.toml back as they were.",
            )
        self.signed[digest] = signed
        if isinstance(signed, SignedSearch):
            self._prepare_search(signed.study)
            return signed.study
        # Whoever withdrew the consent is in no row of the table, whatever the index still says.
        table = rows_of_cohort(self._table, signed.study, data_set.patient_column, inputs.patient_facts)
        training, held_out = prepare_records(
            table, signed.study, data_set.patient_column, inputs.split_key, data_set.split_column, strict=False
        )
        self.records[digest] = {"training": training, "held-out": held_out}
        self.versions[digest] = f"{self.data_version} {self._mark_of(training, held_out)}"
        self._warm_up(signed.study)
        return signed.study

    def _prepare_search(self, study: SearchStudy) -> None:
        """Take the codes of all patients who did not withdraw their consent, from the index."""
        marks, forgotten = self._inputs.marks, self._forgotten
        facts = (each for each in self._inputs.patient_facts() if marks.of(each.patient) not in forgotten)
        coded = CodedPatients.of(facts, study.counts.most_codes_of_a_patient)
        mark = hmac.new(self._inputs.naming_secret, b"fedhealth/coded-patients", hashlib.sha256)
        mark.update(repr(coded.codes).encode())
        for part in (coded.starts, coded.holders, coded.birth_years, coded.sexes):
            mark.update(repr((part.shape, part.dtype.str)).encode())
            mark.update(np.ascontiguousarray(part).data)
        self.coded[study.digest] = coded
        self.versions[study.digest] = f"{self.data_version} {mark.hexdigest()}"

    def _warm_up(self, study: Study) -> None:
        """Compute each step once on made-up records, so that no first reply is late."""
        records = made_up_records(study, self._inputs.site.data_set.declared_patients)
        streams = partial(SiteNoiseSecret(secrets.token_bytes(SECRET_BYTES)).stream, "warm-up")
        for name, step in plan_study(study).items():
            self._compute[name](step, np.zeros(step.input_length), records, streams)

    def _mark_of(self, *sides: Records) -> str:
        """Return a keyed fingerprint of what is computed on.

        It covers what a table only points to, and whatever turns cells into numbers: the same noise on two sums would
        tell their difference.
        """
        mark = hmac.new(self._inputs.naming_secret, b"fedhealth/records", hashlib.sha256)
        for side in sides:
            for part in (side.features, side.labels, side.patients):
                mark.update(repr((part.shape, part.dtype.str)).encode())
                mark.update(np.ascontiguousarray(part).data)
        return mark.hexdigest()

    def _note_data_version(self, members: NDArray[np.uint64]) -> str:
        """Return the data set's version, counter and keyed fingerprint, and journal it when it is new.

        It covers whatever at this site decides a sum beside study and input: the table without the patients who
        withdrew their consent, which column names the patient, the split, and the versions of what computes and on
        which device, because another one may round another last bit: the same noise on two sums would tell their
        difference.
        """
        inputs, data_set = self._inputs, self._inputs.site.data_set
        read = (data_set.name, self._table.columns, self._table.rows, data_set.patient_column, inputs.split_key)
        content = (*read, data_set.split_column, *_versions(), inputs.device)
        mark = hmac.new(inputs.naming_secret, repr(content).encode(), hashlib.sha256).hexdigest()
        versions = [note for note in self._ledger.journal() if note.kind == "data"]
        if not versions or versions[-1].content != mark:
            number = len(versions) + 1
            digest = inputs.members.record(number, members)
            versions.append(DataNote(version=number, content=mark, members=digest, at=self._clock.unix_ms()))
            self._ledger.note(versions[-1])
        return f"{versions[-1].version} {mark}"


@lru_cache(maxsize=1)
def _versions() -> tuple[str, ...]:
    """Return the versions of what computes, blank where it is not installed; they cannot change while it is loaded."""
    return tuple(_version_of(package) for package in _COMPUTING)


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
