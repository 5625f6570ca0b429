"""`fedhealth study`: what a researcher does: write, check and sign a protocol, and see it through (`study_runs`)."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedhealth.cli import study_runs, study_simulate
from fedhealth.cli.output import answer, console, remark, say
from fedhealth.errors import ConfigInvalid

if TYPE_CHECKING:
    from fedhealth.learning.foresight import Foresight
    from fedhealth.policy.limits import SiteLimits
    from fedhealth.study.search_study import SearchStudy

app = typer.Typer(
    help="For the researcher: write a study protocol, see what it would cost, sign it, have it run.",
    no_args_is_help=True,
)

app.command()(study_simulate.simulate)
app.command()(study_runs.submit)
app.command("list")(study_runs.list_all)
for verb in (study_runs.watch, study_runs.stop, study_runs.results):
    app.command()(verb)

Protocol = Annotated[Path, typer.Argument(metavar="PROTOCOL", help="The study protocol, a TOML file.")]


@app.command()
def new(
    name: Annotated[str, typer.Argument(help="A short name: lower-case letters, digits, hyphens.")],
    task: Annotated[Literal["diagnosis"], typer.Option(help="What kind of question it is.")] = "diagnosis",
    data: Annotated[
        Path | None, typer.Option(help="Draft the features from this table, which you may look at.")
    ] = None,
    endpoint: Annotated[str, typer.Option(help="With --data: the column that is predicted.")] = "",
    positive: Annotated[
        str, typer.Option(help="With --data: the word that means yes, or the number above which it is yes.")
    ] = "",
    kind: Annotated[
        Literal["binary", "category", "classes", "number"] | None,
        typer.Option(help="With --data: what the endpoint is, where its values do not tell."),
    ] = None,
    patient_column: Annotated[
        str, typer.Option(help="With --data: names the patient; without it every row is one.")
    ] = "",
    ignore: Annotated[
        list[str] | None, typer.Option(help="With --data: no feature, such as the hospital. Repeatable.")
    ] = None,
    data_set: Annotated[str, typer.Option(help="What the hospitals call their table.")] = "",
    cohort: Annotated[
        Path | None, typer.Option(help="Of these patients alone: what fedhealth count --save has written.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Where to write it; NAME.toml if not said.")] = None,
) -> None:
    """Write a commented protocol that runs, for you to finish.

    Example: fedhealth study new sepsis --data ward.csv --endpoint died --ignore hospital
    """
    from fedhealth.config import parse_toml
    from fedhealth.learning.draft import EXAMPLE, TableRoles, columns_of, draft_protocol
    from fedhealth.records.source import read_table_file
    from fedhealth.secret_file import PUBLIC_MODE, create_file
    from fedhealth.study.coded_cohort import load_cohort
    from fedhealth.study.protocol import Study

    columns = EXAMPLE
    if data is not None:
        if not endpoint:
            raise ConfigInvalid(
                "nobody can tell what is to be predicted",
                got="--data without --endpoint",
                next_step="Name its column: --endpoint COLUMN.",
            )
        table = read_table_file(data)
        columns = columns_of(table, TableRoles(endpoint, positive, kind, patient_column, ignore or ()))
    path = out or Path(f"{name}.toml")
    text = draft_protocol(name, task, data_set or name, columns, load_cohort(cohort) if cohort else None)
    study = parse_toml(text.encode(), path, Study, "study protocol")
    if path.exists():
        raise ConfigInvalid(f"{path} exists already", next_step="Choose another file with --out.")
    create_file(path, text.encode(), PUBLIC_MODE)
    say(
        f"wrote {path}: {len(study.features)} features, {study.dimension} model inputs",
        wrote=str(path),
        features=len(study.features),
        dimension=study.dimension,
        left_out=list(columns.left_out),
    )
    for line in columns.left_out:
        say(f"  left out: {line}")
    say(f"next: fedhealth study check {path}")


@app.command()
def check(
    protocol: Protocol,
    limits: Annotated[
        list[Path] | None,
        typer.Option(help="What sites publish: SITE.limits.json files, or folders of them. Repeatable."),
    ] = None,
) -> None:
    """Say all that is knowable before: costs, noise at hospitals of each size, the sites' limits.

    Ends with code 6 if a site's published limits forbid the study.

    Example: fedhealth study check protocols/heart-disease-diagnosis.toml --limits sites
    """
    from fedhealth.errors import PolicyForbids
    from fedhealth.learning.foresight import foresee
    from fedhealth.policy.limits import read_limits
    from fedhealth.study.search_study import SearchStudy, load_protocol

    study = load_protocol(protocol)
    if isinstance(study, SearchStudy):
        _check_search(study, read_limits(limits or []))
        return
    found = foresee(study, read_limits(limits or []))
    answer(asdict(found))
    say(f"{study.title} ({study.name}, {study.digest[:12]})")
    if study.cohort is not None:
        say(f"of whom each site's index says: {study.cohort.words}")
    _show(found, study.rounds, study.spare_rounds)
    if any(site.refusals for site in found.sites):
        raise typer.Exit(PolicyForbids.exit_code)


@app.command()
def keygen(
    key: Annotated[Path, typer.Argument(metavar="KEY_FILE", help="Where to; must not exist, but with --public.")],
    public: Annotated[bool, typer.Option("--public", help="Print the public half of a key that exists.")] = False,
) -> None:
    """Make your signing key, once. Prints the public half, which each site's administrator pins.

    Example: fedhealth study keygen researcher.key
    """
    from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex

    shown = public_key_hex(load_signing_key(key).public_key() if public else create_signing_key(key))
    say(shown, public_key=shown, **({} if public else {"wrote": str(key)}))


@app.command()
def sign(
    protocol: Protocol,
    key: Annotated[Path, typer.Option(help="Your signing key: fedhealth study keygen.")],
    out: Annotated[Path | None, typer.Option(help="Where to write it; PROTOCOL with the suffix .signed.")] = None,
) -> None:
    """Sign a protocol: from then on one changed byte makes it another study. Prints its digest.

    Example: fedhealth study sign sepsis.toml --key researcher.key
    """
    from fedhealth.learning.open_texts import refuse_open_texts
    from fedhealth.learning.plan import plan_study
    from fedhealth.secret_file import PUBLIC_MODE, replace_file
    from fedhealth.signing import load_signing_key
    from fedhealth.study.search_study import SearchStudy, load_protocol
    from fedhealth.study.signature import sign_study

    study = load_protocol(protocol)
    if not isinstance(study, SearchStudy):
        refuse_open_texts(study)
        plan_study(study)  # a study that no mechanism can serve is nobody's to approve
    path = out or protocol.with_suffix(".signed")
    replace_file(path, sign_study(study, load_signing_key(key)), PUBLIC_MODE)
    remark(f"signed study {study.digest}: {path}", wrote=str(path))
    say(study.digest, study=study.digest)


@app.command()
def schema() -> None:
    """Print the JSON Schema of a protocol, for editors that complete and check TOML.

    Example: fedhealth study schema
    """
    from fedhealth.learning.models.table import MODELS
    from fedhealth.study.protocol import Study

    found = Study.model_json_schema()
    found["$defs"]["Model"]["properties"]["kind"]["enum"] = sorted(MODELS)
    say(json.dumps(found, indent=2), **found)


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _check_search(study: "SearchStudy", limits: "Sequence[SiteLimits]") -> None:
    from fedhealth.errors import PolicyForbids
    from fedhealth.search.foresight import foresee_search

    found = foresee_search(study, limits)
    answer(asdict(found))
    say(f"{study.title} ({study.name}, {study.digest[:12]})")
    say(
        f"  a count   +-{found.half_width} patients in 19 of 20, epsilon {study.counts.epsilon:g}; "
        f'below {study.counts.least_shown} only "fewer"'
    )
    say(f"  all       {study.counts.most} counts: epsilon {found.epsilon:.2f} at delta {study.delta:g}, for everybody")
    say(f"  shares    {study.counts.shares}")
    for site in found.sites:
        share = "-" if site.share is None else f"{site.share:.0%} of its budget"
        say(f"  {site.site}: {share}; {'; '.join(site.refusals) or 'nothing against it'}")
    if any(site.refusals for site in found.sites):
        raise typer.Exit(PolicyForbids.exit_code)


def _show(found: "Foresight", rounds: int, spare: int) -> None:
    from rich.table import Table

    page = console()

    def show(title: str, columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
        table = Table(title=title, title_justify="left", title_style="bold")
        for place, column in enumerate(columns):
            table.add_column(column, justify="left" if place == 0 else "right")
        for row in rows:
            table.add_row(*row)
        page.print(table)

    show(
        "What it costs a patient " + (f"({rounds} rounds and {spare} spare ones)" if rounds else "(one release)"),
        ("part", "patients", "releases", "epsilon", "noise, patients"),
        [
            (c.part, c.patients if rounds else "all", str(c.releases), f"{c.epsilon:.3f}", f"{c.noise:.1f}")
            for c in found.costs
        ],
    )
    if found.sites:
        show(
            "What the sites' published limits say",
            ("site", "of budget", "verdict"),
            [
                (s.site, "-" if s.share is None else f"{s.share:.0%}", "; ".join(s.refusals) or "nothing against it")
                for s in found.sites
            ],
        )
    rows = [
        (
            s.site or "(example)",
            f"{s.declared_patients:,}",
            *([_number(s.update_noise, 3), _number(s.weight_noise, 2)] if rounds else []),
            ("-" if s.half_width is None else f"+-{s.half_width:.2f}") + (" withheld" if s.withheld else ""),
        )
        for s in found.sizes
    ]
    if found.sites:
        half, noise = found.federation_half_width, found.federation_weight_noise
        shown = "-" if half is None else f"+-{half:.2f}"
        trained = ["", _number(noise, 2)] if rounds else []
        rows.insert(len(found.sites), ("all of them", "", *trained, shown))
    show(
        "What the noise does to a hospital of each size",
        ("hospital", "patients", *(["noise a round", "noise on a weight"] if rounds else []), found.headline),
        rows,
    )
    trained_words = (
        "Noise a round: on the mean gradient, in parts of the clip. On a weight: after all rounds, trained there "
        "alone. "
    )
    page.print(
        (trained_words if rounds else "") + "Last: half of the 95 % interval to expect of the headline figure.",
        style="dim",
    )
    for warning in found.warnings:
        page.print(f"WARNING: {warning}", style="yellow")
