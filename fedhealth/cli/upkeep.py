"""`fedhealth site recovery-key | backup | recover`: for the day on which a site's machine is lost."""

from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.site import Folder, State, made_state


def recovery_key(
    file: Annotated[Path, typer.Argument(help="A new file for the private half. Keep it away from this machine.")],
) -> None:
    """Make the key that opens backups, once. Prints its public half, for `fedhealth site backup`.

    Example: fedhealth site recovery-key /media/safe/hungary.recovery
    """
    from fedhealth.site.backup import create_recovery_key

    typer.echo(create_recovery_key(file))


def backup(
    folder: Folder,
    state: State,
    to: Annotated[Path, typer.Option("--to", help="A new file.")],
    recovery_key: Annotated[str, typer.Option(help="Public half of the recovery key, 64 hexadecimal digits.")],
) -> None:
    """Write what a lost site needs to come back, encrypted to the recovery key. The gate may be running.

    Ledger, keys and secrets, studies, policy; never the noise secret, the data, or the node's keys.

    Example: fedhealth site backup sites/hungary --state state/hungary --to hungary.backup --recovery-key KEY
    """
    from fedhealth.site.backup import back_up_site
    from fedhealth.site.state import SiteState

    entries = back_up_site(folder, SiteState(made_state(state)), recovery_key, to)
    typer.echo(f"wrote {to}: a ledger of {entries} entries and what belongs to it")


def recover(
    folder: Folder,
    state: State,
    backup: Annotated[Path, typer.Option("--from", help="The backup.")],
    key: Annotated[Path, typer.Option("--key", help="The file that `fedhealth site recovery-key` made.")],
) -> None:
    """Make a lost site's state again from a backup; nothing leaves before the coordinator has said what it lacks.

    Example: fedhealth site recover sites/hungary --state state/hungary --from hungary.backup --key hungary.recovery
    """
    from fedhealth.site.backup import recover_site
    from fedhealth.site.state import SiteState

    found = recover_site(folder, SiteState(state), backup, key)
    typer.echo(f"recovered site '{found.site}' with a ledger of {found.entries} entries and a new noise secret")
    for name in found.kept:
        typer.echo(f"{folder / name} is not as in the backup and was left as it is; compare them")
    typer.echo("next: put the data in place; join again with a new invitation (fedhealth site enrol); start gate and")
    typer.echo("node and let the coordinator connect; stop the gate; fedhealth site recover-ledger")
