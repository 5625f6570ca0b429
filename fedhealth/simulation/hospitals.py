"""Make hospitals of one table: each value of a column is one, with the rows that have it.

A simulated hospital's table is what that hospital would have in a file of its own: its rows, numbered anew, without
the column that names it. So it has the same fingerprint and, under the same secrets, the same noise.

Its public figure is its number of patients, rounded to two digits. At a real site that figure is never counted from
the table; here nobody is protected.
"""

import difflib
import hashlib
import hmac
import math
import re
import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from fedhealth.errors import ConfigInvalid, DataUnusable
from fedhealth.policy.site_file import DataSet, SiteFile
from fedhealth.records.study_fit import find_misfits
from fedhealth.records.table import Records, Table, columns_of, prepare_records
from fedhealth.simulation.gates import SimulatedSite
from fedhealth.study.protocol import Study

ROW_COLUMN = "row"
"""The column that names the patient where nobody said which does: every row is one."""

_MOST_NAMED = 5
_FIRST_LINE = {"line": 2}
"""Number of a table's first row in a file of its own; 1 where rows are counted."""


_Row = tuple[int, tuple[str, ...]]
"""A row's number and its cells."""


_WORTH_SAYING = 0.01
"""Of the rows that something is about; a hospital's administrator is told of each row."""


@dataclass(frozen=True)
class Split:
    """How a table becomes hospitals.

    Attributes:
        site_column: its values name the hospitals.
        patient_column: names the patient; None where each row is a patient.
        declared_patients: the public figure of every hospital; None to round each one's number of patients.
        seed: decides noise, split and fingerprints; at least 0.
    """

    site_column: str
    patient_column: str | None = None
    declared_patients: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Hospitals:
    """What a table became.

    Attributes:
        sites: at least two, in the order of their ids.
        sides: the records of each that train and that are held out, by id; what only a simulation may look at.
        warnings: what a person should know of the table, in words.
        too_small: ids of those that declare fewer patients than the study asks, and take no part.
    """

    sites: tuple[SimulatedSite, ...]
    sides: Mapping[str, tuple[Records, Records]]
    warnings: tuple[str, ...] = ()
    too_small: tuple[str, ...] = ()

    @property
    def titles(self) -> dict[str, str]:
        """The hospitals' names as in the table, by id."""
        return {site.file.id: site.file.title for site in self.sites}

    @property
    def declared_patients(self) -> dict[str, int]:
        """Each hospital's public figure, by id."""
        return {site.file.id: site.file.data_set.declared_patients for site in self.sites}


def split_table(table: Table, study: Study, split: Split) -> Hospitals:
    """Return the hospitals of a table.

    Raises:
        ConfigInvalid: the study's cohort is chosen by codes, and a table has none.
        DataUnusable: a column is missing; a row names no hospital; there is one hospital only, or fewer than two
            with as many patients as the study wants; or a cell cannot be used, as `prepare_records` says.
    """
    if study.cohort is not None:
        raise ConfigInvalid(
            f"the cohort of study '{study.name}' is chosen by codes, which are in hospitals' indexes",
            got=f"the table {table.path}, which has none",
            next_step="To simulate it, take [cohort] out of the protocol and give a table of such patients.",
        )
    column, patient_column = split.site_column, split.patient_column or _free_name(table)
    place = _place(table, column, "--site-column")
    patient_place = None if split.patient_column is None else _place(table, split.patient_column, "--patient-column")
    named: dict[str, list[_Row]] = defaultdict(list)
    patients: dict[str, set[str]] = defaultdict(set)
    blank = []
    for number, row in table.rows:
        if not row[place]:
            blank.append(number)
            continue
        named[row[place]].append((number, row))
        patients[row[place]].add(str(number) if patient_place is None else row[patient_place])
    _check_sites(table, column, named, blank)
    wanted = set(columns_of(study))
    kept = [at for at, name in enumerate(table.columns) if at != place or name in wanted]
    columns = tuple(table.columns[at] for at in kept) + (() if split.patient_column else (patient_column,))
    ids = _ids_of(named, table)
    small = {name: len(patients[name] - {""}) for name in named}
    declared = {name: split.declared_patients or _rounded(count) for name, count in small.items()}
    left_out = _too_small(study, column, small, declared)
    first = _FIRST_LINE.get(table.row_word, 1)
    sites, sides = [], {}
    for name in sorted(named.keys() - left_out, key=lambda each: ids[each]):
        cells = [tuple(row[at] for at in kept) for _, row in named[name]]
        if split.patient_column is None:
            cells = [(*row, str(number)) for number, row in enumerate(cells, first)]
        own = tuple(enumerate(cells, first))
        data_set = DataSet(
            name=study.data_set,
            file=table.path,
            patient_column=patient_column,
            declared_patients=declared[name],
        )
        site = SimulatedSite(
            file=SiteFile(id=ids[name], title=name[:200], data_set=data_set),
            table=Table(table.path, columns, own, row_word=table.row_word),
            split_key=_secret(split.seed, "split", ids[name]),
            naming_secret=_secret(split.seed, "naming", ids[name]),
            noise_seed=split.seed,
        )
        # With the numbers of the whole table, so that what is wrong with a row is said of its own.
        numbered = tuple((number, row) for (number, _), (_, row) in zip(named[name], own, strict=True))
        whole = Table(table.path, columns, numbered, row_word=table.row_word)
        sides[ids[name]] = prepare_records(whole, study, patient_column, site.split_key, strict=True)
        sites.append(site)
    warnings = [*_table_warnings(split, patients), *_fit_warnings(table, study), *_site_warnings(study, list(sides))]
    if left_out:
        warnings.append(
            f"Left out before the run, because they declare fewer than {study.min_declared_patients} patients: "
            f"{', '.join(sorted(left_out))}. In a real run they cannot approve the study."
        )
    return Hospitals(tuple(sites), sides, tuple(warnings), tuple(sorted(ids[name] for name in left_out)))


def _secret(seed: int, purpose: str, site: str) -> bytes:
    return hmac.new(
        seed.to_bytes(32, "big"), f"fedhealth/simulation/{purpose}/{site}".encode(), hashlib.sha256
    ).digest()


def _free_name(table: Table) -> str:
    name = ROW_COLUMN
    while name in table.columns:
        name = f"({name})"
    return name


def _place(table: Table, column: str, option: str) -> int:
    if column not in table.columns:
        near = difflib.get_close_matches(column, table.columns, n=1, cutoff=0.0)
        raise DataUnusable(
            f"{table.path} has no column '{column}'",
            got=", ".join(f"'{name}'" for name in table.columns[:30]),
            next_step=f"Did you mean {option} {near[0]!r}?",
        )
    return table.columns.index(column)


def _check_sites(table: Table, column: str, named: Mapping[str, Sequence[_Row]], blank: Sequence[int]) -> None:
    if blank:
        shown = ", ".join(str(number) for number in blank[:_MOST_NAMED])
        raise DataUnusable(
            f"{len(blank)} rows of {table.path} name no hospital",
            got=f"a blank in column '{column}', {table.row_word} {shown}{' ...' if len(blank) > _MOST_NAMED else ''}",
            next_step="Fill the cells, or delete the rows.",
        )
    if len(named) < 2:
        raise DataUnusable(
            f"column '{column}' of {table.path} names one hospital only",
            got=", ".join(f"'{name}'" for name in named) or "no row",
            wanted="at least two",
            next_step="Give the column whose values are the hospitals: --site-column.",
        )


def _too_small(study: Study, column: str, patients: dict[str, int], declared: dict[str, int]) -> set[str]:
    """Return the hospitals that declare fewer patients than the study asks; two at least must be left."""
    small = [name for name in sorted(patients) if declared[name] < study.min_declared_patients]
    if len(patients) - len(small) < 2:
        shown = ", ".join(f"'{name}' ({patients[name]})" for name in small[:_MOST_NAMED])
        raise DataUnusable(
            f"study '{study.name}' asks for hospitals of at least {study.min_declared_patients} patients",
            got=f"{len(small)} smaller ones in column '{column}': {shown}{' ...' if len(small) > _MOST_NAMED else ''}",
            wanted="two at least that are large enough",
            next_step="Lower min_declared_patients in the protocol, or take a table of larger hospitals.",
        )
    return set(small)


def _ids_of(names: Iterable[str], table: Table) -> dict[str, str]:
    """Return a site id for each name: lower case, digits and hyphens."""
    ids: dict[str, str] = {}
    for number, name in enumerate(sorted(names), 1):
        plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
        ids[name] = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:63].strip("-") or f"site-{number}"
    taken: dict[str, str] = {}
    for name, site in ids.items():
        if site in taken:
            raise DataUnusable(
                f"two hospitals of {table.path} would have one name",
                got=f"'{taken[site]}' and '{name}', both '{site}'",
                next_step="Spell one of them as the other if they are the same, else otherwise.",
            )
        taken[site] = name
    return ids


def _rounded(patients: int) -> int:
    """Round to two significant digits, at least 1."""
    if patients < 10:
        return max(1, patients)
    unit = int(10 ** (math.floor(math.log10(patients)) - 1))
    return round(patients / unit) * unit


def _site_warnings(study: Study, sites: Collection[str]) -> list[str]:
    """Say what the protocol asks of a real run's sites that these cannot give; a simulation takes those there are."""
    warnings = []
    if absent := sorted(set(study.sites.required) - set(sites)):
        warnings.append(f"The protocol requires sites that the table has not: {', '.join(absent)}.")
    if study.sites.quorum is not None and study.sites.quorum > len(sites):
        warnings.append(f"The protocol asks for {study.sites.quorum} sites; the table has {len(sites)}.")
    return warnings


def _fit_warnings(table: Table, study: Study) -> list[str]:
    """Say of all rows what each hospital's administrator would be told of its own before an approval."""
    return [
        f"Of all rows, column '{each.column}': {each.what}."
        for each in find_misfits(table, study)
        if not each.rows or len(each.rows) >= _WORTH_SAYING * len(table.rows)
    ]


def _table_warnings(split: Split, patients: dict[str, set[str]]) -> list[str]:
    if split.patient_column is None:
        return ["No --patient-column was given: every row counts as a patient of its own."]
    seen: dict[str, int] = defaultdict(int)
    for names in patients.values():
        for name in names - {""}:
            seen[name] += 1
    several = sum(count > 1 for count in seen.values())
    if not several:
        return []
    return [
        f"{several} patients are in more than one hospital. In a real federation nobody could tell: each hospital "
        "protects its own records of them separately, and what all hospitals together say of such a patient costs as "
        "often as the patient occurs."
    ]
