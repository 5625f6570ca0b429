"""The processes of a federation on one machine, started and surely stopped.

Every child holds the read end of a pipe whose write end only the parent has: when the parent ends, however it ends,
the pipe closes and the child stops by itself. Children are in sessions of their own, so that Ctrl-C reaches the
parent alone, which then stops them in order.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fedhealth.errors import FederationFailed

STOP_SECONDS = 3.0
"""How long children have to stop by themselves before they are killed."""


@dataclass
class Child:
    """One running process and its log file."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def last_words(self) -> str:
        """Return the last lines of the log, for the person who started it."""
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return " | ".join(lines[-3:])


class Processes:
    """Children of this process; use as a context manager.

    Args:
        logs: folder for one log file per child; must exist.
    """

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, arguments: Sequence[str], *, events: bool = False) -> Child:
        """Start `fedhealth` with these arguments; with `events` its standard output is readable here."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as output:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-m", "fedhealth.cli.main", *arguments, "--lifeline"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if events else output,
                stderr=output,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._children.append(child)
        return child

    def check(self) -> None:
        """Raise if a child ended that should be running.

        Raises:
            FederationFailed: names it, with the last lines of its log.
        """
        for child in self._children:
            if (status := child.process.poll()) not in (None, 0):
                raise FederationFailed(
                    f"the process '{child.name}' ended",
                    got=f"exit code {status}: {child.last_words()}",
                    next_step=f"Read {child.log}.",
                )

    def wait_for(self, path: Path, seconds: float) -> None:
        """Wait until a file exists.

        Raises:
            FederationFailed: a child ended meanwhile, or the time is over.
        """
        deadline = time.monotonic() + seconds
        while not path.exists():
            self.check()
            if time.monotonic() > deadline:
                raise FederationFailed(f"nothing listens at {path} after {seconds:g} s", next_step="Read the logs.")
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop every child: ask, wait, kill. Nothing is left running when this returns."""
        for child in self._children:
            _close(child.process.stdin)
        deadline = time.monotonic() + STOP_SECONDS
        for child in reversed(self._children):
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            _close(child.process.stdout)
        self._children.clear()


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        try:
            stream.close()
        except OSError:
            return
