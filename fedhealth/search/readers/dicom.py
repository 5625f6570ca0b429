"""DICOM as documents: the words in the headers of a study, and each structured report. Pixels are never read.

All images of a study say nearly the same, so they are one document, named by the study and the patient: a study whose
files name two patients is two documents. A structured report (DICOM PS3.3 A.35) is a tree of named items, which is
written out as lines, set in by its depth. A report that was wrapped in DICOM as PDF (A.45) is read as one.

Text in pixels is not read, nor a deflated file, which can unpack to any size.
"""

import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError

from fedhealth.search.documents import Document, Sex
from fedhealth.search.readers.facts import age_at, age_in, date_in, key_of, sex_in
from fedhealth.search.readers.problem import (
    MAX_FILE_BYTES,
    Found,
    Problem,
    checked,
    cleaned,
    files_below,
    made,
    one_line,
    opened,
    unread,
)
from fedhealth.search.readers.written_forms import text_in
from fedhealth.search.search_file import DicomFiles

_WORDS = (
    "StudyDescription",
    "SeriesDescription",
    "ProtocolName",
    "BodyPartExamined",
    "RequestedProcedureDescription",
    "PerformedProcedureStepDescription",
    "ReasonForStudy",
    "ReasonForTheRequestedProcedure",
    "AdmittingDiagnosesDescription",
    "AdditionalPatientHistory",
    "MedicalAlerts",
    "Allergies",
    "ContrastBolusAgent",
    "ImageComments",
    "StudyComments",
    "RequestedProcedureComments",
    "DerivationDescription",
)
_FACTS = ("PatientID", "PatientSex", "PatientAge", "PatientBirthDate", "StudyDate", "StudyInstanceUID", "Modality")
_REPORT = ("SOPInstanceUID", "ContentDate", "ConceptNameCodeSequence", "ContentSequence", "EncapsulatedDocument")
_READ = ["SpecificCharacterSet", *_FACTS, *_WORDS, *_REPORT]
_DEEPEST = 40


@dataclass
class _Study:
    """What the images of a study say, each thing once."""

    first: Dataset
    place: str
    words: dict[str, dict[str, None]] = field(default_factory=dict)


class _TooLargeError(Exception):
    """What a file would have us read has no bound."""


class _Header(io.BufferedReader):
    """A file of which no more is read than a header can be, whatever lengths it states."""

    _left = MAX_FILE_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes; all that are left are asked for where a file is to be unpacked."""
        if size is None or size < 0:
            raise _TooLargeError("a deflated file is not read: it can unpack to any size")
        self._left -= size
        if self._left < 0:
            raise _TooLargeError(f"its header is larger than {MAX_FILE_BYTES // 2**20} MiB")
        return super().read(size)


def read_dicom(source: DicomFiles, path: Path) -> Found:
    """Yield the documents of a folder of DICOM files.

    Args:
        source: how it is named.
        path: the folder, or one file.
    """
    # Both would repeat what a header holds.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    studies: dict[tuple[str, str], _Study] = {}
    for file, place in files_below(path):
        if file.name == "DICOMDIR":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = _found_in(source, studies, file, place)
        except OSError as error:
            found = Problem(source.name, place, unread(error))
        except InvalidDicomError:
            found = Problem(source.name, place, "no DICOM file")
        except _TooLargeError as error:
            found = Problem(source.name, place, str(error))
        except Exception as error:
            found = Problem(source.name, place, f"it cannot be read as DICOM ({type(error).__name__})")
        if found is not None:
            yield found
    for study in studies.values():
        yield _described(source, study)


def _found_in(
    source: DicomFiles, studies: dict[tuple[str, str], _Study], file: Path, place: str
) -> Document | Problem | None:
    """Return the report that a file is, or gather what it says of its study."""
    with opened(file) as plain, _Header(io.FileIO(plain.fileno(), closefd=False)) as bounded:
        header = dcmread(bounded, stop_before_pixels=True, specific_tags=_READ)
    if "EncapsulatedDocument" in header:
        written = text_in(bytes(header.EncapsulatedDocument))
        if isinstance(written, str):
            return Problem(source.name, place, f"the document in it is not read: {written}")
        return _report(source, header, place, written.text.splitlines())
    if "ContentSequence" in header:
        return _report(source, header, place, list(_lines(header, 0)))
    _gather(studies, header, place)
    return None


def _gather(studies: dict[tuple[str, str], _Study], header: Dataset, place: str) -> None:
    named = _word(header, "PatientID"), _word(header, "StudyInstanceUID") or place
    study = studies.setdefault(named, _Study(header, place))
    for name in _WORDS:
        if word := _word(header, name):
            study.words.setdefault(name, {})[word] = None


def _described(source: DicomFiles, study: _Study) -> Document | Problem:
    lines = [f"{_spaced(name)}: {'; '.join(words)}" for name, words in study.words.items()]
    key = _word(study.first, "StudyInstanceUID") or study.place
    title = " ".join(filter(None, (_word(study.first, "Modality"), _word(study.first, "StudyDescription"))))
    return _document(source, study.first, study.place, ("study", key), title, lines)


def _report(source: DicomFiles, header: Dataset, place: str, lines: list[str]) -> Document | Problem:
    title = _name(header) or _word(header, "StudyDescription") or "Structured report"
    return _document(source, header, place, ("report", _word(header, "SOPInstanceUID") or place), title, lines)


def _document(
    source: DicomFiles, header: Dataset, place: str, names: tuple[str, str], title: str, lines: list[str]
) -> Document | Problem:
    text, patient = cleaned("\n".join(lines)), _word(header, "PatientID")
    if not patient:
        return Problem(source.name, place, "it names no patient (PatientID)")
    if (why := checked(text)) is not None:
        return Problem(source.name, place, why)
    on = _day(header, "ContentDate") or _day(header, "StudyDate")
    return made(
        lambda: Document(
            key=key_of(*names, patient),
            patient=patient,
            kind="image-text",
            title=one_line(title),
            text=text,
            date=on,
            language=source.language,
            age=_age(header, on),
            sex=_sex(header),
            source=source.name,
        ),
        source.name,
        place,
    )


def _lines(item: Dataset, depth: int) -> Iterator[str]:
    """Yield the items below one, each as its name and value."""
    for each in item.get("ContentSequence", []) if depth < _DEEPEST else []:
        name, value = _name(each), _value(each)
        if name or value:
            yield "  " * depth + ": ".join(filter(None, (name, value)))
        yield from _lines(each, depth + 1)


def _name(item: Dataset) -> str:
    return " ".join(_word(each, "CodeMeaning") for each in item.get("ConceptNameCodeSequence", [])[:1])


def _value(item: Dataset) -> str:
    """Return the value of an item of the types that hold words or figures (PS3.3 C.17.3.2.1)."""
    if text := _word(item, "TextValue") or _word(item, "PersonName") or _word(item, "Date"):
        return text
    if codes := item.get("ConceptCodeSequence", []):
        return "; ".join(filter(None, (_word(each, "CodeMeaning") for each in codes)))
    measured = []
    for each in item.get("MeasuredValueSequence", []):
        units = [_word(unit, "CodeValue") for unit in each.get("MeasurementUnitsCodeSequence", [])[:1]]
        measured.append(" ".join(filter(None, (_word(each, "NumericValue"), *(u for u in units if u != "1")))))
    return "; ".join(filter(None, measured))


def _word(item: Dataset, name: str) -> str:
    value = item.get(name)
    if value is None:
        return ""
    several = isinstance(value, list | tuple) or type(value).__name__ == "MultiValue"
    return "; ".join(map(str, value)).strip() if several else str(value).strip()


def _spaced(name: str) -> str:
    """Return an attribute's name in words: StudyDescription is "Study description"."""
    words = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in name).strip()
    return words.capitalize()


def _day(header: Dataset, name: str) -> date | None:
    return date_in(_word(header, name).replace(".", ""))


def _age(header: Dataset, on: date | None) -> int | None:
    stated = age_in(_word(header, "PatientAge"))
    return age_at(_day(header, "PatientBirthDate"), on) if stated is None else stated


def _sex(header: Dataset) -> Sex | None:
    return sex_in(_word(header, "PatientSex"))
