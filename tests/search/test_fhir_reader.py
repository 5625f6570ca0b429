"""FHIR R4 files, read as the records and texts of patients, whatever order and form they come in."""

import base64
import json
from datetime import date

import pytest

from fedhealth.search.documents import Document
from fedhealth.search.readers.fhir import read_fhir
from fedhealth.search.search_file import FhirFiles

ICD, ATC = "http://hl7.org/fhir/sid/icd-10", "http://www.whocc.no/atc"


@pytest.fixture
def read(tmp_path):
    """Write FHIR files and read them; return documents by key, and problems."""

    def reading(files, **options):
        (tmp_path / "fhir").mkdir(exist_ok=True)
        for name, content in files.items():
            text = content if isinstance(content, str) else json.dumps(content)
            (tmp_path / "fhir" / name).write_text(text)
        source = FhirFiles(name="his", reader="fhir", path="fhir", **options)
        found = list(read_fhir(source, tmp_path / "fhir"))
        problems = [each for each in found if not isinstance(each, Document)]
        return {each.key: each for each in found if isinstance(each, Document)}, problems

    return reading


def bundle(*resources, urls=()):
    entries = [{"resource": resource} for resource in resources]
    for entry, url in zip(entries, urls, strict=False):
        entry["fullUrl"] = url
    return {"resourceType": "Bundle", "type": "collection", "entry": entries}


def coded(text, system=None, code=None):
    return {"text": text} | ({"coding": [{"system": system, "code": code}]} if system else {})


PATIENT = {
    "resourceType": "Patient",
    "id": "1",
    "gender": "female",
    "birthDate": "1960-06-15",
    "identifier": [{"system": "urn:mrn", "value": "M-77"}, {"system": "urn:other", "value": "x"}],
}
STAY = {
    "resourceType": "Encounter",
    "id": "e1",
    "subject": {"reference": "Patient/1"},
    "period": {"start": "2024-05-31T10:00:00Z"},
    "type": [coded("Cardiology stay")],
    "reasonCode": [coded("Chest pain", ICD, "R07.4")],
}


def of_stay(kind, **fields):
    here = {"subject": {"reference": "Patient/1"}, "encounter": {"reference": "Encounter/e1"}}
    return {"resourceType": kind} | here | fields


def state(name, code):
    return {name: {"coding": [{"code": code}]}}


def test_a_stay_is_one_record_with_all_that_was_recorded_in_it(read):
    level = {"value": 812, "unit": "ng/l"}
    found, problems = read(
        {
            "a.json": bundle(
                of_stay("Observation", code=coded("Troponin T"), valueQuantity=level, interpretation=[coded("High")]),
                of_stay("Condition", code=coded("Acute myocardial infarction", ICD, "I21.9")),
                of_stay("MedicationRequest", medicationCodeableConcept=coded("Aspirin", ATC, "B01AC06")),
                of_stay("Procedure", code=coded("Coronary angiography")),
                STAY,
                PATIENT,
            )
        }
    )
    (record,) = found.values()
    assert record.text.splitlines() == [
        "Chest pain",
        "Conditions:",
        "Acute myocardial infarction (I21.9).",
        "Procedures:",
        "Coronary angiography.",
        "Medications:",
        "Aspirin (B01AC06).",
        "Observations:",
        "Troponin T: 812 ng/l (High).",
    ]
    assert (record.patient, record.sex, record.age, record.kind) == ("1", "female", 63, "record")  # 64 on 15 June
    assert (record.title, record.date) == ("Cardiology stay", date(2024, 5, 31))
    assert {code.value for code in record.codes} == {"R07.4", "I21.9", "B01AC06"}
    assert problems == []


def test_what_is_refuted_past_supposed_or_not_done_reads_so_and_the_first_and_last_state_no_code(read):
    embolism = coded("Pulmonary embolism", ICD, "I26.9")
    found, _ = read(
        {
            "a.json": bundle(
                PATIENT,
                STAY,
                of_stay("Condition", code=embolism, **state("verificationStatus", "refuted")),
                of_stay("Condition", code=coded("Asthma", ICD, "J45.9"), **state("clinicalStatus", "resolved")),
                of_stay("Condition", code=coded("Sepsis"), **state("verificationStatus", "provisional")),
                of_stay("Condition", code=coded("Typing error"), **state("verificationStatus", "entered-in-error")),
                of_stay("Procedure", code=coded("Biopsy", ICD, "Z01.8"), status="not-done"),
                of_stay("MedicationStatement", medicationCodeableConcept=coded("Warfarin"), status="not-taken"),
            )
        }
    )
    (record,) = found.values()
    lines = record.text.splitlines()
    assert "No pulmonary embolism." in lines
    assert "History of asthma (J45.9)." in lines
    assert "Suspected sepsis." in lines
    assert "Not done: biopsy." in lines
    assert "Not taking warfarin." in lines
    assert "Typing error" not in record.text
    assert {code.value for code in record.codes} == {"R07.4", "J45.9"}


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("phlébite", "Pas de phlébite."),
        ("Embolie pulmonaire", "Pas d'embolie pulmonaire."),
        ("Hépatite", "Pas d'hépatite."),
        ("HTA", "Pas d'HTA."),
        ("Insuffisance de la valve", "Pas d'insuffisance de la valve."),
    ],
)
def test_french_records_have_french_words_around(read, said, line):
    refuted = of_stay("Condition", code=coded(said), **state("verificationStatus", "refuted"))
    found, _ = read({"a.json": bundle(PATIENT, STAY, refuted)}, language="fr")
    assert found["Encounter/e1"].text.splitlines() == ["Chest pain", "Diagnostics:", line]


def test_a_bulk_export_of_a_file_a_type_is_put_together_and_a_medication_is_found_in_its_own_file(read):
    pointing = of_stay("MedicationRequest", medicationReference={"reference": "Medication/m1"})
    lost = of_stay("MedicationAdministration", medicationReference={"reference": "Medication/none"})
    del lost["encounter"]
    lost["context"] = {"reference": "Encounter/e1"}
    files = {
        "Encounter.ndjson": json.dumps(STAY),
        "MedicationRequest.ndjson": json.dumps(pointing) + "\n" + json.dumps(lost),
        "Patient.ndjson": json.dumps(PATIENT) + "\n{broken\n",
        "Medication.ndjson": json.dumps(
            {"resourceType": "Medication", "id": "m1", "code": coded("Heparin", ATC, "B01AB01")}
        ),
    }
    found, problems = read(files)
    assert found["Encounter/e1"].text.splitlines()[-1] == "Heparin (B01AB01)."
    assert {(each.place, each.what, each.level) for each in problems} == {
        ("Patient.ndjson line 2", "no JSON in UTF-8", "left out"),
        ("MedicationRequest.ndjson line 2", "the medication that it names is not there", "noted"),
    }


def test_references_by_the_urls_of_a_bundle_are_followed_and_an_identifier_names_the_patient(read):
    stay = STAY | {"subject": {"reference": "urn:uuid:aaa"}}
    finding = of_stay("Condition", code=coded("Gout")) | {
        "subject": {"reference": "urn:uuid:aaa"},
        "encounter": {"reference": "https://his.example/fhir/Encounter/e1"},
    }
    by_number = of_stay("Condition", code=coded("Otitis")) | {
        "subject": {"identifier": {"system": "urn:mrn", "value": "M-78"}},
        "encounter": {},
    }
    urls = ("urn:uuid:aaa", "https://his.example/fhir/Encounter/e1")
    found, problems = read(
        {"a.json": bundle(PATIENT, stay, finding, by_number, urls=urls)}, patient_identifier="urn:mrn"
    )
    assert {(each.patient, each.text.splitlines()[-1]) for each in found.values()} == {
        ("M-77", "Gout."),
        ("M-78", "Otitis."),
    }
    assert problems == []


def attached(text, kind="text/plain", encoding="utf-8"):
    return {"attachment": {"contentType": kind, "data": base64.b64encode(text.encode(encoding)).decode()}}


def test_reports_letters_and_compositions_are_documents_of_their_own(read):
    page = '<div xmlns="http://www.w3.org/1999/xhtml"><p>No <b>pneumothorax</b>.</p>'
    page += "<table><tr><td>pH</td><td>7.4</td></tr></table></div>"
    sections = [
        {
            "title": "History",
            "text": {"div": "<div>Diabetes.</div>"},
            "section": [{"title": "Family", "text": {"div": "<div>Gout.</div>"}}],
        }
    ]
    found, problems = read(
        {
            "a.json": bundle(
                PATIENT,
                STAY,
                of_stay(
                    "DiagnosticReport",
                    id="r1",
                    code=coded("Chest X-ray"),
                    text={"div": page},
                    conclusion="Normal.",
                    conclusionCode=[coded("x", ICD, "R91")],
                    effectiveDateTime="2024-06-01",
                ),
                of_stay(
                    "DocumentReference",
                    id="d1",
                    description="Discharge",
                    content=[attached("Sortie à domicile.", encoding="cp1252")],
                    context={"encounter": [{"reference": "Encounter/e1"}]},
                    date="2024-06-02T08:00:00Z",
                ),
                of_stay("DocumentReference", id="d2", content=[attached("%PDF", "application/pdf")]),
                of_stay("Composition", id="c1", title="Summary", section=sections),
            )
        }
    )
    texts = {key: each.text for key, each in found.items()}
    assert texts["DiagnosticReport/r1"] == "No pneumothorax.\npH 7.4\nNormal."
    assert texts["DocumentReference/d1"] == "Sortie à domicile.\nDischarge"
    assert texts["Composition/c1"] == "History:\nDiabetes.\nFamily:\nGout."
    assert [found[key].date for key in ("DiagnosticReport/r1", "Composition/c1")] == [
        date(2024, 6, 1),
        date(2024, 5, 31),
    ]
    assert [code.value for code in found["DiagnosticReport/r1"].codes] == ["R91"]
    assert {(each.place, each.level) for each in problems} == {
        ("a.json entry 4", "noted"),
        ("a.json entry 5", "noted"),
        ("a.json entry 5", "left out"),
    }


def test_a_long_stay_is_several_documents_and_a_repeated_value_stands_once(read):
    beats = [of_stay("Observation", code=coded("Heart rate"), valueQuantity={"value": 80}) for _ in range(50)]
    notes = [of_stay("Observation", code=coded("Note"), valueString=f"{number} " + "x" * 50_000) for number in range(9)]
    found, _ = read({"a.json": bundle(PATIENT, STAY, *beats, *notes)})
    assert set(found) == {"Encounter/e1", "Encounter/e1/2", "Encounter/e1/3"}
    assert found["Encounter/e1"].text.count("Heart rate") == 1
    assert "".join(each.text for each in found.values()).count("Note: ") == 9
    assert all(each.text.startswith("Observations:") for key, each in found.items() if key != "Encounter/e1")


@pytest.mark.parametrize(
    ("content", "place", "what"),
    [
        ("{broken", "a.json", "no JSON"),
        ("[" * 100_000, "a.json", "no JSON"),
        ("[]", "a.json", "no JSON object"),
        ({"no": "type"}, "a.json", "no FHIR resource"),
        ({"resourceType": "Bundle", "entry": [{"request": {}}]}, "a.json entry 1", "no resource"),
        (bundle(STAY | {"id": "e2", "subject": {"reference": "#p"}}), "a.json entry 1", "no patient"),
    ],
    ids=["broken", "deep", "list", "none", "empty", "nobody"],
)
def test_a_broken_bundle_is_named_and_the_rest_goes_on(read, content, place, what):
    found, (problem,) = read({"a.json": content, "b.json": bundle(PATIENT, STAY)})
    assert problem.place == place
    assert what in problem.what
    assert list(found) == ["Encounter/e1"]


def test_parts_of_another_form_are_as_if_they_were_not_there(read):
    odd = [1, "x", None, True, {"coding": "x"}, {"coding": [1]}, {"text": {"a": 1}}, [[]]]
    resources = [of_stay("Condition", code=each, onsetDateTime=each, verificationStatus=each) for each in odd]
    resources += [
        of_stay("Observation", code=coded("pH"), valueQuantity=each, component=each, note=each) for each in odd
    ]
    resources += [of_stay("DiagnosticReport", presentedForm=each, text=each, conclusion=each) for each in odd]
    resources += [of_stay("DocumentReference", content=each, subject=each, date=each) for each in odd]
    resources += [of_stay("Composition", section=each, id=each) for each in odd]
    resources += [of_stay("MedicationRequest", medicationReference=each, contained=each) for each in odd]
    found, _ = read({"a.json": bundle(PATIENT | {"gender": [], "birthDate": 5}, STAY, *resources)})
    assert found["Encounter/e1"].text.startswith("Chest pain")
