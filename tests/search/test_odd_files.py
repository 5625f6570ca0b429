"""Files that would show another file, never end, or fill the memory: named by their place, and the rest goes on."""

import json
import os
import zlib

import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from fedhealth.errors import ConfigInvalid
from fedhealth.search.documents import Document
from fedhealth.search.readers import articles
from fedhealth.search.readers.fhir_values import text_of_html
from fedhealth.search.readers.problem import cleaned
from fedhealth.search.readers.sources import read_documents
from fedhealth.search.search_file import SearchFile, load_search_file

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def read(tmp_path):
    """Read a source of one reader below `x`; return its documents, and its problems as (place, level, words)."""
    (tmp_path / "x").mkdir()

    def reading(reader, **options):
        source = {"name": "x", "reader": reader, "path": "x"} | options
        found = list(read_documents(SearchFile.model_validate({"sources": [source]}).sources[0], tmp_path, {}))
        return [each for each in found if isinstance(each, Document)], [
            (each.place, each.level, each.what) for each in found if not isinstance(each, Document)
        ]

    return reading


def dicom(path, **tags):
    file = Dataset()
    file.file_meta = FileMetaDataset()
    file.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    file.file_meta.MediaStorageSOPClassUID = CTImageStorage
    file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    for name, value in ({"PatientID": "p1", "StudyDescription": "Thorax"} | tags).items():
        setattr(file, name, value)
    file.save_as(path, enforce_file_format=True)


def article(path):
    path.write_text(json.dumps({"id": "1", "text": "Gout."}))


def patient(path):
    path.write_text(json.dumps({"resourceType": "Composition", "subject": {"reference": "Patient/p1"}, "id": "c",
                                "section": [{"title": "Gout"}, {"text": {"div": "Gout."}}]}))  # fmt: skip


FORMS = {"dicom": ("1.dcm", dicom), "articles": ("1.jsonl", article), "fhir": ("1.json", patient)}


@pytest.mark.parametrize("reader", FORMS)
def test_a_link_a_pipe_a_device_and_a_socket_are_named_and_not_waited_for(read, tmp_path, reader):
    name, write = FORMS[reader]
    write(tmp_path / "x" / name)
    write(tmp_path / name)
    ending = name[1:]
    (tmp_path / "x" / f"2{ending}").symlink_to(tmp_path / name)
    (tmp_path / "x" / f"3{ending}").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "x" / f"4{ending}")
    (found, problems) = read(reader)
    assert len(found) == 1
    assert [(place, what) for place, _, what in problems] == [
        (f"2{ending}", "the file cannot be read: a link, not the file itself"),
        (f"3{ending}", "the file cannot be read: a link, not the file itself"),
        (f"4{ending}", "the file cannot be read: no plain file"),
    ]


def test_a_folder_that_cannot_be_listed_ends_the_source_so_that_nothing_of_it_is_taken_for_gone(
    read, tmp_path, monkeypatch
):
    article(tmp_path / "x" / "1.jsonl")
    (tmp_path / "x" / "2").mkdir()
    scandir = os.scandir

    def refused(folder):
        if str(folder).endswith("/2"):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refused)
    _, problems = read("articles")
    assert problems == [("", "source", "it cannot be read to its end: Permission denied")]


def test_a_name_that_is_no_text_or_has_a_line_end_is_named_and_does_no_harm(read, tmp_path):
    for name in (b"p1\n2.txt", b"p\xff.txt", b"ok.txt"):
        (tmp_path / "x" / os.fsdecode(name)).write_bytes(b"Gout.")
    found, problems = read("text", names="{patient}.txt")
    assert {each.patient for each in found} == {"p1\n2", "ok"}
    assert [level for _, level, _ in problems] == ["left out"]
    json.dumps(problems)


def test_a_deflated_dicom_file_is_not_unpacked_and_a_header_has_an_end(read, tmp_path):
    dicom(tmp_path / "x" / "1.dcm")
    dicom(tmp_path / "x" / "2.dcm")
    raw = (tmp_path / "x" / "2.dcm").read_bytes()
    plain = ExplicitVRLittleEndian.encode() + b"\0"
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(100 * 2**20)) + packer.flush()
    head, _, _ = raw.partition(b"\x08\x00\x05\x00")
    assert head.count(plain) == 1
    other = DeflatedExplicitVRLittleEndian.encode()
    length = head.index(plain) - 2
    head = head[:length] + len(other).to_bytes(2, "little") + other + head[length + 2 + len(plain) :]
    group = 128 + 4 + 8  # the length of the group that this changes
    size = int.from_bytes(head[group : group + 4], "little") + len(other) - len(plain)
    (tmp_path / "x" / "2.dcm").write_bytes(head[:group] + size.to_bytes(4, "little") + head[group + 4 :] + bomb)

    with (tmp_path / "x" / "3.dcm").open("wb") as large:  # states a text of 3 GB, and has it: of zeros, on no disk
        large.write(
            raw[: raw.index(b"\x08\x00\x30\x10")] + b"\x08\x00\x30\x10UT\0\0" + (3 * 10**9).to_bytes(4, "little")
        )
        large.truncate(3 * 10**9 + 1000)
    found, problems = read("dicom")
    assert [each.text for each in found] == ["Study description: Thorax"]
    assert problems == [
        ("2.dcm", "left out", "a deflated file is not read: it can unpack to any size"),
        ("3.dcm", "left out", "its header is larger than 64 MiB"),
    ]


def test_a_study_whose_files_name_two_patients_is_a_document_of_each(read, tmp_path):
    for number, (who, words) in enumerate([("p1", "Thorax"), ("p2", "Crâne"), ("p1", "Thorax")]):
        dicom(tmp_path / "x" / f"{number}.dcm", PatientID=who, StudyInstanceUID="1.9", SeriesDescription=words)
    found, _ = read("dicom")
    assert {each.patient: ("Cr" in each.text, "Thorax\nSeries" in each.text) for each in found} == {
        "p1": (False, True),
        "p2": (True, True),
    }
    assert len({each.key for each in found}) == 2


def test_two_patients_of_one_id_are_mixed_up_in_no_record(read, tmp_path):
    def person(born):
        return {"resource": {"resourceType": "Patient", "id": "1", "birthDate": born}}

    def text(number):
        return {"resource": {"resourceType": "Composition", "id": f"c{number}", "subject": {"reference": "Patient/1"},
                             "section": [{"text": {"div": "Gout."}}]}}  # fmt: skip

    for number, born in enumerate(["1950-01-01", "1960-01-01", "1950-01-01"]):
        bundle = {"resourceType": "Bundle", "entry": [person(born), text(number)]}
        (tmp_path / "x" / f"{number}.json").write_text(json.dumps(bundle))
    found, problems = read("fhir")
    assert found == []
    assert ("1.json entry 1", "left out", "another patient has the same id: nothing of either is read") in problems
    assert sum("no patient who is known" in what for _, _, what in problems) == 3


def test_a_bundle_of_very_many_parts_is_refused_before_it_fills_the_memory(read, tmp_path, monkeypatch):
    monkeypatch.setattr(articles, "MAX_JSON_PARTS", 1_000)
    empty = {"resourceType": "Bundle", "entry": [{}] * 400}
    (tmp_path / "x" / "1.json").write_text(json.dumps(empty))
    (tmp_path / "x" / "2.json").write_text(json.dumps(empty | {"entry": [{}] * 600}))
    found, problems = read("fhir")
    assert (found, [what for _, _, what in problems]) == (
        [],
        [
            "the entry holds no resource, nor do 399 more",
            "of more than 1,000 parts: they would not fit into memory. Split it",
        ],
    )


def test_fhir_in_another_form_is_named_with_what_to_export(read, tmp_path):
    (tmp_path / "x" / "1.xml").write_text("<Patient xmlns='http://hl7.org/fhir'/>")
    (tmp_path / "x" / "2.ndjson.gz").write_bytes(b"\x1f\x8b")
    (tmp_path / "x" / "readme.md").write_text("of no concern")
    _, problems = read("fhir")
    assert [(place, what.split(":")[0]) for place, _, what in problems] == [
        ("1.xml", "FHIR in XML is not read"),
        ("2.ndjson.gz", "a compressed file is not read"),
    ]


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>One<br/>two</p><ul><li>a</li><li>b&nbsp;&lt;c</li></ul>", "One\ntwo\na\nb <c"),
        ("<tr><td>pH</td><td>7.4</td></tr>", "pH 7.4"),
        ("a<b>b</b>c <i class='x'>d</i>", "abc d"),
        ("<style>p {x: y}</style>seen<script>var a = '<p>';</script> too<style/> and this", "seen too and this"),
        ("be<!-- not <p>this</p> -->fore", "before"),
        ("p < 0.05, and x <3 > y", "p < 0.05, and x <3 > y"),
        ("<![CDATA[plain]]> <?xml version='1.0'?><!DOCTYPE html>", "plain"),
        ("<a href='x", "<a href='x"),
        ("", ""),
    ],
)
def test_of_a_page_the_words_are_read(html, text):
    assert text_of_html(html) == text


@pytest.mark.timeout(20)
@pytest.mark.parametrize("part", ["<a ", "<!--", "<a x='", "</", "<?", "<![CDATA[", "<p><", "&#", "<script>"])
def test_a_page_whose_tags_never_end_takes_no_longer_than_another(part):
    text_of_html(part * 200_000)


@pytest.mark.timeout(20)
def test_a_million_accents_on_a_letter_are_thirty():
    found = cleaned("e\u0301t\u00e9 " + "a" + "\u0327\u0301" * 500_000 + " fin")
    assert found.startswith("été ") and found.endswith(" fin")
    assert len(found) < 50


@pytest.mark.parametrize("path", ["../beside", "/etc", "link", "link/passwd"])
def test_a_source_outside_the_sites_folder_is_refused_where_it_is_named_and_where_it_is_read(tmp_path, path):
    folder = tmp_path / "site"
    folder.mkdir()
    (tmp_path / "beside").mkdir()
    (folder / "link").symlink_to("/etc")
    (folder / "search.toml").write_text(f'[[sources]]\nname = "x"\nreader = "dicom"\npath = "{path}"\n')
    with pytest.raises(ConfigInvalid, match="outside"):
        load_search_file(folder)
    source = SearchFile.model_validate({"sources": [{"name": "x", "reader": "dicom", "path": path}]}).sources[0]
    with pytest.raises(ConfigInvalid, match="outside"):  # as where a link was put there since
        list(read_documents(source, folder, {}))


@pytest.mark.parametrize("field", ["status", "docStatus"])
def test_a_text_that_was_entered_in_error_is_nothing(read, tmp_path, field):
    patient(tmp_path / "x" / "1.json")
    right = json.loads((tmp_path / "x" / "1.json").read_text())
    (tmp_path / "x" / "2.json").write_text(json.dumps(right | {"id": "wrong", field: "entered-in-error"}))
    found, problems = read("fhir")
    assert ([each.key for each in found], problems) == (["Composition/c"], [])
