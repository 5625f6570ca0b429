"""What processes hold in memory: the sum over a tree of processes, watched while something else runs.

PSS (proportional set size) divides every shared page among those who share it, so that sums are honest; RSS counts it
in full for each. Source: proc(5), /proc/PID/smaps_rollup, in KiB.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

_EVERY_SECONDS = 0.2


@dataclass
class Memory:
    """What one group of processes held.

    Attributes:
        pss: sums over the group, in MiB, one for each look.
        rss: the same, every shared page counted for each process.
        processes: how many there were at each look.
    """

    pss: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)
    processes: list[int] = field(default_factory=list)


@contextmanager
def watched_memory(groups: Callable[[], Mapping[str, Iterable[psutil.Process]]]) -> Iterator[dict[str, Memory]]:
    """Look at groups of processes a few times a second; yields what each held, which grows meanwhile.

    Args:
        groups: names the first processes of each group; whatever these started belongs to it.
    """
    found: dict[str, Memory] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_EVERY_SECONDS):
            for name, first in groups().items():
                sizes = [size for each in _with_descendants(first) if (size := _size(each.pid)) is not None]
                memory = found.setdefault(name, Memory())
                memory.pss.append(sum(pss for pss, _ in sizes))
                memory.rss.append(sum(rss for _, rss in sizes))
                memory.processes.append(len(sizes))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield found
    finally:
        over.set()
        watcher.join()


def _with_descendants(first: Iterable[psutil.Process]) -> Iterable[psutil.Process]:
    every: dict[int, psutil.Process] = {}
    for process in first:
        try:
            every |= {each.pid: each for each in [process, *process.children(recursive=True)]}
        except psutil.NoSuchProcess:
            continue
    return every.values()


def _size(pid: int) -> tuple[float, float] | None:
    """Return PSS and RSS in MiB; None of a process that has ended."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:  # noqa: PTH123 - a file of the kernel's
            kib = {line.split()[0]: int(line.split()[1]) for line in file if line.startswith(("Pss:", "Rss:"))}
    except OSError:
        return None
    return (kib["Pss:"] / 1024, kib["Rss:"] / 1024) if kib else None
