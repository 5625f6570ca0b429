"""Connect a hospital's table to its site: look at it, write down what it is, and check it before a study does.

What is written into `site.toml` is what the administrator says and the columns' types: no value, no range, no count.
The file is edited where it changes and nowhere else, and replaced whole.

Invariants: `declared_patients` is only ever what a person typed; a site that has a ledger keeps its data set.
"""

import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import tomlkit
from tomlkit.items import Table as TomlTable

from fedhealth.config import MAX_CONFIG_BYTES, parse_toml, read_config
from fedhealth.errors import ConfigInvalid
from fedhealth.policy.site_file import DataSet, SiteFile, file_inside, load_site_file
from fedhealth.records.cells import is_blank, is_text, is_unreadable
from fedhealth.records.columns import Column, Problem, find_problems
from fedhealth.records.query_trial import try_query
from fedhealth.records.source import read_source
from fedhealth.records.study_fit import find_misfits
from fedhealth.records.table import Table
from fedhealth.search.coded_patients import PatientFacts, read_patient_facts
from fedhealth.secret_file import replace_file
from fedhealth.site.cohorts import find_cohort_problems, rows_of_cohort
from fedhealth.site.state import SiteState, local_user
from fedhealth.study.protocol import Study
from fedhealth.table_source import TableFormat, TableSource, check_query, format_of

_KEYS = ("name", "file", "format", "query", "patient_column", "declared_patients", "split_column", "columns")


@dataclass(frozen=True)
class Connection:
    """What the administrator says of a table that was looked at.

    Attributes:
        source: what was read.
        name: what studies call the data set.
        patient_column: attested to name patients, not visits.
        declared_patients: a public round figure, from elsewhere than the table.
        columns: what was found; their types are written down.
    """

    source: TableSource
    name: str
    patient_column: str
    declared_patients: int
    columns: tuple[Column, ...]


def check_connectable(folder: Path, state: SiteState | None) -> None:
    """Refuse to change a data set whose budget a ledger may keep already.

    Args:
        folder: the site's folder.
        state: its state, if it has one.

    Raises:
        ConfigInvalid: there is no site.toml; or a ledger; or a data set, and nobody said where the state would be.
    """
    connected = tomllib.loads(_site_text(folder)).get("data_set")
    if state is not None and state.gate.exists():
        raise ConfigInvalid(
            f"site {folder} has a ledger, and its data set stays as it is",
            got=f"state at {state.root}",
            wanted="a site without a ledger",
            next_step="Under a second name the same patients would have a second budget. For the same patients in "
            "another file, change `file`, `format` and `query` in site.toml and run: fedhealth site data check",
        )
    if connected is not None and state is None:
        raise ConfigInvalid(
            f"site file {folder / 'site.toml'} has a data set already",
            next_step="Give --state, the folder where the site's state is or will be, so that it can be seen whether a "
            "ledger counts on it.",
        )


def locate_table(folder: Path, file: Path, table_format: TableFormat | None, query: str | None) -> TableSource:
    """Return what to read.

    Args:
        folder: the site's folder, in which the file must lie.
        file: as the administrator typed it, from where they are or from the site's folder.
        table_format: told by the file's name if None.
        query: what to ask a database.

    Raises:
        ConfigInvalid: it lies elsewhere, or the query is missing, not wanted, or not of each patient alone.
    """
    place = file_inside(folder, file.absolute() if file.exists() else file)
    source = TableSource(place, table_format or format_of(place), query.strip() if query else None)
    try:
        check_query(source.query, source.format)
    except ValueError as error:
        raise ConfigInvalid(
            f"{place} cannot be connected like this",
            got=str(error),
            next_step="Give --query for a database, as in --query 'SELECT * FROM visits', and for nothing else.",
        ) from None
    return source


def look_at(source: TableSource) -> Table:
    """Read a table that is to be connected.

    Raises:
        DataUnusable: as `read_source`.
        ConfigInvalid: its first line is no header: its cells would be taken for names, which may cross the border.
    """
    table = read_source(source, strict=False)
    odd = [name for name in table.columns if not name or not is_text(name) or _is_number(name)]
    if odd or not table.rows:
        raise ConfigInvalid(
            f"{source.file} does not look like a table with a header",
            got=f"{len(odd)} columns without a name, or with a number for one" if odd else "no rows",
            wanted="a first line that names the columns, in UTF-8",
            next_step="Export it again with a header; in a query, name each column with AS.",
        )
    return table


def check_figure(declared_patients: int) -> None:
    """Refuse a figure that looks counted: it becomes public.

    Raises:
        ConfigInvalid: it has more than two digits before its zeros; 30, 450 and 12000 have not.
    """
    if declared_patients < 1 or len(str(declared_patients).rstrip("0")) > 2:
        raise ConfigInvalid(
            f"{declared_patients} is not a round figure",
            wanted="at most two digits before the zeros, such as 30, 450 or 12000",
            next_step="It becomes public: take it from a yearly report, never from the table.",
        )


def connect_data_set(folder: Path, connection: Connection) -> None:
    """Write a data set into `site.toml`; comments and all other lines stay as they are.

    Raises:
        ConfigInvalid: the file would not be valid, or cannot be edited without changing something else.
    """
    path, text = (folder / "site.toml").resolve(), _site_text(folder)
    values = _values(folder, connection)
    edited = _edited(text, values)
    if len(edited.encode()) > MAX_CONFIG_BYTES:
        raise ConfigInvalid(
            f"the columns of {connection.source.file} do not fit into a site file",
            got=f"{len(connection.columns)} columns",
            next_step="Leave out those that no study will ask for.",
        )
    made = parse_toml(edited.encode(), path, SiteFile, "the site file that would come of it,").data_set
    if made != DataSet.model_validate(values) or _beside_data_set(edited) != _beside_data_set(text):
        raise ConfigInvalid(
            f"site file {path} cannot be edited without changing more than its data set",
            next_step="Move [data_set] to its end, or write it by hand: docs/data.md.",
        )
    before = path.stat()
    replace_file(path, edited.encode(), stat.S_IMODE(before.st_mode))
    for owner, group in ((-1, before.st_gid), (before.st_uid, -1)):
        with suppress(PermissionError):  # the gate reads by its group; only root can keep another's file that one's
            os.chown(path, owner, group)


def check_data_set(folder: Path, study: Study | None, index: Path | None) -> tuple[Table, tuple[Problem, ...]]:
    """Read a site's data set and return it with all that is wrong with it, or may be; for the administrator alone.

    Args:
        folder: the site's folder.
        study: a study to look at it for; None for the table alone.
        index: the folder of the site's index, for a study whose cohort is chosen by codes.

    Raises:
        ConfigInvalid: site.toml is wrong, or an index is wanted and None is given.
        DataUnusable: the data set, or the index, cannot be read at all.
    """
    data_set = load_site_file(folder).data_set
    table = read_source(data_set.source, strict=False)
    if data_set.patient_column not in table.columns:
        gone = Problem("error", data_set.patient_column, "there is no such column", "Correct patient_column.")
        return table, (gone,)
    declared = {column.name: column.type for column in data_set.columns}
    tried = try_query(data_set.source, table, data_set.patient_column)
    problems = find_problems(table, data_set.patient_column, declared, data_set.split_column)
    found = (*([tried] if tried else []), *problems)
    if study is None:
        return table, found
    facts = _patient_facts_of(study, index)
    chosen = rows_of_cohort(table, study, data_set.patient_column, facts)
    known = {(each.column, each.rows) for each in found if each.rows}
    misfits = (each for each in find_misfits(chosen, study) if (each.column, each.rows) not in known)
    return table, (*found, *find_cohort_problems(table, study, data_set.patient_column, facts), *misfits)


def _patient_facts_of(study: Study, index: Path | None) -> Callable[[], tuple[PatientFacts, ...]]:
    if index is not None:
        return partial(read_patient_facts, index)
    if study.cohort is not None:
        raise ConfigInvalid(
            f"the cohort of study '{study.name}' is chosen by codes, which are in the site's index",
            next_step="Give --state, the site's state folder, where the index is.",
        )
    return tuple


def _site_text(folder: Path) -> str:
    path = folder / "site.toml"
    try:
        text = read_config(path, "site file").decode()
        tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigInvalid(f"site file {path} is not TOML", got=str(error), next_step="Correct the file.") from error
    return text


def _values(folder: Path, connection: Connection) -> dict[str, object]:
    source = connection.source
    return {
        "name": connection.name,
        "file": str(source.file.relative_to(folder.resolve())),
        "format": None if source.format == format_of(source.file) else source.format,
        "query": source.query,
        "patient_column": connection.patient_column,
        "declared_patients": connection.declared_patients,
        "split_column": None,  # it was of another table
        "columns": [{"name": column.name, "type": column.type} for column in connection.columns],
    }


def _edited(text: str, values: Mapping[str, object]) -> str:
    document = tomlkit.parse(text)
    section = document.get("data_set")
    if not isinstance(section, TomlTable):
        document.pop("data_set", None)
        section = tomlkit.table()
        document["data_set"] = section
    for key in _KEYS:
        if values[key] is None or key == "columns":
            section.pop(key, None)
    for key, value in values.items():
        if isinstance(value, str) and _is_block(value):
            section[key] = tomlkit.string(value, literal=True, multiline=True)
        elif value is not None:
            section[key] = value
    attested = f"attested by {local_user()}, {datetime.now(UTC):%Y-%m-%d}"
    section["patient_column"].comment(f"names patients, not visits: {attested}")
    if "query" in section:
        section["query"].comment(f"each row rests on its own patient alone: {attested}")
    return tomlkit.dumps(document)


def _is_block(text: str) -> bool:
    """Say whether a text of several lines can be written as it is, without escapes."""
    plain = all(line.isprintable() for line in text.split("\n"))
    return "\n" in text and plain and "'''" not in text and not text.endswith("'")


def _is_number(name: str) -> bool:
    return not is_blank(name) and not is_unreadable(name)


def _beside_data_set(text: str) -> Mapping[str, object]:
    """Return what a site file says beside what connecting a data set may change."""
    values = tomllib.loads(text)
    section = values.pop("data_set", {})
    return values | {f"data_set.{key}": value for key, value in section.items() if key not in _KEYS}
