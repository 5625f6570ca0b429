"""Arguments and endings that the commands of `fedhealth audit` share."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.output import warn
from fedhealth.errors import SIMULATION_EXIT_CODE, UNSAFE_TEST_SITE_EXIT_CODE, ConfigInvalid

Source = Annotated[
    Path,
    typer.Argument(
        metavar="GATE_FOLDER_OR_FILE", help="A gate's state folder, its ledger.sqlite, a copy, or an exported bundle."
    ),
]
Sources = Annotated[
    list[Path],
    typer.Argument(
        metavar="LEDGER...",
        help="Gates' state folders, ledger files, exported bundles, or folders of them.",
    ),
]
Evidence = Annotated[
    Path | None,
    typer.Option(help="A run's evidence.json: each ledger must extend the head of its site that is in it."),
]
Expected = Annotated[
    list[str] | None, typer.Option("--site", metavar="SITE", help="A site that must be there; repeat it.")
]
WitnessKey = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="The coordinator's witness key, from its operator: the ledger must name it, a run be sealed by it.",
    ),
]


def end_of_test_site(unsafe: bool, simulation: bool = False) -> None:
    """End with an exit code of its own where the noise is known, and with another where there is no such site."""
    if simulation:
        warn("SIMULATION: there are no such sites, and their noise is known.")
        raise typer.Exit(SIMULATION_EXIT_CODE)
    if unsafe:
        warn("TEST SITE: its noise is known; nothing it released is private.")
        raise typer.Exit(UNSAFE_TEST_SITE_EXIT_CODE)


def published_heads(evidence: Path) -> dict[str, str]:
    """Return the signed heads of the sites' ledgers from an evidence file, by site.

    Raises:
        ConfigInvalid: it holds none.
    """
    try:
        sites = json.loads(evidence.read_bytes())["sites"]
        return {str(each["site"]): str(each["ledger"]["note"]) for each in sites}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigInvalid(
            f"{evidence} holds no heads of ledgers", wanted="the evidence.json of a run", next_step="Check the path."
        ) from error


def published_head(evidence: Path, site: str) -> str:
    """Return the signed head of one site's ledger from an evidence file.

    Raises:
        ConfigInvalid: there is none of this site.
    """
    heads = published_heads(evidence)
    if site not in heads:
        raise ConfigInvalid(
            f"{evidence} holds no head of site '{site}'",
            wanted="the evidence.json of a run in which the site took part",
            next_step="Check the path.",
        )
    return heads[site]
