"""`fedhealth audit`: what a compliance officer does, offline."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.errors import UNSAFE_TEST_SITE_EXIT_CODE, ConfigInvalid

app = typer.Typer(help="For the compliance officer: verify ledgers, offline.", no_args_is_help=True)


@app.callback()
def _role() -> None:
    """Keep `verify` a verb of its own while it is the only one."""


@app.command()
def verify(
    path: Annotated[
        Path, typer.Argument(metavar="GATE_FOLDER_OR_LEDGER", help="A gate's state folder, or its ledger.sqlite.")
    ],
    evidence: Annotated[
        Path | None,
        typer.Option(help="A run's evidence.json: the ledger must extend the head of this site that is in it."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Verify a ledger offline; exit 0 only if no byte was changed.

    Exit codes: 0 intact; 7 damaged (the first bad entry is named);
    8 the signature is wrong; 10 intact, but of a test site: its noise is known.

    Example: fedhealth audit verify runs/demo-DATE/state/hungary/gate
    """
    from fedhealth.privacy.verify import verify_ledger

    found = verify_ledger(path)
    if evidence is not None:
        found = verify_ledger(path, _published_head(evidence, found.head.site))
    if as_json:
        plain = dataclasses.asdict(found) | {"head": found.head.model_dump()}
        typer.echo(json.dumps(plain, indent=2))
    else:
        typer.echo(f"intact: {found.head.size} entries of site '{found.head.site}', {found.releases} releases charged")
        typer.echo(f"  root        {found.head.root}")
        typer.echo(f"  ledger key  {found.ledger_key}")
        typer.echo("              (compare it with the key certified when the site joined)")
        compared = f"extends the head in {evidence}" if evidence else "with no head from outside (--evidence)"
        typer.echo(f"  compared    {compared}")
        typer.echo(f"  witnessed   up to entry {found.witnessed} by the coordinator")
        for line in found.spending:
            typer.echo(f"  {line.data_set}, {line.cohort} patients:")
            typer.echo(f"    epsilon {line.epsilon_spent:.3f} of {line.epsilon_cap:g} spent at delta {line.delta:g},")
            typer.echo(
                f"    which is {line.share_spent:.1%} of the budget; approvals set aside {line.share_set_aside:.1%}"
            )
        typer.echo("  (a budget is counted in mu squared, which adds up; epsilon does not)")
    if found.unsafe_test_site:
        typer.echo("TEST SITE: its noise is known; nothing it released is private.", err=True)
        raise typer.Exit(UNSAFE_TEST_SITE_EXIT_CODE)


def _published_head(evidence: Path, site: str) -> str:
    """Return the signed head of a site's ledger from an evidence file."""
    try:
        sites = json.loads(evidence.read_bytes())["sites"]
        return str(next(each["ledger"]["note"] for each in sites if each["site"] == site))
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise ConfigInvalid(
            f"{evidence} holds no head of site '{site}'",
            wanted="the evidence.json of a run in which the site took part",
            next_step="Check the path.",
        ) from error
