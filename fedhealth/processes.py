"""Processes that this one starts and surely stops: a site's two, or a whole federation's on one machine.

Every child holds the read end of a pipe whose write end only the parent has: when the parent ends, however it ends,
the pipe closes and the child stops by itself. Children are in sessions of their own, so that Ctrl-C reaches the
parent alone, which then stops them all.
"""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fedhealth.errors import FederationFailed

STOP_SECONDS = 2.0
"""How long children have to stop by themselves before they are killed."""


@dataclass
class Child:
    """One running process and its log file; without one, it says what it has to say where its parent does."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None
    has_events: bool = False

    def end(self) -> str:
        """Return how a process that has ended did so, and what it said last: its error message, or its log's end."""
        status = self.process.wait()
        if status < 0:
            return f"{signal.Signals(-status).name}, a signal that ended it"
        log = self.log
        lines = log.read_text(errors="replace").strip().splitlines() if log is not None and log.exists() else []
        messages = [line.removeprefix("error: ").removesuffix(".") for line in lines if line.startswith("error: ")]
        said = messages[-1] if messages else " | ".join(lines[-3:])
        return f"exit code {status}: {said}" if said else f"exit code {status}"


@dataclass(frozen=True)
class RunAs:
    """The Unix user that a child becomes before it begins, by numbers.

    Attributes:
        user: its id.
        group: its first group.
        groups: all of its groups.
    """

    user: int
    group: int
    groups: frozenset[int]


class Processes:
    """Children of this process; use as a context manager.

    Args:
        logs: folder for one log file per child; must exist. None to have them write where this process does.
    """

    def __init__(self, logs: Path | None) -> None:
        self._logs = logs
        self._children: list[Child] = []

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        events: bool = False,
        run_as: RunAs | None = None,
        hand: Sequence[int] = (),
    ) -> Child:
        """Start `fedhealth` with these arguments.

        Args:
            name: what the child is called here.
            arguments: of `fedhealth`; paths must be absolute where `run_as` is given.
            events: its standard output is readable here.
            run_as: for a parent that is root; None for this process's own user.
            hand: open files and sockets that the child has, too, by the same numbers.
        """
        log = None if self._logs is None else self._logs / f"{name}.log"
        with ExitStack() as stack:
            output: IO[Any] = sys.stderr if log is None else stack.enter_context(log.open("ab"))
            process = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-P", "-m", "fedhealth.cli.main", *arguments, "--lifeline"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE if events else output,
                stderr=output,
                start_new_session=True,
                pass_fds=tuple(hand),
                user=run_as.user if run_as else None,
                group=run_as.group if run_as else None,
                extra_groups=sorted(run_as.groups) if run_as else None,
                cwd="/" if run_as else None,  # this one's may be closed to that user
            )
        child = Child(name, process, log, events)
        self._children.append(child)
        return child

    def forget(self, child: Child) -> None:
        """Expect no more of a child that has ended and was seen to."""
        _close(child.process.stdin)
        self._children.remove(child)

    def check(self) -> None:
        """Raise if a child ended that should be running; one with events is left to whoever reads them.

        Raises:
            FederationFailed: names it, with the last lines of its log.
        """
        for child in self._children:
            if not child.has_events and child.process.poll() is not None:
                raise FederationFailed(
                    f"the process '{child.name}' ended",
                    got=child.end(),
                    next_step=f"Nothing was published. Its log: {child.log}",
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
        """Stop every child: ask, wait, kill. Nothing is left running when this returns; a second Ctrl-C waits."""
        with _undisturbed():
            for child in self._children:
                _close(child.process.stdin)
                child.process.terminate()  # beside the lifeline: it ends what still loads at once
            deadline = time.monotonic() + STOP_SECONDS
            while time.monotonic() < deadline and any(child.process.poll() is None for child in self._children):
                time.sleep(0.01)
            for child in self._children:
                child.process.kill()
            for child in self._children:
                child.process.wait()
                _close(child.process.stdout)
            self._children.clear()


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM for the seconds that stopping takes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        try:
            stream.close()
        except OSError:
            return
