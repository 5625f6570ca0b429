"""The arguments that verbs of `fedhealth site` share, and the check that a site's state is there."""

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.errors import ConfigInvalid
from fedhealth.link.engine import Engine

Folder = Annotated[
    Path, typer.Argument(metavar="SITE_FOLDER", help="The site's folder, with site.toml and policy.toml.")
]
STUDY_HELP = "its digest, or the first 8 digits of it or more."
State = Annotated[Path, typer.Option("--state", help="The site's state folder, made by `site enrol` or `site init`.")]
EngineChoice = Annotated[
    Engine | None,
    typer.Option("--engine", help="Which way frames take, as the coordinator has chosen; node.toml says it otherwise."),
]


def made_state(state: Path) -> Path:
    """Return a site's state folder that exists."""
    if not (state / "gate").is_dir():
        raise ConfigInvalid(
            f"there is no site's state at {state}",
            got="no folder 'gate' in it",
            wanted="a folder made by `fedhealth site init`",
            next_step="Correct --state; for a new site: fedhealth site init --help",
        )
    return state
