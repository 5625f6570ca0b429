"""A study of those whom a count counted: found in the index, trained on their rows alone, silent about each of them."""

from datetime import date
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from small_study import PROTOCOL, protocol

from fedhealth.errors import ApprovalMissing, ConfigInvalid, DataUnusable
from fedhealth.learning.draft import EXAMPLE, draft_protocol
from fedhealth.link.frames import NeedWitness
from fedhealth.privacy.journal import ConsentNote
from fedhealth.records.marks import PatientMarks
from fedhealth.records.table import read_table
from fedhealth.search.coded_patients import CodedPatients, PatientFacts
from fedhealth.search.documents import Code, Document, ReadDocument
from fedhealth.search.index import SearchIndex
from fedhealth.simulation.hospitals import Split, split_table
from fedhealth.site.data_set import check_data_set
from fedhealth.study.coded_cohort import CodedCohort, cohort_toml, load_cohort
from fedhealth.study.count_query import count_query
from fedhealth.study.protocol import Study, load_study

QUARTER = "2023-Q4"
"""In which the gate of these tests lives."""
QUERY = count_query(QUARTER, ("icd10:G20",), ("icd10:F03",), (60, 80), "female")
FACTS = [
    PatientFacts(
        patient=f"p{number}",
        codes=frozenset(["icd10:G20", *(["icd10:F03"] if number % 5 == 0 else [])] if number % 2 == 0 else []),
        birth_year=1950 if number < 16 else 1900,
        sex="female",
    )
    for number in range(24)
]
# Even and no multiple of 5, 73 years old in 2023: 2 4 6 8 12 14.
COHORT = {"p2", "p4", "p6", "p8", "p12", "p14"}


def study_of(query=QUERY, **parts):
    return protocol(cohort=None) if query is None else Study.model_validate(PROTOCOL | _cohort(query, **parts))


def _cohort(query, **parts):
    return {"cohort": {"query": query.model_dump(mode="json"), **parts}}


def ages_looked_at(here):
    """Return the ages in the records that a gate computes on; the table says that patient n is 20 + n."""
    sides = here.gate._prepared.records[here.study.digest]
    return sorted(round(50 * (1 + age)) for side in sides.values() for age in side.features[:, 0])


def test_a_gate_computes_on_those_alone_whom_the_same_query_counts(hospital):
    here = hospital(study=study_of(), facts=FACTS)
    assert ages_looked_at(here) == sorted(20 + int(patient[1:]) for patient in COHORT)
    assert len(ages_looked_at(here)) == CodedPatients.of(FACTS, 100).count(QUERY)
    assert here.ask()[0].kind == "release"


def test_of_each_patient_as_many_codes_are_looked_at_as_when_they_were_counted(hospital):
    # Of p0, p10 and p20 with two codes the first alone, in their order, is F03: so none of them has G20; and of whom
    # the one code is G20, it is the first.
    here = hospital(study=study_of(count_query(QUARTER, ("icd10:G20",)), most_codes_of_a_patient=1), facts=FACTS)
    assert ages_looked_at(here) == [22, 24, 26, 28, 32, 34, 36, 38, 42]


def test_whoever_withdrew_the_consent_is_in_no_cohort_though_the_index_still_says_so(hospital):
    here = hospital(study=study_of(), facts=FACTS)
    marks = PatientMarks.under(bytes(32), "ward", "id")
    mark = {"scheme": marks.scheme, "mark": marks.of("p4")}
    here.ledger.note(ConsentNote(kind="consent-withdrawn", data_set="ward", by="test", at=1, **mark))
    here.reopen()
    assert 24 not in ages_looked_at(here) and len(ages_looked_at(here)) == len(COHORT) - 1


def test_another_index_is_another_noise_and_the_same_one_is_the_same(hospital):
    # The step releases noise alone: equal noise under two cohorts would show the difference of two sums.
    def said(name, facts):
        return hospital(name, study=study_of(), facts=facts).ask()[1]

    assert said("one", FACTS) == said("two", FACTS) != said("three", FACTS[:4] + FACTS[5:])


def told(here):
    """Return all that the other side sees of a run, but for the noised numbers."""
    seen = []
    for step, number in (("train", 1), ("train", 1), ("train", 2), ("train", 9), ("evaluate", 1)):
        reply = here.send(here.question(step, number))
        while isinstance(reply[0], NeedWitness):
            seen.append(("need-witness", here.entries))
            reply = here.send(here.witnessed())
        header, body, seconds = reply
        seen.append((header.kind, getattr(header, "code", None), len(body), seconds, here.entries))
    return seen


NUMBERS = count()
CODES = st.sets(st.sampled_from(("icd10:G20", "icd10:F03", "atc:N04BA02"))) | st.just({"icd10:G20"})
FACT = st.tuples(CODES, st.sampled_from((1950, 1943, 1900, None)), st.sampled_from(("female", "female", "male", None)))
MEMBER = ({"icd10:G20"}, 1950, "female")


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(facts=st.lists(FACT, max_size=24), one=st.integers(0, 23), becomes=st.none() | FACT)
@example(facts=[MEMBER], one=0, becomes=None)
@example(facts=[MEMBER, MEMBER], one=1, becomes=({"icd10:F03"}, None, None))
def test_a_gate_says_the_same_whatever_the_index_says_of_one_patient(hospital, facts, one, becomes):
    def people(*left_out):
        return [
            PatientFacts(f"p{number}", frozenset(codes), born, sex)
            for number, (codes, born, sex) in enumerate(facts)
            if number not in left_out
        ]

    other = people(one) + ([PatientFacts(f"p{one}", frozenset(becomes[0]), *becomes[1:])] if becomes else [])
    with_and_without = []
    for indexed in (people(), other):
        here = hospital(f"hospital-{next(NUMBERS)}", study=study_of(), facts=indexed)
        with_and_without.append(told(here))
    assert with_and_without[0] == with_and_without[1]
    assert {kind for kind, *_ in told(here)} >= {"release", "refused"}


# What the administrator sees


def index_of(state, facts):
    with SearchIndex.open(state.index, create=True) as index:
        letters = (
            Document(
                key=each.patient,
                patient=each.patient,
                kind="letter",
                title="A letter",
                text="A letter.",
                date=date(2023, 1, 1),
                age=2023 - each.birth_year,
                sex=each.sex,
                codes=tuple(Code(*code.split(":")) for code in sorted(each.codes)),
                source="letters",
            )
            for each in facts
        )
        index.add(letters, lambda _: ReadDocument("en", (), (), ()))


def test_an_administrator_sees_how_many_are_in_the_cohort_and_who_of_them_lacks_rows(ward, make_csv, steps):
    here = ward(make_csv(), least=1)
    index_of(here.state, [*FACTS, PatientFacts("elsewhere", frozenset({"icd10:G20"}), 1950, "female")])
    study = study_of(count_query(QUARTER, ("icd10:G20",)))  # of the 24, every second one
    _, seen = here.approve(study, steps["noise_only"])
    assert sum(seen.patients.values()) == 12
    what = "13 of 25 patients in the index are in the study's cohort by codes; 1 of them without a row in the table"
    assert any(warning.startswith(what) for warning in seen.warnings)
    _, problems = check_data_set(here.folder, study, here.state.index)
    assert any(each.what == what for each in problems)


def test_without_an_index_and_before_its_quarter_a_cohort_cannot_be_approved(ward, make_csv, steps):
    here = ward(make_csv())
    with pytest.raises(DataUnusable, match="has no index"):
        here.approve(study_of(), steps["noise_only"])
    with pytest.raises(ApprovalMissing, match="quarter that has not come"):
        here.approve(study_of(count_query("2099-Q1", ("icd10:G20",))), steps["noise_only"])
    with pytest.raises(ConfigInvalid, match="chosen by codes"):
        check_data_set(here.folder, study_of(), None)
    _, problems = check_data_set(here.folder, study_of(), here.state.index)
    assert any(each.level == "error" and "no index" in each.what for each in problems)


@pytest.mark.parametrize("query", [QUERY, count_query(QUARTER, ("atc:N04BA",))], ids=["all parts", "one part"])
def test_a_cohort_file_and_a_draft_hold_the_query_as_it_was_asked(tmp_path, query):
    cohort = CodedCohort(query=query, most_codes_of_a_patient=7)
    (tmp_path / "cohort.toml").write_text(cohort_toml(cohort))
    assert load_cohort(tmp_path / "cohort.toml") == cohort
    (tmp_path / "draft.toml").write_text(draft_protocol("tremor", "diagnosis", "ward", EXAMPLE, cohort))
    assert load_study(tmp_path / "draft.toml").cohort == cohort


def test_a_study_without_a_cohort_is_the_study_that_it_was():
    assert "cohort" not in study_of(None).model_dump_json()
    assert study_of(None).digest == protocol().digest != study_of().digest


def test_a_cohort_by_codes_is_not_simulated_from_a_table(tmp_path, make_csv):
    file = tmp_path / "patients.csv"
    file.write_text(make_csv())
    with pytest.raises(ConfigInvalid, match="chosen by codes"):
        split_table(read_table(file, strict=True), study_of(), Split("dose"))
