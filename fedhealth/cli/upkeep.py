"""`fedhealth site preflight | status`: how a site stands; `recovery-key | backup | recover`: its machine is lost."""

import dataclasses
import textwrap
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.output import answer, say
from fedhealth.cli.site_arguments import Folder, State, made_state
from fedhealth.errors import ConfigInvalid


def preflight(
    folder: Folder,
    state: State,
    node_user: Annotated[str | None, typer.Option(help="The node's Unix user, by name or number.")] = None,
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
    answer([dataclasses.asdict(finding) for finding in found])
    for finding in found:
        say(f"{finding.verdict:<8} {finding.check:<12} {finding.found}")
        if finding.remedy:
            say(f"{'':<21} -> {finding.remedy}")
    if any(finding.verdict == "wrong" for finding in found):
        raise typer.Exit(ConfigInvalid.exit_code)


def status(state: State) -> None:
    """Say how a site stands: certificate, link, budget, and what waits for whom. The gate may be running.

    Example: fedhealth site status --state state/hungary
    """
    from fedhealth.site.state import SiteState
    from fedhealth.site.status import status_of

    found = status_of(SiteState(made_state(state)), datetime.now(UTC))
    answer(dataclasses.asdict(found))
    say(f"site '{found.site}', {found.studies} approved studies")
    for name, said in (
        ("certificate", found.certificate),
        ("renewal", found.renewal),
        ("link", found.link),
        ("engine", found.engine),
        ("gate", found.gate),
    ):
        say(f"  {name + ':':<13} {said}")
    for spent in found.spending:
        say(f"  {spent.data_set}, {spent.cohort} patients:")
        say(f"    {spent.share_spent:.1%} of the budget spent, {spent.share_set_aside:.1%} set aside")
    for wait in found.waits:
        say(textwrap.fill(f"waits: {wait}", 80, initial_indent="  ", subsequent_indent="    "))
    if not found.waits:
        say("  nothing waits")


def recovery_key(
    file: Annotated[Path, typer.Argument(help="A new file for the private half. Keep it away from this machine.")],
) -> None:
    """Make the key that opens backups, once. Prints its public half, for `fedhealth site backup`.

    Example: fedhealth site recovery-key /media/safe/hungary.recovery
    """
    from fedhealth.site.backup import create_recovery_key

    key = create_recovery_key(file)
    say(key, recovery_key=key, wrote=str(file))


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
    say(f"wrote {to}: a ledger of {entries} entries and what belongs to it", wrote=str(to), entries=entries)


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
    text = f"recovered site '{found.site}' with a ledger of {found.entries} entries and a new noise secret"
    say(text, **dataclasses.asdict(found))
    for name in found.kept:
        say(f"the site's {name} is not as in the backup and was left as it is; compare them")
    say("next: put the data in place; join again with a new invitation (fedhealth site enrol); start gate and")
    say("node and let the coordinator connect; stop the gate; fedhealth site recover-ledger")
