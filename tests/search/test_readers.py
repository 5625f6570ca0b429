"""What a hospital has, read as documents; what cannot be read is named by its place, and the rest goes on."""

import json
import os
import sqlite3
from datetime import date

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import BasicTextSRStorage, CTImageStorage, ExplicitVRLittleEndian

from fedhealth.errors import ConfigInvalid
from fedhealth.search.documents import Code, Document
from fedhealth.search.readers.people import read_people
from fedhealth.search.readers.problem import Problem
from fedhealth.search.readers.sources import read_documents
from fedhealth.search.search_file import load_search_file


@pytest.fixture
def read(tmp_path):
    """Read the one source of a search file; return its documents and its problems."""

    def reading(text):
        (tmp_path / "search.toml").write_text(text)
        file = load_search_file(tmp_path)
        people = read_people(file.people, tmp_path) if file.people else {}
        found = list(read_documents(file.sources[0], tmp_path, people))
        return [each for each in found if isinstance(each, Document)], [
            each for each in found if isinstance(each, Problem)
        ]

    return reading


LETTERS = '[[sources]]\nname = "letters"\nreader = "text"\npath = "letters"\nnames = "{patient}/{date} {title}.txt"\n'


def letter(tmp_path, name, raw):
    path = tmp_path / "letters" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def test_a_text_file_is_a_letter_of_the_patient_that_its_path_names(read, tmp_path):
    letter(tmp_path, "p7/2024-05-31 Sortie.txt", "Insuffisance cardiaque.\r\nPas d'œdème.".encode())
    ((found,), problems) = read(LETTERS)
    assert (found.patient, found.date, found.title, found.kind) == ("p7", date(2024, 5, 31), "Sortie", "letter")
    assert found.text == "Insuffisance cardiaque.\nPas d'œdème."
    assert problems == []


@pytest.mark.parametrize(
    ("encoding", "name"),
    [
        ("cp1252", "Windows-1252"),
        ("cp850", "DOS code page 850"),
        ("mac_roman", "Mac Roman"),
        ("utf-16", "UTF-16"),
        ("utf-16-le", "UTF-16"),
        ("utf-16-be", "UTF-16"),
    ],
)
def test_an_old_encoding_is_told_by_its_letters_and_said(read, tmp_path, encoding, name):
    text = "Dyspnée à l'effort, fièvre élevée. Décès du père d'un infarctus à 60 ans."
    letter(tmp_path, "p7/2024 a.txt", text.encode(encoding))
    ((found,), (remark,)) = read(LETTERS)
    assert found.text == text
    assert (remark.level, remark.place) == ("noted", "p7/2024 a.txt")
    assert name in remark.what


def test_a_few_broken_bytes_of_utf_8_cost_those_letters_alone(read, tmp_path):
    letter(tmp_path, "p7/2024 a.txt", ("é" * 100).encode() + b"\xc3 fin")
    ((found,), (remark,)) = read(LETTERS)
    assert found.text == "é" * 100 + "\ufffd fin"
    assert remark.what == "read as UTF-8, 1 letters of it broken"


@pytest.mark.parametrize(
    ("name", "raw", "what"),
    [
        ("p7/2024 a.txt", "Больной жалуется на боль".encode("cp1251"), "encoding"),
        ("p7/2024 a.txt", bytes(range(256)) * 4, "encoding"),
        ("p7/2024 a.txt", b"\x01\x02\x03\x04" * 20, "encoding"),
        ("p7/2024 a.txt", b" \n\n ", "no text"),
        ("p7/2024 a.txt", b"", "no text"),
        ("p7/2024 a.txt", b"x" * 5_000_001, "5,000,001 characters"),
        ("p7/scan.txt", b"text", "whose it is"),
        ("p7/2024 a.pdf", b"text", "whose it is"),
    ],
    ids=["Cyrillic", "bytes", "controls", "blank", "empty", "long", "unnamed", "pdf"],
)
def test_what_is_no_document_is_named_and_the_rest_goes_on(read, tmp_path, name, raw, what):
    letter(tmp_path, name, raw)
    letter(tmp_path, "p8/2024 b.txt", b"fine")
    (found, (problem,)) = read(LETTERS)
    assert [each.text for each in found] == ["fine"]
    assert (problem.place, problem.level) == (name, "left out")
    assert what in problem.what


def test_a_report_of_200_mb_is_named_and_never_held(read, tmp_path):
    letter(tmp_path, "p7/2024 a.txt", b"")
    with (tmp_path / "letters" / "p7" / "2024 a.txt").open("wb") as file:
        file.truncate(200 * 10**6)
    (found, (problem,)) = read(LETTERS)
    assert found == []
    assert problem.what == "the file cannot be read: larger than 67,108,864 bytes"


def test_a_link_out_of_the_folder_and_a_pipe_are_not_read(read, tmp_path):
    letter(tmp_path, "p7/2024 a.txt", b"fine")
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "letters" / "p7" / "2024 b.txt").symlink_to(tmp_path / "secret")
    os.mkfifo(tmp_path / "letters" / "p7" / "2024 c.txt")
    (found, problems) = read(LETTERS)
    assert [each.text for each in found] == ["fine"]
    assert [each.place for each in problems] == ["p7/2024 b.txt", "p7/2024 c.txt"]


def test_signs_that_a_terminal_would_obey_are_no_part_of_a_document(read, tmp_path):
    letter(tmp_path, "p7/2024 a.txt", "fi\x1b[2Jn\x07 \u202egras\u202c e\u0301".encode())
    ((found,), _) = read(LETTERS)
    assert found.text == "fi [2Jn   gras  é"


REPORTS = (
    '[[sources]]\nname = "reports"\nreader = "table"\npath = "reports.csv"\npatient_column = "id"\n'
    'text_columns = ["findings", "conclusion"]\ntitle_column = "title"\ndate_column = "day"\nsex_column = "sex"\n'
    'age_column = "age"\ncodes = [{ column = "icd", system = "icd10" }]\n'
)


def test_a_row_is_a_report_with_what_its_columns_say(read, tmp_path):
    (tmp_path / "reports.csv").write_text(
        "id,title,day,sex,age,icd,findings,conclusion\n"
        'p1,Echo,2024-05-31 10:20:00,F,63,"i501; J18.9","No pericardial effusion.",\n'
    )
    ((found,), problems) = read(REPORTS)
    assert (found.patient, found.title, found.date) == ("p1", "Echo", date(2024, 5, 31))
    assert (found.sex, found.age) == ("female", 63)
    assert found.codes == (Code("icd10", "I50.1"), Code("icd10", "J18.9"))
    assert found.text == "findings: No pericardial effusion."
    assert problems == []


def test_rows_of_one_number_are_one_document_and_a_version_tells_codes_apart(read, tmp_path):
    rows = ["p1,7,413.9,9", "p1,7,I50.1,10", "p2,8,E11.9,10", "p1,7,I10,10"]
    (tmp_path / "diagnoses.csv").write_text("\n".join(["subject,stay,icd,version", *rows]))
    (found, _) = read(
        '[[sources]]\nname = "diagnoses"\nreader = "table"\nkind = "record"\npath = "diagnoses.csv"\n'
        'patient_column = "subject"\ndocument_column = "stay"\ntext_columns = ["icd"]\n'
        'codes = [{ column = "icd", system = "icd10", when_column = "version", when_value = "10" }]\n'
    )
    assert [(each.key, each.text) for each in found] == [("p1/7", "413.9\nI50.1\nI10"), ("p2/8", "E11.9")]
    assert [code.value for code in found[0].codes] == ["I50.1", "I10"]


def test_a_broken_row_of_a_table_is_named_by_its_line(read, tmp_path):
    (tmp_path / "reports.csv").write_bytes(
        b"id,title,day,sex,age,icd,findings,conclusion\np1,T,,,,,fine,\np2,T\n,T,,,,,nobody's,\n"
        b"p3,T,,,,,fi\xe8vre,\np4,T,,,,,\xf0\xe8\xf1\xea \xf0\xe8\xf1\xea,\np5,T,,,,,,\n"
    )
    (found, problems) = read(REPORTS)
    assert [(each.patient, each.text) for each in found] == [("p1", "findings: fine"), ("p3", "findings: fièvre")]
    assert {(each.place, each.level) for each in problems} == {
        ("line 3", "left out"),
        ("line 4", "left out"),
        ("line 5", "noted"),
        ("line 6", "left out"),
        ("line 7", "left out"),
    }


def test_a_source_that_cannot_be_read_at_all_is_one_problem(read, tmp_path):
    (tmp_path / "reports.csv").write_text("id,title\n1,2\n")
    (_, (problem,)) = read(REPORTS)
    assert (problem.level, "no column 'day'" in problem.what) == ("source", True)
    (tmp_path / "reports.csv").unlink()
    (_, (problem,)) = read(REPORTS)
    assert (problem.level, "there is no reports.csv" in problem.what) == ("source", True)


def test_a_database_is_asked_and_people_of_another_table_give_age_and_sex(read, tmp_path):
    with sqlite3.connect(tmp_path / "his.sqlite") as database:
        database.execute("CREATE TABLE notes (patient TEXT, day TEXT, body TEXT)")
        database.execute("INSERT INTO notes VALUES ('p1', '2013-06-01', 'Chest pain.')")
    database.close()
    (tmp_path / "patients.csv").write_text("subject_id,gender,anchor_age,anchor_year\np1,F,21,2013\n")
    ((found,), _) = read(
        '[[sources]]\nname = "notes"\nreader = "table"\npath = "his.sqlite"\nquery = "SELECT * FROM notes"\n'
        'patient_column = "patient"\ntext_columns = ["body"]\ndate_column = "day"\n'
        '[people]\npath = "patients.csv"\npatient_column = "subject_id"\nsex_column = "gender"\n'
        'age_column = "anchor_age"\nage_year_column = "anchor_year"\n'
    )
    assert (found.age, found.sex, found.text) == (21, "female", "Chest pain.")


ARTICLES = '[[sources]]\nname = "articles"\nreader = "articles"\npath = "articles.jsonl"\n'


def test_articles_are_of_no_patient_and_broken_lines_are_named(read, tmp_path):
    lines = [
        '{"pmid": 21645374, "title": "Lace plant", "abstract": "Cells die.", "year": "2011"}',
        "{broken",
        '["a list"]',
        '{"_id": "2", "text": ["One part.", "Another."]}',
        '{"id": "3"}',
    ]
    (tmp_path / "articles.jsonl").write_text("\n".join(lines))
    (found, problems) = read(ARTICLES)
    assert [(each.key, each.patient, each.text) for each in found] == [
        ("21645374", None, "Cells die."),
        ("2", None, "One part.\nAnother."),
    ]
    assert (found[0].title, found[0].date) == ("Lace plant", date(2011, 1, 1))
    assert [each.place for each in problems] == [f"articles.jsonl line {number}" for number in (2, 3, 5)]


def dicom(path, **tags):
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.SpecificCharacterSet = "ISO_IR 192"
    for name, value in tags.items():
        setattr(file, name, value)
    path.parent.mkdir(exist_ok=True)
    file.save_as(path, enforce_file_format=True)


def item(name, **tags):
    each, concept = Dataset(), Dataset()
    concept.CodeMeaning = name
    each.ConceptNameCodeSequence = Sequence([concept])
    for tag, value in tags.items():
        setattr(each, tag, value)
    return each


def test_dicom_is_a_document_a_study_and_one_a_structured_report(read, tmp_path):
    study = {"PatientID": "p1", "PatientSex": "M", "StudyDate": "20240531", "Modality": "CT", "StudyInstanceUID": "1.9"}
    for number in (1, 2):
        words = {"StudyDescription": "Scanner thoracique", "SeriesDescription": f"Série {number}"}
        dicom(tmp_path / "pacs" / f"{number}.dcm", PatientAge="063Y", **study, **words)
    finding = item("Finding", TextValue="No pleural effusion.")
    measured = Dataset()
    measured.NumericValue, unit = "12", Dataset()
    unit.CodeValue = "mm"
    measured.MeasurementUnitsCodeSequence = Sequence([unit])
    report = item("Radiology report", ContentSequence=Sequence([finding, item("Nodule")]))
    report.ContentSequence[1].ContentSequence = Sequence([item("Diameter", MeasuredValueSequence=Sequence([measured]))])
    tags = {each.keyword: each.value for each in report}
    dicom(tmp_path / "pacs" / "sr.dcm", SOPInstanceUID="1.5", SOPClassUID=BasicTextSRStorage, **study, **tags)
    dicom(tmp_path / "pacs" / "silent.dcm", PatientID="p2", StudyInstanceUID="1.8", StudyDate="20240531")
    (tmp_path / "pacs" / "notes.dcm").write_bytes(b"not DICOM at all")
    (found, problems) = read('[[sources]]\nname = "pacs"\nreader = "dicom"\npath = "pacs"\n')
    texts = {each.title: each.text for each in found}
    assert texts == {
        "CT Scanner thoracique": "Study description: Scanner thoracique\nSeries description: Série 1; Série 2",
        "Radiology report": "Finding: No pleural effusion.\nNodule\n  Diameter: 12 mm",
    }
    assert {(each.patient, each.date, each.sex, each.kind) for each in found} == {
        ("p1", date(2024, 5, 31), "male", "image-text")
    }
    assert {each.title: each.age for each in found}["CT Scanner thoracique"] == 63
    assert {each.place: each.what for each in problems} == {
        "notes.dcm": "no DICOM file",
        "silent.dcm": "it holds no text",
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('[[sources]]\nname = "a"\nreader = "text"\npath = "../elsewhere"\n', "outside the site's folder"),
        ('[[sources]]\nname = "a"\nreader = "text"\npath = "x"\nnames = "{title}.txt"\n', "{patient}"),
        ('[[sources]]\nname = "a"\nreader = "pdf"\npath = "x"\n', "pdf"),
        (REPORTS + REPORTS, "sources of one name: reports"),
        (REPORTS + 'query = "SELECT 1"\n', "duckdb or sqlite"),
        (REPORTS.replace("text_columns", "text_column"), "did you mean 'text_columns'"),
        ("sources = []\n", "at least 1"),
    ],
)
def test_a_search_file_that_says_something_else_is_refused_with_what_is_wrong(read, text, what):
    with pytest.raises(ConfigInvalid) as refused:
        read(text)
    assert what in str(refused.value)


def test_a_site_without_a_search_file_is_told_where_an_example_is(tmp_path):
    with pytest.raises(ConfigInvalid, match=r"docs/search\.md"):
        load_search_file(tmp_path)


def test_what_is_written_in_json_can_be_read_back(read, tmp_path):
    (tmp_path / "articles.jsonl").write_text(json.dumps({"id": "é" * 600, "text": "x"}))
    ((found,), _) = read(ARTICLES)
    assert len(found.key) == 64  # a long name is known by its digest
