"""`fedhealth site data add | check | list`: the hospital's table, for its administrator alone."""

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.completion import table_formats
from fedhealth.cli.output import agreed, answer, ask, console, printable, say, working
from fedhealth.cli.site_arguments import Folder
from fedhealth.errors import ApprovalMissing, ConfigInvalid, DataUnusable
from fedhealth.table_source import TABLE_FORMATS, TableFormat

if TYPE_CHECKING:
    from fedhealth.records.columns import Column, Problem
    from fedhealth.records.table import Table
    from fedhealth.study.protocol import Study

app = typer.Typer(help="Connect the hospital's table, check it, list what is written of it.", no_args_is_help=True)

_WIDTH = 80
_MOST_ROWS_NAMED = 8


@app.command()
def add(
    folder: Folder,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="CSV, Parquet, DuckDB or SQLite, in SITE_FOLDER.")],
    query: Annotated[str | None, typer.Option(help="One SELECT, for a DuckDB or SQLite file.")] = None,
    table_format: Annotated[
        str | None,
        typer.Option(
            "--format", help=f"{', '.join(TABLE_FORMATS)}; told by the name if not given.", autocompletion=table_formats
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What studies call the data set.")] = None,
    patient_column: Annotated[str | None, typer.Option(help="The column that names the patient.")] = None,
    declared_patients: Annotated[
        int | None, typer.Option(help="A public round figure near the number of patients; not counted here.", min=1)
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Where the site's state is, or will be; to change a data set.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Attest what would be asked, without being asked.")] = False,
) -> None:
    """Look at a table, and write into site.toml what it is: its columns and their types, no value of it.

    You attest what no program can know: that the patient column names patients and not visits, and that each row of a
    query rests on the records of its own patient alone. What is printed here stays at the hospital; of all this, the
    names of data set and columns and `declared_patients` are public.

    Example: fedhealth site data add sites/ward sites/ward/visits.parquet --name icu
    """
    import dataclasses

    from fedhealth.records.columns import describe_columns, patient_candidates
    from fedhealth.records.query_trial import check_rows_alone
    from fedhealth.site.data_set import (
        Connection,
        check_connectable,
        check_figure,
        connect_data_set,
        locate_table,
        look_at,
    )
    from fedhealth.site.state import SiteState

    if yes:
        _check_given({"name": name, "declared-patients": declared_patients})
    if declared_patients is not None:
        check_figure(declared_patients)
    check_connectable(folder, SiteState(state) if state else None)
    source = locate_table(folder, file, _known_format(table_format), query)
    table = look_at(source)
    patient = patient_column or _chosen_column(patient_candidates(table), yes)
    if patient not in table.columns:
        raise ConfigInvalid(
            f"{source.file} has no column '{patient}'",
            next_step="Correct --patient-column; a header is wanted in the first line.",
        )
    check_rows_alone(source, table, patient)
    columns = describe_columns(table, patient)
    _show(table, columns, patient)
    if not yes and not _attested(patient, query):
        say("not connected; nothing was written")
        raise typer.Exit(ApprovalMissing.exit_code)
    name = name or ask("Name that studies call it by", "--name")
    figure = declared_patients or int(
        ask("Declared patients (a public round figure, not counted from the table)", "--declared-patients")
    )
    check_figure(figure)
    connect_data_set(folder, Connection(source, name, patient, figure, columns))
    say(
        f"connected as data set '{name}'; written to {folder / 'site.toml'}",
        data_set=name,
        patient_column=patient,
        declared_patients=figure,
        columns=[dataclasses.asdict(column) for column in columns],
    )
    say(f"next: [budget.{name}] in {folder / 'policy.toml'}, and")
    say(f"      fedhealth site data check {folder}")


@app.command()
def check(
    folder: Folder,
    study: Annotated[
        Path | None, typer.Option(help="A study to check for as well: its protocol, or the signed study.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="The site's state folder, for a study with a cohort by codes.")
    ] = None,
) -> None:
    """Read the whole table and list all that is wrong with it, or may be: where, never what a cell holds.

    With a study: columns that are missing, words spelled otherwise, values outside the public range, features that
    give the answer away. Ends with exit code 4 if there is an error. What is printed stays at the hospital.

    Example: fedhealth site data check sites/hungary --study protocols/heart-disease-diagnosis.toml
    """
    import dataclasses

    from fedhealth.site.data_set import check_data_set
    from fedhealth.site.state import SiteState

    asked = _study_of(study)
    with working("reading the table, and what a study asks of it"):
        table, problems = check_data_set(folder, asked, SiteState(state).index if state else None)
    wrong = any(problem.level == "error" for problem in problems)
    answer({"row_word": table.row_word, "problems": [dataclasses.asdict(problem) for problem in problems]})
    for problem in problems:
        _say(problem, table.row_word)
    if not wrong:
        say("the data set can be read as it should be" + (", and fits the study" if study else ""))
    if wrong:
        raise typer.Exit(DataUnusable.exit_code)


@app.command(name="list")
def list_(folder: Folder) -> None:
    """List what site.toml says of the data set: its columns, their types, and the figure that is declared.

    Example: fedhealth site data list sites/hungary
    """
    from fedhealth.policy.site_file import load_site_file

    data_set = load_site_file(folder).data_set
    answer(data_set.model_dump(mode="json") | {"format": data_set.source.format})
    say(f"data set '{data_set.name}'")
    say(f"  file:              {data_set.file} ({data_set.source.format})")
    if data_set.query is not None:
        say(f"  query:             {' '.join(data_set.query.split())}")
    say(f"  patient column:    {data_set.patient_column}")
    say(f"  declared patients: {data_set.declared_patients}")
    for column in data_set.columns:
        say(f"  {column.type:<9} {printable(column.name)}")
    if not data_set.columns:
        say("  no column types are written down; `fedhealth site data add` writes them")


def _known_format(given: str | None) -> TableFormat | None:
    for known in TABLE_FORMATS:
        if given == known:
            return known
    if given is None:
        return None
    raise ConfigInvalid(f"there is no format '{given}'", wanted=", ".join(TABLE_FORMATS), next_step="Correct --format.")


def _chosen_column(candidates: tuple[str, ...], yes: bool) -> str:
    if not yes:
        return ask("Column that names the patient", "--patient-column", candidates[0] if candidates else None)
    if len(candidates) != 1:
        raise ConfigInvalid(
            "it cannot be told which column names the patient",
            got=f"{len(candidates)} columns that may",
            wanted="one",
            next_step="Give --patient-column.",
        )
    return candidates[0]


def _check_given(options: dict[str, object]) -> None:
    for option, value in options.items():
        if value is None:
            raise ConfigInvalid(f"--{option} is missing", next_step=f"With --yes nothing is asked; give --{option}.")


def _attested(patient: str, query: str | None) -> bool:
    statements = [f"Does '{printable(patient)}' name patients, and not visits or samples?"]
    if query is not None:
        statements.append("Does each row rest on the records of its own patient alone (no average or rank of others)?")
    return all(agreed(statement) for statement in statements)


def _show(table: "Table", columns: "tuple[Column, ...]", patient: str) -> None:
    from rich.table import Table as Grid
    from rich.text import Text

    from fedhealth.records.table import patients_per_row

    grid = Grid(box=None, pad_edge=False, header_style="bold")
    for heading, width in (("column", 3), ("type", None), ("blank", None), ("look at", 5)):
        grid.add_column(heading, ratio=width, justify="right" if heading == "blank" else "left", overflow="fold")
    for column in columns:
        share = column.blank_share
        blank = "" if share == 0 else "< 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
        grid.add_row(Text(printable(column.name)), column.type, blank, Text("; ".join(column.doubts)))
    page = console()
    page.print(grid, width=_WIDTH, highlight=False)
    share = patients_per_row(table, patient)
    if share:
        say(f"each value of '{printable(patient)}' has {1 / share:.1f} rows on average")


def _say(problem: "Problem", row_word: str) -> None:
    place = f"column '{printable(problem.column)}': " if problem.column else ""
    rows = ", ".join(map(str, problem.rows[:_MOST_ROWS_NAMED]))
    if len(problem.rows) > _MOST_ROWS_NAMED:
        rows += f" and {len(problem.rows) - _MOST_ROWS_NAMED} more"
    numbers = f" ({row_word}{'s' if len(problem.rows) > 1 else ''} {rows})" if rows else ""
    said = f"{problem.level}: {place}{problem.what}{numbers}. {problem.next_step}"
    say(textwrap.fill(printable(said), _WIDTH, subsequent_indent="  "))


def _study_of(path: Path | None) -> "Study | None":
    """Return the study in a protocol file or a signed study."""
    from fedhealth.secret_file import read_plain_file
    from fedhealth.study.protocol import load_study
    from fedhealth.study.signature import MAX_SIGNED_STUDY_BYTES, open_signed_study

    if path is None:
        return None
    if path.suffix == ".toml":
        return load_study(path)
    try:
        return open_signed_study(read_plain_file(path, MAX_SIGNED_STUDY_BYTES)).study
    except OSError as error:
        raise ConfigInvalid(
            f"the study {path} cannot be read", got=error.strerror or "an error", next_step="Check the path."
        ) from error
