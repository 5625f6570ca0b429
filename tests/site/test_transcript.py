"""Rule 0: what a gate says must be the same with and without one patient, but for the bytes of noised releases.

Two gates with the same secrets, one on D and one on D without one patient, are asked the same questions. Their
transcripts (kinds, sizes, codes, times and ledger sizes of every reply) must be equal, for any weights at all. That the
comparison has teeth is shown by planted violations, each of which it must find.
"""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhealth.learning.evaluation import lines_of
from fedhealth.learning.plan import encode_weights, plan_study
from fedhealth.learning.steps import STEPS
from fedhealth.link.frames import (
    Answer,
    AskHead,
    NeedWitness,
    Outgoing,
    PutStudy,
    ReleaseReply,
    Witnessed,
    pack,
    unpack_reply,
)
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.privacy.copies import EntrySeal, page_of
from fedhealth.privacy.journal import ConsentNote
from fedhealth.records.marks import PatientMarks
from fedhealth.records.split import is_held_out
from fedhealth.records.table import Table, read_table
from fedhealth.simulation.gates import SimulatedSite, open_gate
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock
from fedhealth.study.protocol import Study, load_study
from fedhealth.study.signature import sign_study
from fedhealth.training.per_patient import make_deterministic

ROOT = Path(__file__).resolve().parents[2]
STUDY = load_study(ROOT / "protocols" / "heart-disease-diagnosis.toml")
# As much as a protocol can ask: conditions, an endpoint in words, scores, and two columns of groups.
RICH = Study.model_validate(
    STUDY.model_dump()
    | {
        "max_records_per_patient": 2,
        "include": [
            {"kind": "number", "column": "age", "range": [30, 80]},
            {"kind": "category", "column": "cp", "any_of": ["typical angina", "non-anginal", "asymptomatic"]},
        ],
        "endpoint": {
            "kind": "category",
            "column": "num",
            "positive_categories": ["1", "2", "3", "4"],
            "negative_categories": ["0"],
            "positive": "is ill",
        },
        "evaluation": {
            "held_out_fraction": STUDY.evaluation.held_out_fraction,
            "table": 0.3,
            "scores": {"share": 0.3, "bins": 6},
            "subgroups": {"share": 0.4, "columns": ["cp", "sex"]},
        },
    }
)
SAMPLED = STUDY.model_copy(update={"training": STUDY.training.model_copy(update={"sampling_rate": 0.1})})
SITE = load_site_file(ROOT / "sites" / "switzerland")
TABLE = read_table(SITE.data_set.file, strict=True)
SPLIT_KEY = bytes(range(32))
WIDTH = plan_study(STUDY)["train"].input_length
RESEARCHER, WITNESS = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
PATIENT_COLUMN = TABLE.columns.index(SITE.data_set.patient_column)


class SteppingClock:
    """Advances a millisecond at every look, so that a time that depends on what is done can be seen."""

    def __init__(self):
        self.looks = itertools.count()

    def clock(self):
        return Clock(monotonic=lambda: next(self.looks) / 1000, unix_ms=lambda: 1_700_000_000_000)


def patient_on(side_held_out):
    """Return the first patient on a side of the split."""
    return next(
        row[PATIENT_COLUMN]
        for _, row in TABLE.rows
        if is_held_out(SPLIT_KEY, row[PATIENT_COLUMN], STUDY.evaluation.held_out_fraction) == side_held_out
    )


def without(table: Table, patient: str) -> Table:
    return replace(table, rows=tuple((line, row) for line, row in table.rows if row[PATIENT_COLUMN] != patient))


def with_cells(table: Table, patient: str, cells: dict[str, str]) -> Table:
    """Give one patient these cells: the patient's records are as an attacker would wish them."""
    places = {table.columns.index(column): cell for column, cell in cells.items()}
    return replace(
        table,
        rows=tuple(
            (line, tuple(places.get(i, cell) for i, cell in enumerate(row)) if row[PATIENT_COLUMN] == patient else row)
            for line, row in table.rows
        ),
    )


def consent_withdrawn(patient):
    marks = PatientMarks.under(bytes(32), SITE.data_set.name, SITE.data_set.patient_column)
    return ConsentNote(
        kind="consent-withdrawn",
        data_set=SITE.data_set.name,
        scheme=marks.scheme,
        mark=marks.of(patient),
        by="ada",
        at=1,
    )


def transcript(table, questions, folder, compute=STEPS, gate_class=Gate, forgotten=(), study=STUDY):
    """Return what the other side sees of a gate that is asked these (step, round, input).

    The gate starts again after the first of the questions, and by then these patients have withdrawn their consent.
    """
    ticking = SteppingClock()
    site = SimulatedSite(SITE, table, SPLIT_KEY, noise_seed=7)
    if isinstance(compute, type):
        compute = compute(ticking)
    gate, ledger = open_gate(site, study, folder, RESEARCHER, WITNESS, ticking.clock(), compute)
    gate.__class__ = gate_class
    key = ledger._logs.key.public_key()
    seen = []

    def say(frame):
        before = next(ticking.looks)
        outgoing = gate.handle(frame)
        header, body = unpack_reply(outgoing.frame)
        size = open_checkpoint(ledger.head(), SITE.id, key).size
        code = getattr(header, "code", None)
        seen.append(
            (header.kind, code, len(outgoing.frame), len(body), round(outgoing.leaves_at - before / 1000, 6), size)
        )
        return header

    make_deterministic()  # as a gate's process is
    try:
        signed = sign_study(study, RESEARCHER)
        say(pack(PutStudy(), signed))
        for asked, (step, number, data) in enumerate(questions):
            if asked == 1:
                for patient in forgotten:
                    ledger.note(consent_withdrawn(patient))
                gate = gate_class(gate._inputs, ledger, compute, ticking.clock())
                gate.prepare(signed)
            header = say(pack(Answer(study=study.digest, step=step, round=number), data))
            while isinstance(header, NeedWitness):
                head = open_checkpoint(header.note, SITE.id, key)
                said = Receipt(site=SITE.id, size=head.size, root=head.root, challenge=header.challenge)
                receipt = sign_receipt(said, WITNESS)
                header = say(pack(Witnessed(study=study.digest, receipt=receipt)))
            if isinstance(header, ReleaseReply):  # asked again, the answer must be no different either
                say(pack(Answer(study=study.digest, step=step, round=number), data))
            header = say(pack(AskHead(since=1, copies_from=0)))
        # Last, the coordinator says that this ledger is an older copy: the gate is held from here on.
        said = Receipt(site=SITE.id, size=10**6, root="0" * 64, challenge=header.challenge)
        seal = EntrySeal(bytes(32), SITE.id)  # under the simulation's secret
        page = page_of((place, seal.seal(place, b"{}")) for place in (ledger.size, ledger.size + 1))
        say(pack(Witnessed(study=None, receipt=sign_receipt(said, WITNESS)), page))
        for frame in (pack(PutStudy(), signed), pack(Answer(study=study.digest, step="train", round=1), data)):
            say(frame)
        say(pack(AskHead(since=1, copies_from=0)))
    finally:
        torch.set_flush_denormal(False)  # hypothesis needs subnormals to make them
        ledger.close()
    return seen


def assert_indistinguishable(table, other, questions, **planted):
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        assert transcript(table, questions, Path(one), **planted) == transcript(other, questions, Path(two), **planted)


EXTREMES = [0.0, 1.0, -1.0, 1e308, -1e308, 1.7e308, 5e-324, -5e-324, 2.3e-308, 1e154, 1e-154, 37.0, 710.0]
weights = st.lists(st.one_of(st.sampled_from(EXTREMES), st.floats(width=64)), min_size=WIDTH, max_size=WIDTH).map(
    lambda values: encode_weights(np.array(values))
)
malformed = st.binary(max_size=8 * WIDTH + 8)
question = st.tuples(
    st.sampled_from(["train", "train", "evaluate"]),
    st.integers(1, STUDY.training.rounds + 2),
    st.one_of(weights, malformed),
)
broken_cells = st.sampled_from(
    [{}, {"age": "text"}, {"chol": "1e308"}, {"num": "?!"}, {"age": "inf", "oldpeak": "-1e-320"}, {"sex": "\x00"}]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(question, min_size=1, max_size=6), st.booleans(), broken_cells)
def test_a_gate_says_the_same_with_and_without_one_patient(questions, held_out, cells):
    patient = patient_on(held_out)
    full = with_cells(TABLE, patient, cells)
    assert_indistinguishable(full, without(full, patient), questions)


def with_a_second_record(table: Table, patient: str) -> Table:
    """Give one patient each record twice."""
    again = [(10**6 + line, row) for line, row in table.rows if row[PATIENT_COLUMN] == patient]
    return replace(table, rows=(*table.rows, *again))


@settings(max_examples=15, deadline=None)
@given(
    st.lists(question, min_size=1, max_size=4),
    st.booleans(),
    st.one_of(
        broken_cells,
        # Alone in a group; outside the cohort; a word that the endpoint does not know.
        st.sampled_from([{"cp": "typical angina"}, {"age": "29"}, {"cp": "atypical angina"}, {"num": "5"}]),
    ),
)
def test_it_says_the_same_of_groups_scores_conditions_and_words(questions, held_out, cells):
    patient = patient_on(held_out)
    everybody = TABLE
    if cells == {"cp": "typical angina"}:
        for _, row in TABLE.rows:
            everybody = with_cells(everybody, row[PATIENT_COLUMN], {"cp": "asymptomatic"})
    full = with_a_second_record(with_cells(everybody, patient, cells), patient)
    assert_indistinguishable(full, without(full, patient), questions, study=RICH)


@settings(max_examples=12, deadline=None)
@given(st.lists(question, min_size=2, max_size=5), st.booleans())
def test_a_gate_says_the_same_whether_a_patient_withdrew_the_consent_or_not(questions, held_out):
    patient = patient_on(held_out)
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        kept = transcript(TABLE, questions, Path(one))
        assert transcript(TABLE, questions, Path(two), forgotten=[patient, "nobody"]) == kept


def test_the_transcripts_compared_hold_releases_of_both_steps_and_refusals():
    ordinary = encode_weights(np.zeros(WIDTH))
    with tempfile.TemporaryDirectory() as folder:
        seen = transcript(TABLE, [("train", 1, ordinary), ("evaluate", 1, ordinary), ("train", 1, b"")], Path(folder))
    kinds = [entry[0] for entry in seen]
    assert kinds == [
        "accepted",
        *("need-witness", "need-witness", "release", "release", "head"),  # the gate has just started
        *("need-witness", "need-witness", "release", "release", "head"),  # once more
        *("refused", "head"),
        *("head", "refused", "refused", "head"),  # held
    ]
    # A release leaves 20 ms after it was asked for, never earlier; what needs no patient leaves at once.
    assert [round(entry[4], 2) for entry in seen if entry[0] == "release"] == [0.02] * 4


def test_weights_that_overflow_for_one_patient_only_do_not_tell_whether_that_patient_is_there():
    # The classic oracle: only this patient's sum becomes infinite minus infinite.
    patient = patient_on(False)
    odd = with_cells(TABLE, patient, {"age": "80", "oldpeak": "-1", "trestbps": "180"})
    weights_ = np.full(WIDTH, 1.7e308)
    questions = [("train", number, encode_weights(weights_ * sign)) for number, sign in ((1, 1), (2, -1))]
    assert_indistinguishable(odd, without(odd, patient), questions)


# Planted violations: each is a mistake somebody could make, and the comparison must find it.


def raises_on_overflow(step, weights_, records, streams):
    with np.errstate(all="ignore"):
        scores = records.features @ weights_[:-1]
    if not np.all(np.isfinite(scores)):
        raise FloatingPointError("overflow")
    return STEPS[step.name](step, weights_, records, streams)


def tells_the_count_by_its_size(step, weights_, records, streams):
    payload, zeroed = STEPS[step.name](step, weights_, records, streams)
    return payload + bytes(records.patient_count), zeroed


def releases_groups_that_have_somebody(step, weights_, records, streams):
    payload, zeroed = STEPS[step.name](step, weights_, records, streams)
    start, end = next(line.inputs for line in lines_of(step.study) if line.name == "subgroup cp")
    empty = int((records.features[:, start:end].max(axis=0) == 0).sum())
    return payload[: len(payload) - 4 * 8 * empty], zeroed


def divides_by_the_size_of_a_group(step, weights_, records, streams):
    start, end = next(line.inputs for line in lines_of(step.study) if line.name == "subgroup cp")
    with np.errstate(all="raise"):
        1 / records.features[:, start:end].sum(axis=0)[[0, 2, 3]]
    return STEPS[step.name](step, weights_, records, streams)


class TakesTimePerPatient:
    def __init__(self, ticking):
        self.ticking = ticking

    def __getitem__(self, name):
        def compute(step, weights_, records, streams):
            for _ in range(25 * records.patient_count):
                next(self.ticking.looks)
            return STEPS[name](step, weights_, records, streams)

        return compute


class SendsTheJournalWithTheCopies(Gate):
    def handle(self, frame):
        reply = super().handle(frame)
        header, body = unpack_reply(reply.frame)
        lines = len(list(self._ledger.journal()))
        more = bytes(256 * lines) if header.kind == "head" else b""
        return Outgoing(pack(header, bytes(body) + more), reply.leaves_at)


class AlertsInTheLedger(Gate):
    def _alert(self, text):
        from fedhealth.privacy.entries import Withdrawn

        self._ledger.append(Withdrawn(study=STUDY.digest, by="nobody", at=0))
        return super()._alert(text)


OVERFLOW = [("train", 1, encode_weights(np.full(WIDTH, 1.7e308)))]
ORDINARY = [("train", 1, encode_weights(np.zeros(WIDTH)))]


@pytest.mark.parametrize("mistake", [releases_groups_that_have_somebody, divides_by_the_size_of_a_group])
def test_the_comparison_finds_a_mistake_about_a_group_of_one(mistake):
    patient, questions = patient_on(True), [("evaluate", 1, encode_weights(np.zeros(WIDTH)))]
    table = TABLE
    for number, (_, row) in enumerate(TABLE.rows):
        table = with_cells(table, row[PATIENT_COLUMN], {"cp": ("asymptomatic", "non-anginal")[number % 2]})
    table = with_cells(table, patient, {"cp": "typical angina"})
    with pytest.raises(AssertionError):
        assert_indistinguishable(
            table, without(table, patient), questions, study=RICH, compute={**STEPS, "evaluate": mistake}
        )
    assert_indistinguishable(table, without(table, patient), questions, study=RICH)


@pytest.mark.parametrize(
    ("name", "questions", "planted", "cells"),
    [
        ("an exception for one patient", OVERFLOW, {"compute": dict.fromkeys(STEPS, raises_on_overflow)}, None),
        (
            "a payload as long as the cohort",
            ORDINARY,
            {"compute": dict.fromkeys(STEPS, tells_the_count_by_its_size)},
            None,
        ),
        ("compute time that grows with patients", ORDINARY, {"compute": TakesTimePerPatient}, None),
        (
            "copies with lines of the journal",
            ORDINARY,
            {"gate_class": SendsTheJournalWithTheCopies},
            {"age": "text"},
        ),
        ("an alert that grows the ledger", ORDINARY, {"gate_class": AlertsInTheLedger}, {"age": "text"}),
    ],
)
def test_the_comparison_finds_a_planted_violation(name, questions, planted, cells):
    patient = patient_on(False)
    if name == "an exception for one patient":
        # Nobody else may overflow: everybody else's features are at the middle of their ranges.
        middle = {"age": "55", "trestbps": "135", "chol": "200", "thalch": "130", "oldpeak": "1"}
        blank = dict.fromkeys(("sex", "fbs", "exang", "cp", "restecg"), "")
        table = TABLE
        for _, row in TABLE.rows:
            table = with_cells(table, row[PATIENT_COLUMN], middle | blank)
        table = with_cells(table, patient, {"age": "80", "trestbps": "180", "chol": "300"})
    else:
        table = with_cells(TABLE, patient, cells or {})
    with pytest.raises(AssertionError):
        assert_indistinguishable(table, without(table, patient), questions, **planted)
    if name == "an exception for one patient":  # and the real gate passes on the very same question
        assert_indistinguishable(table, without(table, patient), questions)
