"""What an index says of each patient that may be counted, and the patients on which a count's time is measured."""

from datetime import date

import pytest

from fedhealth.search.coded_patients import CodedPatients, PatientFacts, made_up_patients, read_patient_facts
from fedhealth.search.documents import Code, Document, Mention, Passage, ReadDocument
from fedhealth.search.index import SearchIndex
from fedhealth.study.count_query import count_query, covers

TEXT = "Parkinson. No dementia. Mother had angina."


def document(key, patient="p1", **parts):
    values = {"kind": "letter", "title": "", "text": TEXT, "date": date(2026, 1, 1), "source": "letters"}
    return Document(key=key, patient=patient, **(values | parts))


def read(_document):
    mentions = (
        Mention(0, 9, Code("icd10", "G20"), "Parkinson", "affirmed"),
        Mention(14, 22, Code("icd10", "F03"), "dementia", "negated"),
        Mention(35, 41, Code("icd10", "I20"), "angina", "family"),
    )
    return ReadDocument("en", (), (Passage("x", 0, "", 0, len(TEXT), TEXT, ()),), mentions)


def facts_of(folder, *documents):
    with SearchIndex.open(folder / "index", create=True) as index:
        index.add(documents, read)
    return read_patient_facts(folder / "index")


def codes_with(facts, prefix):
    return {code for code in facts.codes if code.startswith(prefix)}


def test_a_patient_has_what_a_text_affirms_or_a_source_states_and_nothing_else(tmp_path):
    (patient,) = facts_of(tmp_path, document("a", codes=(Code("icd10", "E11.9"),)))
    assert {"icd10:G20", "icd10:E11.9"} <= patient.codes
    assert not codes_with(patient, "icd10:F") and not codes_with(patient, "icd10:I")


def test_an_article_is_of_no_patient(tmp_path):
    assert facts_of(tmp_path, document("a", patient=None, kind="article")) == ()


def test_a_site_without_an_index_has_nobody_to_count(tmp_path):
    assert read_patient_facts(tmp_path / "index") == ()


def test_the_last_document_that_states_an_age_or_a_sex_decides(tmp_path):
    (patient,) = facts_of(
        tmp_path,
        document("a", date=date(2026, 2, 1), age=80),
        document("b", date=date(2020, 1, 1), age=70, sex="male"),
        document("c", date=date(2026, 3, 1)),
        document("d", date=None, age=3, sex="female"),
    )
    assert (patient.birth_year, patient.sex) == (1946, "male")


def test_one_patient_under_a_key_with_spaces_around_it_counts_once(tmp_path):
    (patient,) = facts_of(tmp_path, document("a"), document("b", patient=" p1 ", codes=(Code("atc", "N04BA02"),)))
    assert patient.patient == "p1" and {"icd10:G20", "atc:N04BA02"} <= patient.codes


def test_national_codes_count_below_the_international_ones(tmp_path):
    patients = CodedPatients.of(facts_of(tmp_path, document("a", codes=(Code("icd10", "F10.0+0"),))), 100)
    assert patients.count(count_query("2026-Q4", ("icd10:F10.0",))) == 1


def test_codes_that_others_imply_take_no_room():
    facts = PatientFacts("p", frozenset({"icd10:I50", "icd10:I50.1", "atc:N", "atc:N04", "atc:N04BA02"}), None, None)
    patients = CodedPatients.of([facts], 2)
    for code in facts.codes:
        assert patients.count(count_query("2026-Q4", (code,))) == 1


@pytest.mark.parametrize("most_codes", [1, 7, 1000])
def test_the_time_of_a_count_is_measured_where_all_codes_are_looked_at_twice(most_codes):
    # More is not possible: within each list of a query no code covers another, so each looks at a code once at most.
    patients, asked = made_up_patients(3, most_codes)
    codes = [code for code in patients.codes for each in (*asked.all_of, *asked.none_of) if covers(each, code)]
    assert len(codes) == 2 * most_codes and len(set(codes)) == most_codes
    assert len(patients.holders) == 3 * most_codes
