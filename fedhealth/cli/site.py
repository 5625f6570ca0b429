"""`fedhealth site`: what a site administrator does, and the two processes of a site."""

import logging
import re
import signal
import sys
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedhealth.cli.lifeline import Lifeline, loading, run_until_stopped
from fedhealth.errors import ApprovalMissing, ConfigInvalid, LedgerBehind

if TYPE_CHECKING:
    from fedhealth.site.landlock import Sandbox

_LOG = logging.getLogger(__name__)

app = typer.Typer(
    help="For the site administrator: make a site, approve studies, run its processes.", no_args_is_help=True
)

Folder = Annotated[
    Path, typer.Argument(metavar="SITE_FOLDER", help="The site's folder, with site.toml and policy.toml.")
]
State = Annotated[Path, typer.Option("--state", help="The site's state folder, made by `site init`.")]
_KEY, _NAME = "[0-9a-f]{64}", "[a-z0-9][a-z0-9-]{0,62}"
Users = Annotated[
    list[str] | None, typer.Option("--node-user", help="A Unix user whose node may connect; this user by default.")
]
Trust = Annotated[list[str] | None, typer.Option(help="Pin a researcher's key: NAME=KEY. Repeatable.")]
UnsafeTestSite = Annotated[
    int | None,
    typer.Option(help="SEED of known noise, for tests: the ledger says for ever that nothing here is private."),
]


@app.command()
def init(
    folder: Folder,
    state: State,
    witness: Annotated[str, typer.Option(help="The coordinator's witness key, 64 hexadecimal digits.")],
    trust: Trust = None,
    unsafe_test_site: UnsafeTestSite = None,
) -> None:
    """Make a site's ledger, keys and secrets, once. Prints the ledger's public key.

    Example: fedhealth site init sites/hungary --state state/hungary --witness KEY --trust alice=KEY
    """
    from fedhealth.site.state import SiteState, init_site

    if not re.fullmatch(_KEY, witness):
        raise ConfigInvalid(
            "the witness key is not a public key",
            got=f"--witness {witness}",
            wanted="64 hexadecimal digits in lower case",
            next_step="Ask the coordinator's operator for the witness key.",
        )
    typer.echo(init_site(folder, SiteState(state), witness, researcher_pins(trust), test_site_seed(unsafe_test_site)))


@app.command()
def approve(
    folder: Folder,
    study: Annotated[Path, typer.Argument(metavar="SIGNED_STUDY", help="The signed study.")],
    state: State,
    yes: Annotated[bool, typer.Option("--yes", help="Approve without asking.")] = False,
) -> None:
    """Look at a study with this hospital's patients in view, and approve it or not. The gate must not be running.

    What is printed here stays at the hospital.

    Example: fedhealth site approve sites/hungary study.signed --state state/hungary
    """
    from fedhealth.learning.diagnosis import STEPS
    from fedhealth.site.approval import approve_study, examine_study
    from fedhealth.site.state import SiteState
    from fedhealth.training.per_patient import make_deterministic

    make_deterministic()
    site_state = SiteState(made_state(state))
    proposal = examine_study(folder, site_state, _read(study), STEPS)
    asked, seen = proposal.study, proposal.seen
    typer.echo(f"{asked.title} ({asked.name}, {asked.digest[:12]})")
    typer.echo(f"  purpose:     {asked.purpose}")
    typer.echo(f"  asked by:    key {proposal.approval.researcher[:12]}")
    typer.echo(f"  what leaves: {asked.training.rounds} noised gradients, one noised table of four counts")
    for side, patients in seen.patients.items():
        typer.echo(f"  {side}: {patients} patients, {seen.positives[side]} with the condition;")
        typer.echo(f"    may cost each at most {seen.share[side]:.1%} of the whole budget (this binds);")
        planned = f"epsilon {seen.epsilon[side]:.3f} at delta {asked.privacy.delta:g}"
        typer.echo(f"    {planned} as planned in advance (informative)")
    for warning in seen.warnings:
        typer.echo(f"  WARNING: {warning}")
    if not yes and not typer.confirm("Approve?"):
        typer.echo("not approved; nothing was written")
        raise typer.Exit(ApprovalMissing.exit_code)
    approve_study(folder, site_state, proposal)
    typer.echo(f"approved study {asked.digest} by {proposal.approval.by}")


@app.command()
def offers(
    state: State,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the studies that the coordinator offers, with the file of each to approve. The node may be running.

    Only studies with a researcher's signature that holds are listed; whether to trust the researcher is asked by
    `approve`.

    Example: fedhealth site offers --state state/hungary
    """
    import json

    from fedhealth.site.offers import read_offers

    found = read_offers(made_state(state) / "node")
    if as_json:
        shown = [
            {
                "file": str(path),
                "study": signed.study.digest,
                "name": signed.study.name,
                "researcher": signed.researcher,
            }
            for path, signed in found.items()
        ]
        typer.echo(json.dumps(shown, indent=2))
        return
    for path, signed in found.items():
        typer.echo(f"{signed.study.title} ({signed.study.name}, {signed.study.digest[:12]})")
        typer.echo(f"  asked by: key {signed.researcher[:12]}")
        typer.echo(f"  file:     {path}")
    if not found:
        typer.echo("no study is offered; the node asks whenever it connects")


@app.command()
def withdraw(
    folder: Folder,
    study: Annotated[str, typer.Argument(metavar="STUDY_DIGEST", help="64 hexadecimal digits.")],
    state: State,
) -> None:
    """Withdraw an approval: nothing more leaves for the study. The gate must not be running.

    Example: fedhealth site withdraw sites/hungary DIGEST --state state/hungary
    """
    from fedhealth.site.approval import withdraw_study
    from fedhealth.site.state import SiteState

    withdraw_study(folder, SiteState(made_state(state)), study)
    typer.echo("withdrawn; what the study had not spent is free again")


@app.command()
def resume(
    folder: Folder,
    study: Annotated[str, typer.Argument(metavar="STUDY_DIGEST", help="64 hexadecimal digits.")],
    state: State,
) -> None:
    """Let a study that a failure stopped here go on. The gate must not be running.

    Example: fedhealth site resume sites/hungary DIGEST --state state/hungary
    """
    from fedhealth.site.approval import resume_study
    from fedhealth.site.state import SiteState

    resume_study(folder, SiteState(made_state(state)), study)
    typer.echo("resumed; start the gate again")


Patient = Annotated[
    str | None,
    typer.Argument(
        metavar="PATIENT",
        help="As the patient column names the patient. Leave it out to be asked for it, or to give it on standard "
        "input, so that it stands in no shell history and no list of processes.",
        show_default=False,
    ),
]


@app.command()
def forget(folder: Folder, state: State, patient: Patient = None) -> None:
    """Keep a patient who withdraws the consent out of everything computed from now on. The gate must not be running.

    Training and evaluation, every study on the data set, records now and later; it takes effect when the gate starts
    next, also in the middle of a study. What left before cannot be called back (`fedhealth site studies-of` lists it).
    Nothing of this crosses the border.

    Example: fedhealth site forget sites/hungary --state state/hungary
    """
    from fedhealth.site.consent import forget_patient
    from fedhealth.site.state import SiteState

    records = forget_patient(folder, SiteState(made_state(state)), _patient(patient))
    found = "the data cannot be read now" if records is None else f"{records} records of this patient are in the data"
    typer.echo(f"forgotten; {found}")
    if not records:
        typer.echo("records that come later under the same name stay out as well; check how the column writes it")


@app.command()
def unforget(folder: Folder, state: State, patient: Patient = None) -> None:
    """Let a patient who gave the consent again back in. The gate must not be running.

    Example: fedhealth site unforget sites/hungary --state state/hungary
    """
    from fedhealth.site.consent import renew_consent
    from fedhealth.site.state import SiteState

    renew_consent(folder, SiteState(made_state(state)), _patient(patient))
    typer.echo("the patient is in again from the gate's next start on")


@app.command()
def studies_of(
    folder: Folder,
    state: State,
    patient: Patient = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the studies whose releases used a patient. The gate must not be running.

    At most: a patient whose endpoint was missing is listed and added nothing, and so is one whom a sampled round may
    have drawn. What is printed stays at the hospital.

    Example: fedhealth site studies-of sites/hungary --state state/hungary
    """
    import dataclasses
    import json

    from fedhealth.site.consent import studies_of as find
    from fedhealth.site.state import SiteState

    uses = find(folder, SiteState(made_state(state)), _patient(patient))
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(use) for use in uses], indent=2))
        return
    for use in uses:
        last = datetime.fromtimestamp(use.last_charged_at / 1000, UTC)
        typer.echo(f"{use.title or 'a study whose signed file is gone'} ({use.study[:12]})")
        typer.echo(f"  approved by {use.approved_by}; the last of these releases on {last:%Y-%m-%d}")
        typer.echo(f"  {use.used} releases used the patient")
        if use.unknown:
            typer.echo(f"  of {use.unknown} more it cannot be said: the record of who was in the data is missing")
    if not uses:
        typer.echo("no release of any study used this patient")


@app.command()
def pause(folder: Folder, state: State) -> None:
    """Let the whole site answer `busy` until it is unpaused; the ledger says by whom. The gate must not be running.

    Example: fedhealth site pause sites/hungary --state state/hungary
    """
    from fedhealth.site.acts import pause_site
    from fedhealth.site.state import SiteState

    pause_site(folder, SiteState(made_state(state)))
    typer.echo("paused; the gate answers busy to every study when it is started again")


@app.command()
def unpause(folder: Folder, state: State) -> None:
    """Let a paused site go on; the ledger says by whom. The gate must not be running.

    Example: fedhealth site unpause sites/hungary --state state/hungary
    """
    from fedhealth.site.acts import unpause_site
    from fedhealth.site.state import SiteState

    unpause_site(folder, SiteState(made_state(state)))
    typer.echo("the site goes on; start the gate again")


@app.command()
def rotate_key(folder: Folder, state: State) -> None:
    """Change the key that signs the ledger, for ever. The gate must not be running.

    The coordinator accepts nothing from this site before it has followed the new key: bring it the file that
    `fedhealth site key-statement` writes. The old private key is overwritten; a copy of the ledger from before can
    not be recovered any more, so make a new copy of the state folder afterwards.

    Example: fedhealth site rotate-key sites/hungary --state state/hungary
    """
    from fedhealth.site.acts import rotate_key as rotate
    from fedhealth.site.state import SiteState

    typer.echo(rotate(folder, SiteState(made_state(state))))


@app.command()
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
    typer.echo(f"wrote {output}; rotations of the ledger key so far: {len(said.rotations)}")


@app.command()
def recover_ledger(
    folder: Folder, state: State, yes: Annotated[bool, typer.Option("--yes", help="Write without asking.")] = False
) -> None:
    """Put a ledger right after an older copy was found in its place. The gate must not be running.

    The coordinator gives the missing entries back while the gate runs; here they are opened, checked against the head
    that it has signed for, shown, and written once confirmed. Charges come back, payloads do not. Where only the file
    ledger.anchor is lost, it is made again. A ledger of another history is never repaired.

    Example: fedhealth site recover-ledger sites/hungary --state state/hungary
    """
    from fedhealth.site.recovery import describe_recovery, examine_recovery
    from fedhealth.site.recovery import recover_ledger as recover
    from fedhealth.site.state import SiteState

    site_state = SiteState(made_state(state))
    recovery = examine_recovery(folder, site_state)
    if recovery is None:
        typer.echo("the ledger needs no recovery; nothing was written")
        return
    for line in describe_recovery(recovery):
        typer.echo(line)
    if not yes and not typer.confirm("Write this?"):
        typer.echo("not written; the gate stays held")
        raise typer.Exit(LedgerBehind.exit_code)
    recover(folder, site_state, recovery)
    typer.echo("written; start the gate again")


@app.command()
def gate(folder: Folder, state: State, node_user: Users = None, lifeline: Lifeline = False) -> None:
    """Run the gate: it has the data and no network. Serves until it is stopped.

    Example: fedhealth site gate sites/hungary --state state/hungary
    """
    from fedhealth.local_log import withhold_tracebacks
    from fedhealth.site.confinement import confine_gate
    from fedhealth.site.isolation import has_network, leave_network, user_ids

    withhold_tracebacks()
    allowed = user_ids(node_user or [])
    # Both before anything is imported that starts threads.
    if not leave_network(allowed) and has_network():
        _LOG.warning(
            "the gate keeps its network: it cannot leave it here without losing sight of who connects. "
            "Let the service manager take it away (PrivateNetwork=yes)."
        )
    _tell_incomplete("gate", confine_gate(folder, state))
    with loading(lifeline):
        from fedhealth.learning.diagnosis import STEPS
        from fedhealth.site.egress import EgressLog
        from fedhealth.site.gate_process import SYSTEM_CLOCK, open_gate, serve_gate
        from fedhealth.site.state import SiteState
        from fedhealth.training.per_patient import make_deterministic

        make_deterministic()
    site_state = SiteState(made_state(state))
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(0))
    opened, ledger = open_gate(folder, site_state, STEPS)
    try:
        with closing(EgressLog(site_state.gate, SYSTEM_CLOCK.unix_ms)) as log:
            serve_gate(opened, site_state.socket, allowed, sys.stdin.fileno() if lifeline else None, log.record)
    finally:
        ledger.close()


@app.command()
def node(state: State, lifeline: Lifeline = False) -> None:
    """Run the node: it has the network and no data. Keeps the site connected until it is stopped.

    Example: fedhealth site node --state state/hungary
    """
    from fedhealth.local_log import withhold_tracebacks
    from fedhealth.site.confinement import confine_node
    from fedhealth.site.node_file import load_node_file

    withhold_tracebacks()

    file = load_node_file(state / "node")
    _tell_incomplete("node", confine_node(state, file.port))  # before anything is imported that starts threads
    with loading(lifeline):
        from fedhealth.site.node import run_node
        from fedhealth.site.state import SiteState
        from fedhealth.site.status import record_link

    def on_state(change: str) -> None:
        _LOG.info("link: %(state)s", {"state": str(change)})
        with suppress(OSError):  # a full disk is no reason to lose the link
            record_link(state / "node", change, datetime.now(UTC))

    run_until_stopped(run_node(SiteState(state), file, on_state), lifeline)


@app.command()
def egress(
    state: State,
    study: Annotated[str | None, typer.Option(help="Only what left for the study with this digest.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List what left the gate: when, what, for which study, how many bytes, which hash. The gate may be running.

    Every release that ever left is listed with its first time; of heads, refusals and repeats, the last 200,000 or so.

    Example: fedhealth site egress --state state/hungary
    """
    import json

    from fedhealth.site.egress import read_egress

    found = read_egress(made_state(state) / "gate")
    lines = [line for line in found.lines if study is None or line.study == study]
    if as_json:
        shown = [line.model_dump() for line in lines]
        typer.echo(json.dumps({"lines": shown, "unreadable": found.unreadable}, indent=2))
        return
    for line in lines:
        at = datetime.fromtimestamp(line.at / 1000, UTC)
        study_name, size = (line.study or "-")[:12], f"{line.bytes:,}"
        typer.echo(f"{at:%Y-%m-%d %H:%M:%S}  {line.kind:<20} {study_name:<12} {size:>12}  {line.sha256[:10]}")
    releases = sum(line.release is not None for line in lines)
    typer.echo(f"{len(lines)} frames, {sum(line.bytes for line in lines):,} bytes; {releases} with a release")
    if found.unreadable:
        typer.echo(f"{found.unreadable} lines were cut off and cannot be read", err=True)


def _tell_incomplete(process: str, sandbox: "Sandbox") -> None:
    if not sandbox.complete:
        _LOG.warning(
            "this kernel's Landlock (interface %(abi)s) does not confine the %(process)s in full; separate users and "
            "the units in deploy/systemd still hold. deploy/README.md says what is missing.",
            {"abi": sandbox.abi, "process": process},
        )


def _patient(given: str | None) -> str:
    """Return the patient that was named, or asked for, or on the first line of standard input."""
    if given is None and sys.stdin.isatty():
        given = str(typer.prompt("Patient"))
    return sys.stdin.readline() if given is None else given


def researcher_pins(trust: list[str] | None) -> dict[str, str]:
    """Return the researchers' public keys to pin, by name."""
    researchers = {}
    for pin in trust or []:
        found = re.fullmatch(f"({_NAME})=({_KEY})", pin)
        if found is None:
            raise ConfigInvalid(
                "a researcher's key cannot be pinned",
                got=f"--trust {pin}",
                wanted="NAME=KEY: a name as in policy.toml (a-z, 0-9, -) and 64 hexadecimal digits in lower case",
                next_step="Ask the researcher for the public key.",
            )
        researchers[found[1]] = found[2]
    return researchers


def test_site_seed(unsafe_test_site: int | None) -> int | None:
    """Return the seed of a test site's known noise, if it is one."""
    if unsafe_test_site is not None and unsafe_test_site < 0:
        raise ConfigInvalid(
            "the seed of a test site cannot be used",
            got=f"--unsafe-test-site {unsafe_test_site}",
            wanted="0 or a positive whole number",
            next_step="Give another seed, or leave it out for a real site.",
        )
    return unsafe_test_site


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


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(
            f"the signed study {path} cannot be read", got=error.strerror or "an error", next_step="Check the path."
        ) from error
