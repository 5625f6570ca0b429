"""`fedhealth site page`: the clinician's page, and the two processes behind it."""

import logging
import os
import socket
import sys
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from fedhealth.cli.lifeline import Lifeline, leaving_at_once, loading, run_until_stopped
from fedhealth.cli.output import say_step
from fedhealth.cli.site_arguments import State, made_state
from fedhealth.cli.site_processes import tell_incomplete
from fedhealth.errors import ConfigInvalid

_PAGE_USER = "fedhealth-page"

Study = Annotated[Path | None, typer.Option(help="The signed search study, to have other hospitals count.")]
Key = Annotated[Path | None, typer.Option(help="The asker's signing key: fedhealth study keygen.")]
Certificate = Annotated[Path | None, typer.Option(help="The hospital's word for the asker: fedhealth site vouch.")]
Handed = Annotated[int, typer.Option(help="A socket that the parent handed over, by its number.")]


def page(
    state: State,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Where a browser finds it; 0 for any free port.")] = 8462,
    address: Annotated[str, typer.Option(help="127.0.0.1 or ::1: it is served on this machine alone.")] = "127.0.0.1",
    study: Study = None,
    key: Key = None,
    certificate: Certificate = None,
    user: Annotated[str, typer.Option(help="Run by root: the Unix user that the page becomes.")] = _PAGE_USER,
    token_file: Annotated[
        Path | None, typer.Option(help="Write the token to this file, for its owner alone, and show it nowhere.")
    ] = None,
) -> None:
    """Serve the clinician's page to browsers of this machine: search here, and counts from other hospitals.

    Shows a token, drawn anew each time, to be typed once in the browser. The page can read no patient's file: a second
    process, the gate's user's, without a network, searches. Counts are offered where study, key and certificate are
    given. Run as the gate's user, or as root with a user for the page.

    Example: fedhealth site page --state state/hungary
    """
    with leaving_at_once():
        from fedhealth.page.running import PageProcesses, listen_for_browsers
        from fedhealth.page.sessions import draw_token, hash_of
        from fedhealth.processes import Processes, RunAs
        from fedhealth.secret_file import SECRET_MODE, replace_file
        from fedhealth.site.file_rights import groups_of

        root = made_state(state).absolute()
        options = {"--study": study, "--key": key, "--certificate": certificate}
        if len({value is None for value in options.values()}) > 1:
            raise ConfigInvalid("--study, --key and --certificate belong together", wanted="all of them, or none")
        asker = [word for name, value in options.items() if value for word in (name, str(value.absolute()))]
        owner = (root / "gate").stat()
        users: tuple[RunAs | None, RunAs | None] = (None, None)
        if os.geteuid() == 0 != owner.st_uid:
            number, groups = groups_of(user)
            if number in (0, owner.st_uid):
                raise ConfigInvalid("the page needs a user of its own", got=user, next_step="See docs/page.md.")
            _, of_gate = groups_of(str(owner.st_uid))
            users = (RunAs(number, min(groups), groups), RunAs(owner.st_uid, owner.st_gid, of_gate))
        elif os.geteuid() != owner.st_uid or not _is_one_user(root):
            raise ConfigInvalid(
                "this user cannot start the page",
                got=f"user number {os.geteuid()}",
                wanted="root; or the gate's where the node's is the same",
                next_step="See docs/page.md.",
            )
        listener = listen_for_browsers(address, port)
        token = draw_token()
    with listener, Processes(None) as processes:
        place = f"http://{f'[{address}]' if ':' in address else address}:{listener.getsockname()[1]}/"
        if token_file is not None:
            replace_file(token_file, f"{token}\n".encode(), SECRET_MODE)
        shown = {} if token_file else {"token": token}
        said = f"the token is in {token_file}" if token_file else f"the token to type there: {token}"
        say_step(f"open {place} in a browser of this machine; {said}", {"event": "open", "address": place} | shown)
        running = PageProcesses(processes, root, users, lambda text: say_step(text, {"event": "state", "text": text}))
        running.keep_running(listener, hash_of(token), asker)


def _is_one_user(root: Path) -> bool:
    """Return whether gate and node are one user: else a page of the gate's user could hand nothing to the node."""
    node = root / "node"
    return not node.is_dir() or node.stat().st_uid == (root / "gate").stat().st_uid


def page_server(
    state: State,
    listener: Handed,
    control: Handed,
    study: Study = None,
    key: Key = None,
    certificate: Certificate = None,
    lifeline: Lifeline = False,
) -> None:
    """Serve the page, as the child of `fedhealth site page` that speaks to browsers and reads no patient's file.

    Example: fedhealth site page-server --state state/hungary --listener 5 --control 6
    """
    from fedhealth.local_log import withhold_tracebacks
    from fedhealth.site.confinement import confine_page

    withhold_tracebacks()
    files = [each for each in (study, key, certificate) if each is not None]
    with suppress(OSError):
        os.nice(10)  # a gate that computes comes first
    tell_incomplete("page", confine_page(*files))  # before anything is imported that starts threads
    with loading(lifeline):
        import threading
        import time

        import uvicorn

        from fedhealth.page.channel import SearchChannel
        from fedhealth.page.running import read_greeting, take_lines
        from fedhealth.page.sessions import Sessions
        from fedhealth.page.web import PageSettings, make_page
        from fedhealth.site.asking import load_asker
        from fedhealth.site.state import SiteState

    port, parent = socket.socket(fileno=listener), socket.socket(fileno=control)
    asker = load_asker(study, key, certificate) if study and key and certificate else None
    settings = PageSettings(port.getsockname()[1], SiteState(state).counts_socket, asker)
    channel = SearchChannel()
    served = make_page(settings, Sessions(read_greeting(parent), time.monotonic), channel)
    threading.Thread(target=take_lines, args=(parent, channel), daemon=True).start()
    config = uvicorn.Config(
        served, log_config=None, access_log=False, server_header=False, lifespan="off", ws="none", limit_concurrency=64
    )
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)  # what it says may hold what was asked
    say_step("", {"event": "serving"})
    run_until_stopped(uvicorn.Server(config).serve(sockets=[port]), lifeline)


def page_search(
    state: State,
    channel: Handed,
    asker: Annotated[str, typer.Option(help="For whom, as the log of accesses names it: the page's Unix user.")],
    lifeline: Lifeline = False,
) -> None:
    """Search for the page, as the child of `fedhealth site page` that has the index and no network.

    Example: fedhealth site page-search --state state/hungary --channel 5 --asker page
    """
    from fedhealth.cli.search_text import document_of
    from fedhealth.cli.site_index import enter_domain

    line = socket.socket(fileno=channel)
    domain = replace(enter_domain(None, state, background=False), asker=asker)
    with loading(lifeline):
        from fedhealth.page.searcher import serve_searches
        from fedhealth.site.search_index import open_index
        from fedhealth.site.searching import Searching

    with line, closing(open_index(domain.index, domain.consent)[0]) as index:
        say_step("", {"event": "searching"})
        serve_searches(line, Searching(domain, index), document_of)
    sys.exit(0)
