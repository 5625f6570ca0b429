"""`fedhealth site`: what a site administrator does, and the two processes of a site."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from fedhealth.errors import ConfigInvalid

app = typer.Typer(
    help="For the site administrator: make a site, approve studies, run its processes.", no_args_is_help=True
)

Folder = Annotated[Path, typer.Argument(help="The site's folder, with site.toml and policy.toml.")]
State = Annotated[Path, typer.Option("--state", help="The site's state folder, made by `site init`.")]
Lifeline = Annotated[bool, typer.Option("--lifeline", help="End when standard input closes.", hidden=True)]
Users = Annotated[
    list[str] | None, typer.Option("--node-user", help="A Unix user whose node may connect; this user by default.")
]


@app.command()
def init(
    folder: Folder,
    state: State,
    witness: Annotated[str, typer.Option(help="The coordinator's witness key, 64 hexadecimal digits.")],
    trust: Annotated[list[str] | None, typer.Option(help="Pin a researcher's key: NAME=KEY. Repeatable.")] = None,
    unsafe_test_site: Annotated[
        int | None,
        typer.Option(help="SEED of known noise, for tests: the ledger says for ever that nothing here is private."),
    ] = None,
) -> None:
    """Make a site's ledger, keys and secrets, once. Prints the ledger's public key.

    Example: fedhealth site init sites/hungary --state state/hungary --witness KEY --trust alice=KEY
    """
    from fedhealth.site.state import SiteState, init_site

    researchers = {}
    for pin in trust or []:
        name, separator, key = pin.partition("=")
        if not separator or len(key) != 64 or not set(key) <= set("0123456789abcdef"):
            raise ConfigInvalid(f"cannot pin '{pin}'", wanted="NAME=KEY with 64 hexadecimal digits")
        researchers[name] = key
    typer.echo(init_site(folder, SiteState(state), witness, researchers, unsafe_test_site))


@app.command()
def approve(
    folder: Folder,
    study: Annotated[Path, typer.Argument(help="The signed study.")],
    state: State,
) -> None:
    """Look at a study with this hospital's patients in view, and approve it. The gate must not be running.

    What is printed here stays at the hospital.

    Example: fedhealth site approve sites/hungary study.signed --state state/hungary
    """
    from fedhealth.learning.diagnosis import STEPS
    from fedhealth.site.approval import approve_study
    from fedhealth.site.state import SiteState
    from fedhealth.training.per_patient import make_deterministic

    make_deterministic()
    approved, seen = approve_study(folder, SiteState(state), _read(study), STEPS)
    typer.echo(f"approved study {approved.study[:12]} by {approved.by}")
    for side, patients in seen.patients.items():
        typer.echo(
            f"  {side}: {patients} patients, {seen.positives[side]} with the condition; "
            f"epsilon {seen.epsilon[side]:.3f}, {seen.share[side]:.1%} of the budget"
        )


@app.command()
def resume(
    folder: Folder,
    study: Annotated[str, typer.Argument(help="Digest of the study, 64 hexadecimal digits.")],
    state: State,
) -> None:
    """Let a study that a failure stopped here go on. The gate must not be running.

    Example: fedhealth site resume sites/hungary DIGEST --state state/hungary
    """
    from fedhealth.site.approval import resume_study
    from fedhealth.site.state import SiteState

    resume_study(folder, SiteState(state), study)
    typer.echo("resumed; start the gate again")


@app.command()
def gate(folder: Folder, state: State, node_user: Users = None, lifeline: Lifeline = False) -> None:
    """Run the gate: it has the data and no network. Serves until it is stopped.

    Example: fedhealth site gate sites/hungary --state state/hungary
    """
    from fedhealth.site.isolation import leave_network, user_ids

    allowed = user_ids(node_user or [])
    if not leave_network(allowed):  # before anything is imported that starts threads
        logging.getLogger("fedhealth").warning("this kernel does not let the gate leave the network by itself")
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(0))

    from fedhealth.learning.diagnosis import STEPS
    from fedhealth.site.gate_process import open_gate, serve_gate
    from fedhealth.site.state import SiteState
    from fedhealth.training.per_patient import make_deterministic

    make_deterministic()
    site_state = SiteState(state)
    opened, ledger = open_gate(folder, site_state, STEPS)
    try:
        serve_gate(opened, site_state.socket, allowed, sys.stdin.fileno() if lifeline else None)
    finally:
        ledger.close()


@app.command()
def node(state: State, lifeline: Lifeline = False) -> None:
    """Run the node: it has the network and no data. Keeps the site connected until it is stopped.

    Example: fedhealth site node --state state/hungary
    """
    from fedhealth.site.node import run_node
    from fedhealth.site.state import SiteState

    def on_state(change: str) -> None:
        logging.getLogger("fedhealth").info("link: %s", change)

    run_until_stopped(run_node(SiteState(state), on_state), lifeline)


def run_until_stopped(work: Coroutine[Any, Any, Any], lifeline: bool) -> None:
    """Run a coroutine until it ends, a signal comes, or (with a lifeline) standard input closes."""

    async def supervised() -> None:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
        for stop in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(stop, task.cancel)
        if lifeline:
            loop.add_reader(sys.stdin.fileno(), lambda: None if os.read(sys.stdin.fileno(), 1) else task.cancel())
        with suppress(asyncio.CancelledError):
            await task

    asyncio.run(supervised())


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigInvalid(
            f"the signed study {path} cannot be read", got=error.strerror or "an error", next_step="Check the path."
        ) from error
