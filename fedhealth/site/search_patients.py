"""Whether `site forget` would recognise the patients of an index: it knows them by the data set's names alone.

A hospital's sources name a patient by the number of the stay, without leading zeros, or in capitals; then whoever is
forgotten in the data set stays in the index. Nobody can know that of one patient, but an administrator sees it of all.

Invariants: what is counted here is for the administrator's terminal; no name is in it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fedhealth.errors import DataUnusable
from fedhealth.policy.site_file import load_site_file
from fedhealth.records.source import read_source
from fedhealth.search.index import SearchIndex


@dataclass(frozen=True)
class StrangersOfSource:
    """Patients of a source of the index who are in the site's data set under no such name.

    Attributes:
        source: its name.
        patients: how many it has in the index.
        strangers: how many of them the data set does not name so.
        alike: how many of these it names but for case, blanks, signs or leading zeros.
    """

    source: str
    patients: int
    strangers: int
    alike: int


def find_strangers(index: SearchIndex, folder: Path) -> tuple[StrangersOfSource, ...] | None:
    """Compare the patients of an index with those of the site's data set, source by source.

    Args:
        index: the site's.
        folder: the site's folder.

    Returns:
        The sources that have such patients; None where the data set cannot be read.

    Raises:
        ConfigInvalid: the site file is missing or wrong.
    """
    data_set = load_site_file(folder).data_set
    try:
        table = read_source(data_set.source, strict=False)
    except DataUnusable:
        return None
    if data_set.patient_column not in table.columns:
        return None
    place = table.columns.index(data_set.patient_column)
    known = {row[place] for _, row in table.rows}
    folded = set(map(_folded, known))
    found = (_of_source(source, index.patients(source), known, folded) for source in sorted(index.status().documents))
    return tuple(each for each in found if each.strangers)


def _of_source(source: str, patients: Iterable[str], known: set[str], folded: set[str]) -> StrangersOfSource:
    named = {patient.strip() for patient in patients}
    strangers = named - known
    return StrangersOfSource(source, len(named), len(strangers), sum(_folded(each) in folded for each in strangers))


def _folded(patient: str) -> str:
    """Return what two ways of writing one patient's name usually have in common."""
    return "".join(filter(str.isalnum, patient.casefold())).lstrip("0")
