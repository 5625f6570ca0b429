"""Who patients are, from a table of them: for sources whose documents do not say age and sex themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from fedhealth.errors import DataUnusable
from fedhealth.search.documents import Document, Sex
from fedhealth.search.readers.delimited import read_columns
from fedhealth.search.readers.facts import age_at, age_in, date_in, sex_in
from fedhealth.search.readers.problem import Problem
from fedhealth.search.search_file import People

_TABLE = "people"


@dataclass(frozen=True)
class Person:
    """What is known of one patient.

    Attributes:
        sex: if known.
        born: if known; the first day of a year of birth.
    """

    sex: Sex | None
    born: date | None


def read_people(people: People, folder: Path) -> Mapping[str, Person] | Problem:
    """Return the patients of a table by name, or why it cannot be read."""
    columns = (
        people.patient_column,
        people.sex_column,
        people.birth_column,
        people.age_column,
        people.age_year_column,
    )
    try:
        wanted = tuple(dict.fromkeys(column for column in columns if column is not None))
        table = read_columns(people, folder, wanted)
    except DataUnusable as error:
        return Problem(_TABLE, "", f"{error.what}{f' ({error.got})' if error.got else ''}", "source")
    places = [None if column is None else table.columns.index(column) for column in columns]
    found = {}
    for _, cells in table.rows:
        patient, sex, birth, age, year = ("" if place is None else cells[place] for place in places)
        born = date_in(birth) or _first_day_of_birth_year(age, year)
        found[patient] = Person(sex_in(sex), born)
    return found


def with_person(document: Document, people: Mapping[str, Person]) -> Document:
    """Return a document with what it does not say itself of its patient."""
    person = people.get(document.patient or "")
    if person is None:
        return document
    age = age_at(person.born, document.date) if document.age is None else document.age
    return replace(document, age=age, sex=document.sex or person.sex)


def _first_day_of_birth_year(age: str, year: str) -> date | None:
    years, on = age_in(age), date_in(year)
    if years is None or on is None or on.year <= years:
        return None
    return date(on.year - years, 1, 1)
