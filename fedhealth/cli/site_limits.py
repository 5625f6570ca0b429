"""`fedhealth site limits`: what a hospital publishes of itself, so that researchers can plan."""

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.output import say
from fedhealth.cli.site_arguments import Folder


def limits(
    folder: Folder,
    out: Annotated[Path | None, typer.Option(help="A file to write, such as hungary.limits.json.")] = None,
) -> None:
    """Print what a researcher may know beforehand: data set, declared patients, rules, cap. Nothing from the table.

    Example: fedhealth site limits sites/hungary --out hungary.limits.json
    """
    from fedhealth.policy.limits import limits_of
    from fedhealth.policy.rules import load_policy
    from fedhealth.policy.site_file import load_site_file
    from fedhealth.secret_file import PUBLIC_MODE, replace_file

    found = limits_of(load_site_file(folder), load_policy(folder)[0])
    text = found.model_dump_json(indent=2)
    if out is None:
        say(text, **found.model_dump(mode="json"))
    else:
        replace_file(out, f"{text}\n".encode(), PUBLIC_MODE)
        say(f"wrote {out}", wrote=str(out))
