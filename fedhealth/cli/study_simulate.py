"""`fedhealth study simulate`: hospitals made of one table, with the real gates, on this machine."""

from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedhealth.cli.output import answer, console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console
    from rich.table import Table

    from fedhealth.coordinator.report import EstimateReference, Reference, Score
    from fedhealth.learning.binary_figures import Figures
    from fedhealth.simulation.run import OnProgress, Simulation

_MOST_SITES_SHOWN, _MOST_FIGURES_SHOWN = 20, 2
_HEADS = {"auc": "AUC"}


def simulate(
    protocol: Annotated[Path, typer.Argument(metavar="PROTOCOL", help="The study protocol, a TOML file.")],
    data: Annotated[Path, typer.Option(help="A CSV or Parquet table with the rows of all hospitals.")],
    site_column: Annotated[str, typer.Option(help="Each value of this column is a hospital.")],
    patient_column: Annotated[str | None, typer.Option(help="Names the patient; without it every row is one.")] = None,
    declared_patients: Annotated[
        int | None,
        typer.Option(min=1, help="Public figure of every hospital; each one's own number, rounded, if not said."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides the noise and who is held out.")] = 0,
    rounds: Annotated[int | None, typer.Option(min=1, max=10_000, help="Other rounds than the protocol's.")] = None,
    reference: Annotated[
        bool, typer.Option(help="Also work out what is not private: raw figures, local, pooled, without noise.")
    ] = True,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; as many as pay if not said. The result is the same.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for all it leaves; runs/simulation-DATE by default.")] = None,
) -> None:
    """Try a study on your own table: each value of a column is a hospital.

    The gates, charges, noise and figures are those of a real run; the network is
    left out. With the same records, secrets and seed a real run has the same
    numbers. Nothing here is private: the noise is known.

    Example: fedhealth study simulate protocols/heart-disease-diagnosis.toml --data heart.csv --site-column dataset
    """
    from fedhealth.cli.lifeline import leaving_at_once

    with leaving_at_once():
        from fedhealth.simulation.hospitals import Split
        from fedhealth.simulation.run import simulate_table, with_rounds
        from fedhealth.study.protocol import load_study

    study = with_rounds(load_study(protocol), rounds)
    folder = out or Path("runs") / f"simulation-{datetime.now().astimezone():%Y%m%d-%H%M%S}"
    page = console()
    with _progress(page, study.rounds) as on_progress:
        found = simulate_table(
            study,
            data,
            Split(site_column, patient_column, declared_patients, seed),
            folder,
            with_reference=reference,
            workers=workers,
            on_progress=on_progress,
        )
    answer(_plain(found))
    for warning in found.warnings:
        page.print(f"WARNING: {warning}", style="yellow", markup=False)
    _show(found, page)


@contextmanager
def _progress(page: "Console", rounds: int) -> "Iterator[OnProgress]":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=page, disable=not page.is_terminal, transient=True) as progress:
        task = progress.add_task("reading the table", total=rounds)
        yield lambda what, done: progress.update(task, description=what, completed=done)


def _plain(found: "Simulation") -> dict[str, Any]:
    return {
        "simulation": True,
        "folder": str(found.folder),
        "warnings": list(found.warnings),
        "evidence": found.evidence.model_dump(mode="json"),
        "not_private": None if found.reference is None else found.reference.model_dump(mode="json"),
    }


def _show(found: "Simulation", page: "Console") -> None:
    evidence = found.evidence
    page.print(_private_table(found))
    page.print(
        f"epsilon {max(site.epsilon for site in evidence.sites):.3f} at delta {found.study.privacy.delta:g}, exactly "
        f"what a real run would cost a patient; "
        + (f"{evidence.rounds_completed} rounds, " if found.study.training else "one release of each of ")
        + f"{len(evidence.sites)} hospitals",
        highlight=False,
    )
    if found.reference is not None:
        page.print()
        page.print(_reference_table(found.reference))
    results = found.folder / "results"
    for line in (
        f"Report:  {found.folder / 'report.html'}",
        f"Results: {results} (as a real federation could publish them)",
        f"Check:   fedhealth audit verify {results} (ends with 13: a simulation)",
    ):
        page.print(line, soft_wrap=True, markup=False, highlight=False)


def _private_table(found: "Simulation") -> "Table":
    from rich.table import Table

    from fedhealth.learning.figures import Figure, FigureTable

    shown = found.evidence.pooled.named()
    if not isinstance(found.evidence.pooled, FigureTable):  # the two that say most of a yes or no
        shown = tuple(row for row in shown if (row.group, row.name) in (("", "accuracy"), ("", "auc")))
    shown = shown[:_MOST_FIGURES_SHOWN]

    def cells(figures: "Figures | FigureTable | None") -> list[str]:
        if figures is None:
            return ["not asked for", *[""] * (len(shown) - 1)]
        stated = {(row.group, row.name): row.figure for row in figures.named()}
        return [text(stated[row.group, row.name]) for row in shown]

    def text(figure: Figure) -> str:
        if figure.estimate is None or figure.low is None or figure.high is None:
            return "too few patients"
        return f"{figure.estimate:.2f} ({figure.low:.2f} to {figure.high:.2f})"

    whom = "held-out patients" if found.study.training else "all patients"
    table = Table(title=f"As in a real run: {whom}, 95 % intervals", title_justify="left")
    heads = [f"{row.group}: {row.name}" if row.group else _HEADS.get(row.name, row.name) for row in shown]
    for column in ("hospital", "patients", *heads):
        table.add_column(column, justify="left" if column == "hospital" else "right")
    for site in found.evidence.sites[:_MOST_SITES_SHOWN]:
        table.add_row(site.site, f"{site.declared_patients:,}", *cells(site.figures))
    if (more := len(found.evidence.sites) - _MOST_SITES_SHOWN) > 0:
        table.add_row(f"... {more} more")
    table.add_section()
    declared = sum(site.declared_patients for site in found.evidence.sites)
    table.add_row("all together", f"{declared:,}", *cells(found.evidence.pooled))
    return table


def _reference_table(reference: "Reference | EstimateReference") -> "Table":
    from rich.table import Table

    from fedhealth.coordinator.report import EstimateReference
    from fedhealth.coordinator.wording import row_words

    if isinstance(reference, EstimateReference):
        plain = Table(title="NOT PRIVATE: simulation only. The same patients without noise", title_justify="left")
        plain.title_style = "bold yellow"
        for column in ("figure", "without noise"):
            plain.add_column(column)
        for row in reference.without_privacy.rows:
            plain.add_row(f"{row.group}: {row.name}" if row.group else row.name, row_words(row))
        return plain

    def text(score: "Score | None") -> str:
        if score is None:
            return ""
        if score.accuracy is None:
            return "-" if score.concordance is None else f"{score.concordance:.3f}"
        return f"{score.accuracy:.3f}, AUC " + ("-" if score.auc is None else f"{score.auc:.3f}")

    table = Table(
        title=f"NOT PRIVATE: simulation only. Raw {reference.measure} on held-out patients",
        title_justify="left",
        title_style="bold yellow",
    )
    for column in ("model", "patients", "own patients", "all patients"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for site in reference.sites[:_MOST_SITES_SHOWN]:
        patients = f"{site.training_patients + site.held_out_patients:,}"
        table.add_row(f"{site.site} alone", patients, text(site.local_alone), text(site.local_alone_pooled))
    if (more := len(reference.sites) - _MOST_SITES_SHOWN) > 0:
        table.add_row(f"... {more} more", "", "", "")
    table.add_section()
    everybody = f"{sum(site.training_patients + site.held_out_patients for site in reference.sites):,}"
    table.add_row("the federation's, private", everybody, "", text(reference.federated))
    table.add_row("its rounds without noise", "", "", text(reference.federated_without_privacy))
    table.add_row("one table, no privacy", "", "", text(reference.pooled_without_privacy))
    return table
