"""Who is in a study's cohort by codes, age and sex: the very patients that a count between hospitals counted.

A query of `fedhealth.study.count_query`, quarter and all, taken over as it was asked. Each site finds the patients in
its index, as it does for a count, and looks at no row of anybody else; the rows themselves come from its table.
Whether a patient is in the cohort follows from this patient's own codes, age and sex.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fedhealth.config import read_toml
from fedhealth.study.count_query import CountQuery
from fedhealth.study.part import Part

MostCodes = Annotated[int, Field(ge=1, le=1000)]


class CodedCohort(Part):
    """A study's cohort by codes.

    Attributes:
        query: whom it counts is in the cohort; ages are those of its quarter's year.
        most_codes_of_a_patient: of each patient so many codes are looked at, in their order; as in the search study
            under which was counted, so that whoever was counted is in the cohort.
    """

    query: CountQuery
    most_codes_of_a_patient: MostCodes = 100

    @property
    def words(self) -> str:
        """What is asked of a patient, for people."""
        return "; ".join(f"{name} {value}" for name, value in query_words(self.query))


def query_words(query: CountQuery) -> Iterator[tuple[str, str]]:
    """Yield each part of a query, by name and for people."""
    yield "having", ", ".join(query.all_of)
    if query.none_of:
        yield "without", ", ".join(query.none_of)
    if query.ages:
        yield "ages", f"{query.ages[0]} to under {query.ages[1]} years"
    if query.sex:
        yield "sex", query.sex
    yield "quarter", query.quarter


def load_cohort(path: Path) -> CodedCohort:
    """Read a cohort file, which `fedhealth count --save` writes.

    Raises:
        ConfigInvalid: missing, not TOML, or no cohort; says where and what was wanted.
    """
    return read_toml(path, CodedCohort, "cohort file")


def cohort_toml(cohort: CodedCohort, under: str = "") -> str:
    """Return a cohort as TOML.

    Args:
        cohort: it.
        under: the table of a protocol in which it is to stand; "" for a file of its own.
    """
    query = cohort.query
    lines = [f"[{under}]"] if under else []
    lines += [f"most_codes_of_a_patient = {cohort.most_codes_of_a_patient}", ""]
    lines += [
        f"[{under}.query]" if under else "[query]",
        f'quarter = "{query.quarter}"',
        f"all_of = {_list(query.all_of)}",
    ]
    if query.none_of:
        lines.append(f"none_of = {_list(query.none_of)}")
    if query.ages:
        lines.append(f"ages = [{query.ages[0]}, {query.ages[1]}]")
    if query.sex:
        lines.append(f'sex = "{query.sex}"')
    return "\n".join(lines) + "\n"


def _list(codes: tuple[str, ...]) -> str:
    """Return codes as TOML; they are of letters, digits, points and colons only."""
    return "[" + ", ".join(f'"{code}"' for code in codes) + "]"
