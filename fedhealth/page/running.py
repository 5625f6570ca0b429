"""The page's processes as children of one: the page, and what searches; the latter is started again when it ends.

The parent opens the port, draws the token, and gives each new searching process one end of a pair of sockets and the
page the other. As root it starts the page as a user of its own and what searches as the gate's; it reads nothing of
either. When the page ends, all stops.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from fedhealth.errors import ConfigInvalid, FederationFailed, LinkUnavailable
from fedhealth.page.channel import SearchChannel
from fedhealth.processes import Child, Processes, RunAs
from fedhealth.site.isolation import spawning_without_network
from fedhealth.site.restart_waits import RestartWaits
from fedhealth.site.state import user_name
from fedhealth.unix_socket import receive_exactly

LOOPBACK = ("127.0.0.1", "::1")
_LOOK_SECONDS = 0.2
_NEW_LINE = b"+"
_MOST_GREETING_BYTES = 1024


def listen_for_browsers(address: str, port: int) -> socket.socket:
    """Return a socket of this machine's loopback at which browsers find the page.

    Args:
        address: 127.0.0.1 or ::1.
        port: 0 for any free one.

    Raises:
        ConfigInvalid: the address is not the loopback's.
        LinkUnavailable: the port is in use.
    """
    if address not in LOOPBACK:
        raise ConfigInvalid(
            "the page listens on this machine's loopback alone, since it has no TLS",
            got=address,
            wanted=" or ".join(LOOPBACK),
            next_step="From another machine forward its port: ssh -L 8462:127.0.0.1:8462 HOST",
        )
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        return socket.create_server((address, port), family=family)
    except OSError as error:
        raise LinkUnavailable(
            f"the page cannot listen at {address}, port {port}",
            got=error.strerror or "an error",
            wanted="a free port of this machine",
            next_step="Choose another one with --port, or stop the program that uses it (ss -ltnp shows which).",
        ) from error


class PageProcesses:
    """The page and what searches, kept running.

    Args:
        processes: owns them.
        state: the site's state folder, absolute.
        users: as whom the page and what searches run; None for this process's own user.
        say: told what happens, a line at a time.
    """

    def __init__(
        self,
        processes: Processes,
        state: Path,
        users: tuple[RunAs | None, RunAs | None],
        say: Callable[[str], None],
    ) -> None:
        self._processes, self._state, self._say = processes, state, say
        self._page_user, self._search_user = users
        self._waits, self._due = RestartWaits(), time.monotonic()
        self._search: Child | None = None

    def keep_running(self, listener: socket.socket, token_hash: str, asker: Sequence[str]) -> NoReturn:
        """Start both and keep what searches running until this is stopped.

        Args:
            listener: where browsers find the page.
            token_hash: of the token.
            asker: options of the command line that say who asks other hospitals.

        Raises:
            FederationFailed: the page ended.
        """
        ours, theirs = socket.socketpair()
        with ours, theirs:
            words = ["site", "page-server", "--state", str(self._state), *asker]
            words += ["--listener", str(listener.fileno()), "--control", str(theirs.fileno())]
            handed = (listener.fileno(), theirs.fileno())
            page = self._processes.start("page", words, run_as=self._page_user, hand=handed)
            theirs.close()
            ours.sendall(greeting(token_hash))
            while page.process.poll() is None:
                self._look(ours)
                time.sleep(_LOOK_SECONDS)
        raise FederationFailed("the page ended", got=page.end(), next_step="Its reason stands above. Start it again.")

    def _look(self, control: socket.socket) -> None:
        """Start what searches where it is due, and hand the page its line."""
        if self._search is not None and self._search.process.poll() is not None:
            wait = self._waits.after(time.monotonic() - self._due)
            self._say(f"search: ended ({self._search.end()}); it is started again in {wait:g} seconds")
            self._processes.forget(self._search)
            self._search, self._due = None, time.monotonic() + wait
        if self._search is not None or time.monotonic() < self._due:
            return
        self._due = time.monotonic()
        for_page, for_search = socket.socketpair()
        with for_page, for_search:
            words = ["site", "page-search", "--state", str(self._state), "--channel", str(for_search.fileno())]
            words += ["--asker", user_name(self._page_user.user if self._page_user else os.geteuid())]
            with spawning_without_network():
                self._search = self._processes.start(
                    "search", words, run_as=self._search_user, hand=(for_search.fileno(),)
                )
            try:
                socket.send_fds(control, [_NEW_LINE], [for_page.fileno()])
            except OSError:
                return  # the page has ended, which is seen next


def greeting(token_hash: str) -> bytes:
    """Return the first message of the parent to the page."""
    data = json.dumps({"token_hash": token_hash}).encode()
    return len(data).to_bytes(4, "big") + data


def read_greeting(control: socket.socket) -> str:
    """Return the hash of the token, the parent's first word.

    Raises:
        OSError: the parent is gone.
    """
    length = int.from_bytes(receive_exactly(control, 4), "big")
    if length > _MOST_GREETING_BYTES:
        raise ConnectionResetError("the first message is too long")
    return str(json.loads(bytes(receive_exactly(control, length)))["token_hash"])


def take_lines(control: socket.socket, channel: SearchChannel) -> None:
    """Hand each new line of the parent's to the channel until the parent is gone."""
    while True:
        try:
            word, handed, _, _ = socket.recv_fds(control, len(_NEW_LINE), 1)
        except OSError:
            return
        if word != _NEW_LINE:
            return
        for each in handed:
            channel.attach(socket.socket(fileno=each))
