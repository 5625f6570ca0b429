"""DICOM as documents: the words in the headers of a study, and each structured report. Pixels are never read.

All images of a study say nearly the same, so they are one document, named by the study. A structured report (DICOM
PS3.3 A.35) is a tree of named items, which is written out as lines, set in by its depth.

Text in pixels, and reports that are PDF inside DICOM, are not read.
"""

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
from fedhealth.search.readers.problem import Found, Problem, checked, cleaned, files_below, made, one_line
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
_REPORT = ("SOPInstanceUID", "ContentDate", "ConceptNameCodeSequence", "ContentSequence")
_READ = ["SpecificCharacterSet", *_FACTS, *_WORDS, *_REPORT]
_DEEPEST = 40


@dataclass
class _Study:
    """What the images of a study say, each thing once."""

    first: Dataset
    place: str
    words: dict[str, dict[str, None]] = field(default_factory=dict)


def read_dicom(source: DicomFiles, path: Path) -> Found:
    """Yield the documents of a folder of DICOM files.

    Args:
        source: how it is named.
        path: the folder, or one file.
    """
    # Both would repeat what a header holds.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL)
    studies: dict[str, _Study] = {}
    for file, place in files_below(path):
        if file.name == "DICOMDIR":
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                header = dcmread(file, stop_before_pixels=True, specific_tags=_READ)
                if "ContentSequence" in header:
                    yield _report(source, header, place)
                else:
                    _gather(studies, header, place)
        except InvalidDicomError:
            yield Problem(source.name, place, "no DICOM file")
        except Exception as error:
            yield Problem(source.name, place, f"it cannot be read as DICOM ({type(error).__name__})")
    for study in studies.values():
        yield _described(source, study)


def _gather(studies: dict[str, _Study], header: Dataset, place: str) -> None:
    study = studies.setdefault(_word(header, "StudyInstanceUID") or place, _Study(header, place))
    for name in _WORDS:
        if word := _word(header, name):
            study.words.setdefault(name, {})[word] = None


def _described(source: DicomFiles, study: _Study) -> Document | Problem:
    lines = [f"{_spaced(name)}: {'; '.join(words)}" for name, words in study.words.items()]
    key = _word(study.first, "StudyInstanceUID") or study.place
    title = " ".join(filter(None, (_word(study.first, "Modality"), _word(study.first, "StudyDescription"))))
    return _document(source, study.first, study.place, key_of("study", key), title, lines)


def _report(source: DicomFiles, header: Dataset, place: str) -> Document | Problem:
    title = _name(header) or _word(header, "StudyDescription") or "Structured report"
    key = key_of("report", _word(header, "SOPInstanceUID") or place)
    return _document(source, header, place, key, title, list(_lines(header, 0)))


def _document(
    source: DicomFiles, header: Dataset, place: str, key: str, title: str, lines: list[str]
) -> Document | Problem:
    text, patient = cleaned("\n".join(lines)), _word(header, "PatientID")
    if not patient:
        return Problem(source.name, place, "it names no patient (PatientID)")
    if (why := checked(text)) is not None:
        return Problem(source.name, place, why)
    on = _day(header, "ContentDate") or _day(header, "StudyDate")
    return made(
        lambda: Document(
            key=key,
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
