"""Reports as RTF and PDF: their text, or in words why there is none; and no file takes more than it may."""

import base64
import io
import os
import zlib

import pytest

pytest.importorskip("pypdf", reason="the extra `search` is not installed")

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian
from pypdf import PdfReader, PdfWriter

from fedhealth.search.documents import Document
from fedhealth.search.readers import written_forms
from fedhealth.search.readers.dicom import read_dicom
from fedhealth.search.readers.fhir_values import attachment
from fedhealth.search.readers.text import read_text_files
from fedhealth.search.readers.written_forms import text_in
from fedhealth.search.search_file import DicomFiles, TextFiles

RTF = (
    rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\info{\author Nobody Known}}{\pict 89504e47}"
    rb"\b Conclusion\b0\par Pas d'\'e9panchement, \u339?d\u232?me des membres.\par}"
)


def pdf(*pages):
    """A PDF whose pages have these texts; of bytes, these content streams."""
    streams = [each if isinstance(each, bytes) else b"BT /F 12 Tf 40 700 Td (%s) Tj ET" % each.encode("cp1252")
               for each in pages]  # fmt: skip
    font = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>"
    kids = b" ".join(b"%d 0 R" % (4 + 2 * n) for n in range(len(streams)))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count %d/Kids[%s]>>" % (len(streams), kids), font]
    for number, stream in enumerate(streams):
        packed = zlib.compress(stream)
        objects.append(
            b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 600 800]/Resources<</Font<</F 3 0 R>>>>/Contents %d 0 R>>"
            % (5 + 2 * number)
        )
        objects.append(b"<</Filter/FlateDecode/Length %d>>stream\n%s\nendstream" % (len(packed), packed))
    body = b"".join(b"%d 0 obj\n%s\nendobj\n" % (number, each) for number, each in enumerate(objects, 1))
    whole = b"%PDF-1.4\n" + body + b"trailer<</Size %d/Root 1 0 R>>\nstartxref\n0\n%%%%EOF" % (len(objects) + 1)
    written = PdfWriter(
        clone_from=PdfReader(io.BytesIO(whole))
    )  # which gives it the table of places that a reader wants
    out = io.BytesIO()
    written.write(out)
    return out.getvalue()


def locked(raw):
    writer, out = PdfWriter(clone_from=PdfReader(io.BytesIO(raw))), io.BytesIO()
    writer.encrypt("secret", algorithm="AES-256")
    writer.write(out)
    return out.getvalue()


def test_the_words_of_rtf_are_read_and_nothing_else_of_it():
    found = text_in(RTF)
    assert (found.text.split("\n")[:2], found.remark) == (["Conclusion", "Pas d'épanchement, œdème des membres."], "")
    assert "Nobody" not in found.text


def test_the_pages_of_a_pdf_are_read_in_order():
    found = text_in(b"written by a scanner\n" + pdf("Fracture du fémur.", "Pas d'épanchement."))
    assert found.text == "Fracture du fémur.\nPas d'épanchement."


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (lambda: pdf(b"", b"0 0 m 5 5 l S"), "pictures without text"),
        (lambda: locked(pdf("x")), "password"),
        (lambda: b"%PDF-1.7 and nothing of a PDF", "cannot be read as PDF"),
        (lambda: b"{\\rtf1\\ansi\\u99999999999 }", "cannot be read as RTF"),
        (lambda: b"PK\x03\x04" + bytes(50), "Word or LibreOffice"),
        (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(50), "old Word"),
        (lambda: b"\x1f\x8b\x08" + bytes(50), "unpack it"),
    ],
    ids=["scanned", "locked", "broken PDF", "broken RTF", "docx", "doc", "gzip"],
)
def test_what_has_no_text_is_named_with_what_to_do(raw, why):
    assert why in text_in(raw())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("bomb", ["memory", "pages that never end", "fields in fields"])
def test_no_file_takes_more_time_or_memory_than_it_may(monkeypatch, bomb):
    monkeypatch.setattr(written_forms, "CHILD_SECONDS", 1)
    monkeypatch.setattr(written_forms, "CHILD_BYTES", 100 * 2**20)
    raw = {
        "memory": lambda: pdf(b"% " + bytes(70_000_000)),
        "pages that never end": lambda: pdf(b"BT /F 1 Tf (x) Tj ET\n" * 500_000),
        "fields in fields": lambda: b"{\\rtf1 " + b"{\\field{\\*\\fldinst{ HYPERLINK " * 30_000,
    }[bomb]()
    assert len(raw) < 10**6
    assert "of processor time or" in text_in(raw)


def test_a_child_that_dies_costs_its_own_document_and_no_other(monkeypatch):
    monkeypatch.setitem(written_forms._WORDS_OF, "PDF", lambda raw: os._exit(7))
    assert text_in(b"%PDF-1.7") == "it cannot be read as PDF"
    assert text_in(b"plain").text == "plain"


def test_files_attachments_and_wrapped_reports_are_all_read_so(tmp_path):
    (tmp_path / "p1").mkdir()
    (tmp_path / "p1" / "2024-05-31 Echo.pdf").write_bytes(pdf("Fracture."))
    (tmp_path / "p1" / "2024-06-01 Scan.pdf").write_bytes(pdf(b""))
    source = TextFiles(name="a", reader="text", path="x", names="{patient}/{date} {title}.{*}")
    document, problem = read_text_files(source, tmp_path)
    assert (document.text, document.title, document.patient) == ("Fracture.", "Echo", "p1")
    assert (problem.place, problem.level) == ("p1/2024-06-01 Scan.pdf", "left out")

    coded = base64.b64encode(pdf("Fracture.")).decode()
    assert attachment({"contentType": "application/pdf", "data": coded}) == ("Fracture.", "")
    coded = base64.b64encode(b"Fracture.").decode()
    said = attachment({"contentType": "application/pdf", "data": coded})
    assert said == ("", "an attachment says that it is PDF and is not")

    wrapped = Dataset()
    wrapped.file_meta = FileMetaDataset()
    wrapped.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    wrapped.file_meta.MediaStorageSOPClassUID = EncapsulatedPDFStorage
    wrapped.file_meta.MediaStorageSOPInstanceUID = wrapped.SOPInstanceUID = "1.2.3"
    wrapped.PatientID, wrapped.StudyDescription = "p1", "Echo"
    wrapped.EncapsulatedDocument = pdf("Fracture.")
    (tmp_path / "pacs").mkdir()
    wrapped.save_as(tmp_path / "pacs" / "1.dcm", enforce_file_format=True)
    (found,) = read_dicom(DicomFiles(name="pacs", reader="dicom", path="pacs"), tmp_path / "pacs")
    assert isinstance(found, Document)
    assert (found.text, found.title, found.patient) == ("Fracture.", "Echo", "p1")
