"""The rows of a table that a study is about, where its protocol names a cohort by codes.

The patients are found in the site's index exactly as a count finds them, and the table keeps their rows alone.

Invariant: which rows of a patient stay follows from this patient's own facts, so that Rule 0 holds for a cohort as it
does for any other condition: on neighbouring data one patient's contribution is there or not, and nothing else changes.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace

from fedhealth.records.columns import Problem
from fedhealth.records.table import Table
from fedhealth.search.coded_patients import PatientFacts, patients_counted
from fedhealth.study.coded_cohort import CodedCohort
from fedhealth.study.protocol import Study


def rows_of_cohort(
    table: Table, study: Study, patient_column: str, patient_facts: Callable[[], Iterable[PatientFacts]]
) -> Table:
    """Return a table with the rows of a study's cohort alone.

    Args:
        table: the whole table; returned as it is when the study names no cohort, or when it lacks the patient column,
            as no study can read it then.
        study: the protocol.
        patient_column: names the patient, as the index does.
        patient_facts: reads the codes of the patients in the site's index.
    """
    if study.cohort is None or patient_column not in table.columns:
        return table
    members, place = _members(study.cohort, patient_facts()), table.columns.index(patient_column)
    return replace(table, rows=tuple((line, row) for line, row in table.rows if row[place] in members))


def find_cohort_problems(
    table: Table, study: Study, patient_column: str, patient_facts: Callable[[], Iterable[PatientFacts]]
) -> tuple[Problem, ...]:
    """Return what an administrator should know of a study's cohort by codes here; for the administrator alone.

    Args:
        table: the whole table, without the patients who withdrew their consent.
        study: the protocol.
        patient_column: names the patient.
        patient_facts: as of `rows_of_cohort`.
    """
    if study.cohort is None or patient_column not in table.columns:
        return ()
    facts, place = tuple(patient_facts()), table.columns.index(patient_column)
    if not facts:
        return (
            Problem(
                "error",
                "",
                "the study's cohort is chosen by codes, and this site has no index of them",
                "Make one: fedhealth site index add --help. Or reject the study.",
            ),
        )
    members, in_table = _members(study.cohort, facts), {row[place] for _, row in table.rows}
    found = f"{len(members)} of {len(facts)} patients in the index are in the study's cohort by codes"
    if not members - in_table:
        return (Problem("warning", "", f"{found}, all with rows in the table", "Nobody outside sees this number."),)
    missing = f"{found}; {len(members - in_table)} of them without a row in the table"
    advice = "Look whether index and table name patients alike: a patient is in the study with both only."
    return (Problem("warning", "", missing, advice),)


def _members(cohort: CodedCohort, facts: Iterable[PatientFacts]) -> frozenset[str]:
    return patients_counted(facts, cohort.query, cohort.most_codes_of_a_patient)
