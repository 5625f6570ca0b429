"""`fedhealth site preflight | status`: how a site stands; `recovery-key | backup | recover`: its machine is lost."""

import dataclasses
import json
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.site_arguments import Folder, State, made_state
from fedhealth.errors import ConfigInvalid

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def preflight(
    folder: Folder,
    state: State,
    node_user: Annotated[str | None, typer.Option(help="The node's Unix user, by name or number.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check that this machine has what gate and node need and keeps them apart; each fault comes with its remedy.

    Clock, disk, GPU, confinement, data, users, permissions, the coordinator's port, TLS. As the gate's user, or as root
    to see all of it. Ends with exit code 3 if something is wrong.

    Example: fedhealth site preflight sites/hungary --state state/hungary --node-user fedhealth-node
    """
    from fedhealth.site.file_rights import groups_of
    from fedhealth.site.preflight import inspect_site
    from fedhealth.site.state import SiteState

    node = groups_of(node_user) if node_user else None
    found = list(inspect_site(folder, SiteState(made_state(state)), node, datetime.now(UTC)))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(finding) for finding in found], indent=2))
    else:
        for finding in found:
            typer.echo(f"{finding.verdict:<8} {finding.check:<12} {finding.found}")
            if finding.remedy:
                typer.echo(f"{'':<21} -> {finding.remedy}")
    if any(finding.verdict == "wrong" for finding in found):
        raise typer.Exit(ConfigInvalid.exit_code)


def status(state: State, as_json: AsJson = False) -> None:
    """Say how a site stands: certificate, link, budget, and what waits for whom. The gate may be running.

    Example: fedhealth site status --state state/hungary
    """
    from fedhealth.site.state import SiteState
    from fedhealth.site.status import status_of

    found = status_of(SiteState(made_state(state)), datetime.now(UTC))
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(found), indent=2, default=str))
        return
    typer.echo(f"site '{found.site}', {found.studies} approved studies")
    for name, said in (
        ("certificate", found.certificate),
        ("renewal", found.renewal),
        ("link", found.link),
        ("gate", found.gate),
    ):
        typer.echo(f"  {name + ':':<13} {said}")
    for spent in found.spending:
        typer.echo(f"  {spent.data_set}, {spent.cohort} patients:")
        typer.echo(f"    {spent.share_spent:.1%} of the budget spent, {spent.share_set_aside:.1%} set aside")
    for wait in found.waits:
        typer.echo(textwrap.fill(f"waits: {wait}", 80, initial_indent="  ", subsequent_indent="    "))
    if not found.waits:
        typer.echo("  nothing waits")


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
