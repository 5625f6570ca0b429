"""Where the time of a round goes: spans around the product's own functions, in all of its processes.

While `watched` holds, every `fedhealth` process that is started begins here instead: the functions of `WATCHED` are
wrapped as their modules are imported, and each call leaves a line with its begin and end on the machine's monotonic
clock, which all processes share. The product knows nothing of it. `phases_of` follows each round's slowest site.

Leaves to others: what runs meanwhile (`rounds.py`).
"""

import functools
import importlib.abc
import importlib.util
import inspect
import itertools
import os
import runpy
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

Whose = Callable[..., str]
"""Which site a call is for, from its arguments; what it is about where it is for none."""

WATCHED: Mapping[str, Mapping[str, Whose]] = {
    "fedhealth.coordinator.round_checkpoint": {"store_checkpoint": lambda *_: ""},
    "fedhealth.coordinator.app_frames": {"exchange": lambda _, asked, *__: getattr(asked, "site", asked.kind)},
    "fedhealth.coordinator.asking": {"Asker._exchange": lambda _, site, *__: site},
    "fedhealth.coordinator.witness": {"Witness.countersign": lambda _, site, *__: site},
    "fedhealth.coordinator.store.runs": {"Runs.keep_rounds": lambda *_: ""},
    "fedhealth.site.gate": {"Gate.handle": lambda gate, *_: gate.inputs.site.id},
    "fedhealth.site.egress": {"EgressLog.record": lambda log, *_: log._folder.parent.parent.name},
    "fedhealth.privacy.ledger": {
        name: lambda ledger, *_: ledger.created.site for name in ("Ledger.reserve", "Ledger.witness", "Ledger.store")
    },
}
"""What is watched, by module: functions and methods, and whose calls they are."""


@dataclass(frozen=True)
class Span:
    """A call, from when to when, in seconds of the monotonic clock."""

    begin: float
    end: float

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.end - self.begin


class Spans:
    """What was watched, read from the folder that `watched` wrote."""

    def __init__(self, folder: Path) -> None:
        self._spans: defaultdict[tuple[str, str], list[Span]] = defaultdict(list)
        for path in folder.glob("*.spans"):
            for line in path.read_text().splitlines():
                name, whose, begin, end = line.split("\t")
                self._spans[name, whose].append(Span(float(begin), float(end)))
        for found in self._spans.values():
            found.sort(key=lambda span: span.begin)

    def of(self, name: str, whose: str = "", within: Span | None = None) -> list[Span]:
        """Return the calls of a function for a site, in order; only those within a span if one is given."""
        found = self._spans[name, whose]
        return [span for span in found if within is None or (within.begin <= span.begin and span.end <= within.end)]

    def phases(self, sites: Sequence[str]) -> list[dict[str, float]]:
        """Return the seconds of each phase of each round but the first, along the site that answered last.

        The phases of a round follow one another without a gap, so that they add up to it.
        """
        done = self.of("store_checkpoint")
        rounds = (Span(before.end, last.end) for before, last in itertools.pairwise(done))
        return [self._phases(each, sites) for each in rounds]

    def _phases(self, window: Span, sites: Sequence[str]) -> dict[str, float]:
        asked = {site: self.of("exchange", site, window)[-1] for site in sites}
        last = max(asked, key=lambda site: asked[site].end)
        (told,) = self.of("exchange", "round-done", window)
        (checkpoint,) = self.of("store_checkpoint", "", window)
        there = asked[last]

        def calls(name: str) -> list[Span]:
            return self.of(name, last, there)

        def seconds(name: str) -> float:
            return sum(call.seconds for call in calls(name))

        handled, left = calls("Gate.handle"), calls("EgressLog.record")
        asking = seconds("Asker._exchange") + seconds("Witness.countersign")
        at_gate = sum(end.end - begin.begin for begin, end in zip(handled, left, strict=True))
        (witnessed,), (stored,) = calls("Ledger.witness"), calls("Ledger.store")
        compute = stored.begin - witnessed.end
        commits = seconds("Ledger.reserve") + witnessed.seconds + stored.seconds
        return {
            "tell that the round is durable": told.seconds,
            "ask: strategy, messages, threads": there.begin - told.end,
            "ServerApp to coordinator and back": there.seconds - asking,
            "link, node and sockets, there and back": seconds("Asker._exchange") - at_gate,
            "gate: check, sign, pack": seconds("Gate.handle") - commits - compute,
            "gate: charge, on disk": seconds("Ledger.reserve"),
            "witness: check, keep on disk, sign": seconds("Witness.countersign"),
            "gate: receipt, on disk": witnessed.seconds,
            "gate: compute": compute,
            "gate: payload, on disk": stored.seconds,
            "gate: wait for the public time": sum(b.begin - a.end for a, b in zip(handled, left, strict=True)),
            "gate: egress log": seconds("EgressLog.record"),
            "combine the releases": checkpoint.begin - there.end,
            "checkpoint, on disk": checkpoint.seconds,
        }


@contextmanager
def watched(folder: Path) -> Iterator[None]:
    """Have the processes that are started meanwhile leave their spans in a folder, which is made."""
    folder.mkdir()
    real, start = sys.executable, folder / "python"
    start.write_text(f'#!/bin/sh\nexec "{real}" "{Path(__file__).resolve()}" "{start}" "$@"\n')
    start.chmod(0o700)
    sys.executable = str(start)
    try:
        yield
    finally:
        sys.executable = real


class _Finder(importlib.abc.MetaPathFinder):
    """Has the modules that are watched wrapped as soon as they are loaded."""

    def __init__(self, file: int) -> None:
        self._file = file

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name not in WATCHED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_wrap(module: ModuleType) -> None:
                execute(module)
                for place, whose in WATCHED[name].items():
                    *outer, last = place.split(".")
                    owner: Any = functools.reduce(getattr, outer, module)
                    setattr(owner, last, self._wrapped(last if not outer else place, getattr(owner, last), whose))

            spec.loader.exec_module = execute_and_wrap  # type: ignore[method-assign]
        return spec

    def _wrapped(self, name: str, function: Callable[..., Any], whose: Whose) -> Callable[..., Any]:
        @contextmanager
        def timed(*arguments: object) -> Iterator[None]:
            begin = time.monotonic()
            yield
            end = time.monotonic()
            os.write(self._file, f"{name}\t{whose(*arguments)}\t{begin}\t{end}\n".encode())

        @functools.wraps(function)
        async def waiting(*arguments: object, **named: object) -> object:
            with timed(*arguments):
                return await function(*arguments, **named)

        @functools.wraps(function)
        def calling(*arguments: object, **named: object) -> object:
            with timed(*arguments):
                return function(*arguments, **named)

        return waiting if inspect.iscoroutinefunction(function) else calling


def begin_watching(folder: Path) -> None:
    """Watch this process; must be called before the product is imported."""
    sys.meta_path.insert(0, _Finder(os.open(folder / f"{os.getpid()}.spans", os.O_WRONLY | os.O_CREAT | os.O_APPEND)))


def main(start: str, flag: str, module: str, *arguments: str) -> None:
    """Go on as `python -m MODULE ARGUMENTS`, watched."""
    if flag != "-m":
        raise SystemExit(f"python {flag} is not watched")
    sys.executable = start  # for children of its own
    begin_watching(Path(start).parent)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
