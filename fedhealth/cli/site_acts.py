"""`fedhealth site pause | resume | rotate-key | key-statement | recover-ledger`: acts that the ledger keeps."""

import textwrap
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.completion import approved_studies
from fedhealth.cli.output import agreed, say
from fedhealth.cli.site_arguments import STUDY_HELP, Folder, State, made_state
from fedhealth.errors import LedgerBehind


def pause(folder: Folder, state: State) -> None:
    """Let the whole site answer `busy` until it is resumed; the ledger says by whom. The gate may be running.

    A running gate is told over a socket that only its own user and root can open; it holds from the next frame on,
    also in the middle of a round. A gate that computes finishes that first.

    Example: fedhealth site pause sites/hungary --state state/hungary
    """
    from fedhealth.site.acts import pause_site
    from fedhealth.site.state import SiteState

    running = pause_site(folder, SiteState(made_state(state)))
    when = "from now on" if running else "when it is started"
    say(f"paused; the gate answers busy to every study {when}", paused=True, gate_running=running)


def resume(
    folder: Folder,
    state: State,
    study: Annotated[
        str | None,
        typer.Argument(
            metavar="STUDY",
            help=f"A stopped study; {STUDY_HELP}",
            show_default=False,
            autocompletion=approved_studies,
        ),
    ] = None,
) -> None:
    """Let a paused site go on; or, if a study is named, one that a failure stopped here. The gate may be running.

    The ledger says by whom. A study is stopped here when the gate fails after a charge: for want of memory, disk or
    time. Find out why before it goes on.

    Example: fedhealth site resume sites/hungary --state state/hungary
    """
    from fedhealth.site.acts import resume_site, resume_study
    from fedhealth.site.state import SiteState

    site_state = SiteState(made_state(state))
    if study is None:
        running = resume_site(folder, site_state)
        text = "the site goes on" if running else "the site goes on; start the gate again"
        say(text, paused=False, gate_running=running)
        return
    running = resume_study(folder, site_state, study)
    text = "resumed; the gate goes on with it" if running else "resumed; start the gate again"
    say(text, resumed=study, gate_running=running)


def rotate_key(folder: Folder, state: State) -> None:
    """Change the key that signs the ledger, for ever. The gate must not be running.

    The coordinator accepts nothing from this site before it has followed the new key: bring it the file that
    `fedhealth site key-statement` writes. The old private key is overwritten; a copy of the ledger from before can
    not be recovered any more, so make a new copy of the state folder afterwards.

    Example: fedhealth site rotate-key sites/hungary --state state/hungary
    """
    from fedhealth.site.acts import rotate_key as rotate
    from fedhealth.site.state import SiteState

    key = rotate(folder, SiteState(made_state(state)))
    say(key, ledger_key=key)


def key_statement(
    folder: Folder,
    state: State,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="The file to write; a new one.")],
) -> None:
    """Write the file by which the coordinator follows the site's ledger key. The gate must not be running.

    It holds public keys and signatures only. The coordinator's operator takes it in with
    `fedhealth coordinator follow-key`.

    Example: fedhealth site key-statement sites/hungary --state state/hungary -o hungary.key-statement
    """
    from fedhealth.canonical import canonical_bytes
    from fedhealth.secret_file import PUBLIC_MODE, create_file
    from fedhealth.site.acts import key_statement as statement
    from fedhealth.site.state import SiteState

    said = statement(folder, SiteState(made_state(state)))
    create_file(output, canonical_bytes(said), PUBLIC_MODE)
    rotations = len(said.rotations)
    say(f"wrote {output}; rotations of the ledger key so far: {rotations}", wrote=str(output), rotations=rotations)


def recover_ledger(
    folder: Folder, state: State, yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False
) -> None:
    """Put a ledger right after an older copy was found in its place. The gate must not be running.

    The coordinator gives the missing entries back while the gate runs; here they are opened, checked against the head
    that it has signed for, shown, and written once confirmed. Charges come back, payloads do not. Where the file
    ledger.anchor is lost, it is made again; what was charged and not stored is then closed, because it may have left.
    A ledger of another history is never repaired.

    Example: fedhealth site recover-ledger sites/hungary --state state/hungary
    """
    from fedhealth.site.recovery import describe_recovery, examine_recovery
    from fedhealth.site.recovery import recover_ledger as recover
    from fedhealth.site.state import SiteState

    site_state = SiteState(made_state(state))
    recovery = examine_recovery(folder, site_state)
    if recovery is None:
        say("the ledger needs no recovery; nothing was written", recovered=False)
        return
    for line in describe_recovery(recovery):
        indent = " " * (len(line) - len(line.lstrip()))
        say(textwrap.fill(line.strip(), 80, initial_indent=indent, subsequent_indent=indent + "  "))
    if not yes and not agreed("Write this?"):
        say("not written; the gate stays held")
        raise typer.Exit(LedgerBehind.exit_code)
    recover(folder, site_state, recovery)
    say("written; start the gate again", recovered=True, entries_before=recovery.size, given_back=len(recovery.entries))
