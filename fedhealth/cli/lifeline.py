"""How a command that serves ends: by a signal, or when the standard input of a child of `fedhealth demo` closes."""

import os
import select
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from fedhealth.cli.output import stopped_line
from fedhealth.errors import INTERRUPTED_EXIT_CODE

Lifeline = Annotated[bool, typer.Option("--lifeline", help="End when standard input closes.", hidden=True)]


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """While modules load and nothing is open yet, let Ctrl-C and SIGTERM end this process on the spot.

    An exception would not do: raised inside one of the import machinery's callbacks it is printed and lost.
    """
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, _leave)
    try:
        yield
    finally:
        for stop in (signal.SIGINT, signal.SIGTERM):
            signal.signal(stop, signal.default_int_handler)


def _leave(*_: object) -> None:
    os.write(sys.stderr.fileno(), stopped_line().encode())
    os._exit(INTERRUPTED_EXIT_CODE)


@contextmanager
def loading(lifeline: bool) -> Iterator[None]:
    """End this process at once if standard input closes in here, while modules load and nothing is open yet.

    Loading takes seconds, in which nothing else would notice that whoever started this process is gone.
    """
    loaded = threading.Event()

    def watch() -> None:
        while not loaded.is_set():
            if select.select([sys.stdin.fileno()], [], [], 0.1)[0]:
                os._exit(1)

    watcher = threading.Thread(target=watch, daemon=True)
    if lifeline:
        watcher.start()
    try:
        yield
    finally:
        loaded.set()
        if lifeline:
            watcher.join()


def run_until_stopped(work: Coroutine[Any, Any, Any], lifeline: bool) -> bool:
    """Run a coroutine until it ends, a signal comes, or (with a lifeline) standard input closes.

    Returns:
        Whether it ended by itself.
    """
    import asyncio

    async def supervised() -> bool:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

        def read_on() -> None:
            if not os.read(sys.stdin.fileno(), 1):
                loop.remove_reader(sys.stdin.fileno())  # or it would be cancelled again in the midst of closing
                task.cancel()

        for stop in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(stop, task.cancel)
        if lifeline:
            loop.add_reader(sys.stdin.fileno(), read_on)
        with suppress(asyncio.CancelledError):
            await task
        return not task.cancelled()

    return asyncio.run(supervised())
