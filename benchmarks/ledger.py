"""How long a ledger of 100,000 entries takes to verify and to open, in what memory, and how long a charge takes.

The ledger is written by the ledger's own code, as a gate calls it: each release is reserved, witnessed, stored and
dropped, in four studies, with a line in the journal at every hundredth. Only its commits are gathered in one
transaction, because 150,000 flushes would take minutes, and the file is the same. The charge of one round is timed on
ordinary commits, in a new ledger and in the large one, beside its arithmetic alone.

Run: .venv/bin/python benchmarks/ledger.py
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import made_up_site as site

from fedhealth.privacy.entries import Account
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger

ENTRIES = 100_000
STUDIES = tuple(site.study_named(f"study-{number}") for number in range(4))
PAYLOAD = bytes(2048)
TARGET_SECONDS, TARGET_CHARGE_MS = 5.0, 1.0
COMMITS = 200


class _OneTransaction(Ledger):
    """A ledger that moves nothing into its file before the end, so that one transaction can hold all its commits."""

    def _settle(self) -> None:
        pass


def main() -> None:
    """Print the figures and whether the targets are met."""
    with tempfile.TemporaryDirectory(prefix="fedhealth-bench-") as folder:
        path = Path(folder) / "ledger.sqlite"
        small = site.create(path)
        for study in STUDIES:
            small.append(site.approval(study, ENTRIES))
        charges(small, "a new ledger", 0)
        small.close()
        start = time.perf_counter()
        releases = fill(path)
        print(f"{ENTRIES:,} entries, {releases:,} releases, {path.stat().st_size / 2**20:.0f} MiB: ", end="")
        print(f"written in {time.perf_counter() - start:.0f} s, in one transaction")
        measure("verify_ledger", path)
        measure("Ledger.open", path)
        large = Ledger.open(path, site.SITE, site.KEY)
        charges(large, f"a ledger of {ENTRIES:,} entries", ENTRIES)
        large.close()


def fill(path: Path) -> int:
    """Bring the ledger at `path` to `ENTRIES` entries and return how many releases it holds."""
    ledger = _OneTransaction.open(path, site.SITE, site.KEY)
    number, last = COMMITS, ()
    with ledger._database:
        while (size := site.receipt(ledger).receipt.size) < ENTRIES:
            entry = site.charge(STUDIES[number % len(STUDIES)], number)
            ledger.reserve(entry)
            ledger.witness(site.receipt(ledger, last))
            if size + 1 < ENTRIES:
                note = JournalNote(kind="alert", text="train: patients counted as zero", at=entry.at)
                ledger.store(entry.release, PAYLOAD, [note] * (number % 100 == 0))
                last = (entry.release,)
            number += 1
    ledger.close()
    return len(ledger.account.reserved)


def measure(what: str, path: Path) -> None:
    """Print the seconds and the memory of one call in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, what, str(path)], check=True, capture_output=True, text=True
    ).stdout.split()
    seconds, processor, mebibytes = map(float, done)
    print(f"{what:14} {processor:5.2f} s of one core (target: {TARGET_SECONDS}) {processor <= TARGET_SECONDS}", end="")
    print(f", {seconds:.2f} s by the clock, {mebibytes:.0f} MiB more than an idle process")


def call(what: str, path: Path) -> None:
    """Do one call and print its seconds by the clock and of a core, and what it added to this process's memory."""
    idle, start, busy = most_memory(), time.perf_counter(), time.process_time()
    if what == "verify_ledger":
        verify_ledger(path)
    else:
        Ledger.open(path, site.SITE, site.KEY)
    print(time.perf_counter() - start, time.process_time() - busy, most_memory() - idle)


def most_memory() -> float:
    """Return the most memory that this process ever held, in MiB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def charges(ledger: Ledger, where: str, first: int) -> None:
    """Print the median milliseconds of a durable charge, and of its arithmetic alone; `first` numbers the releases."""
    entries = [site.charge(STUDIES[0], first + number) for number in range(COMMITS)]
    account = Account()
    account.apply(site.created())
    account.apply(site.approval(STUDIES[0], ENTRIES))
    arithmetic = median_ms([lambda entry=entry: account.apply(entry) for entry in entries])
    commit = median_ms([lambda entry=entry: ledger.reserve(entry) for entry in entries])
    print(f"a charge in {where}: arithmetic {arithmetic:.4f} ms (target: {TARGET_CHARGE_MS}) ", end="")
    print(f"{arithmetic <= TARGET_CHARGE_MS}, durable {commit:.2f} ms")


def median_ms(calls: list[Callable[[], object]]) -> float:
    """Return the median milliseconds of calls."""
    seconds = []
    for each in calls:
        start = time.perf_counter()
        each()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds) * 1e3


if __name__ == "__main__":
    if len(sys.argv) == 3:
        call(sys.argv[1], Path(sys.argv[2]))
    else:
        main()
