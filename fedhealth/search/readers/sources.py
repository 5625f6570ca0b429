"""Every source of a search file, read as documents.

A source that cannot be read at all, because it is not there or its table lacks a column, is one problem, and the next
source goes on. What a reader of a format loads is loaded where a source needs it.
"""

from collections.abc import Mapping
from pathlib import Path

from fedhealth.policy.site_file import file_inside
from fedhealth.search.documents import Document
from fedhealth.search.readers.articles import read_articles
from fedhealth.search.readers.fhir import read_fhir
from fedhealth.search.readers.people import Person, with_person
from fedhealth.search.readers.problem import Found, Problem
from fedhealth.search.readers.tables import read_tables
from fedhealth.search.readers.text import read_text_files
from fedhealth.search.search_file import Articles, DicomFiles, FhirFiles, Source, Tables, TextFiles


def read_documents(source: Source, folder: Path, people: Mapping[str, Person]) -> Found:
    """Yield the documents of a source, and the problems in it as they come.

    Args:
        source: what the search file says of it.
        folder: the site's folder.
        people: who patients are, for what documents do not say themselves.
    """
    path = file_inside(folder, source.path)
    if not path.exists():
        yield Problem(source.name, "", f"there is no {source.path} in the site's folder", "source")
        return
    try:
        for found in _found_in(source, folder, path):
            yield with_person(found, people) if isinstance(found, Document) else found
    except ModuleNotFoundError as error:
        yield Problem(source.name, "", f"{error.name} is not installed, which reads such files", "source")
    except OSError as error:
        yield Problem(source.name, "", f"it cannot be read to its end: {error.strerror or 'an error'}", "source")


def _found_in(source: Source, folder: Path, path: Path) -> Found:
    """Read a source by its reader: the one list of them."""
    match source:
        case Tables():
            return read_tables(source, folder)
        case TextFiles():
            return read_text_files(source, path)
        case FhirFiles():
            return read_fhir(source, path)
        case DicomFiles():
            from fedhealth.search.readers.dicom import read_dicom

            return read_dicom(source, path)
        case Articles():
            return read_articles(source, path)
