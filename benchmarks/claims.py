"""64 threads claim on one ledger until its envelopes are spent: none over budget, no acknowledged claim lost.

First they approve more studies than the budget of a data set holds. Then they claim releases of five studies of one
data set, two fifths of them on one study, more than the envelopes hold, every twentieth or so by two threads at once.
At the end the ledger is opened again and compared with what the threads were told. Meanwhile another process tries to
open it. The ledger lies in memory, where 80,000 commits take seconds; then a twentieth of it is done on the disk.

Run: .venv/bin/python benchmarks/claims.py [--claims 100000]
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import made_up_site as site

from fedhealth.errors import BudgetExhausted, LedgerDamaged
from fedhealth.privacy.entries import Approved, Reserved
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.verify import verify_ledger

CLAIMANTS = 64
STUDIES = tuple(site.study_named(f"study-{number}") for number in range(5))
FITTING = 20
"""How many of the approvals fit the budget."""

Outcome = Literal["acknowledged", "budget spent", "claimed before"]
Claim = TypeVar("Claim", Reserved, Approved)


def main() -> None:
    """Print what was claimed and what became of it; exit with 1 unless all is as it must be."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--claims", type=int, default=100_000)
    parser.add_argument("--open", type=Path, help="say whether this ledger can be opened")
    arguments = parser.parse_args()
    if arguments.open:
        sys.exit(is_open_to_others(arguments.open))
    right = True
    for place, claims in ((site.MEMORY, arguments.claims), (None, arguments.claims // 20)):
        with tempfile.TemporaryDirectory(prefix="fedhealth-claims-", dir=place) as folder:
            print("in memory" if place else f"in {folder}")
            right &= approvals(Path(folder) / "approvals.sqlite")
            right &= releases(Path(folder) / "ledger.sqlite", claims)
    print(f"nothing over budget, lost or opened twice (target): {right}")
    sys.exit(not right)


def approvals(path: Path) -> bool:
    """Let every thread approve a study of a twentieth of the budget."""
    cap, cost = site.BUDGET.cap(), site.COST
    most = min(cap.renyi // cost.renyi, cap.total_variation // cost.total_variation) // FITTING
    wanted = [site.approval(site.study_named(f"approval-{number}"), most) for number in range(CLAIMANTS)]
    ledger = site.create(path)
    told = claim(wanted, ledger.append)
    ledger.close()
    ledger = Ledger.open(path, site.SITE, site.KEY)
    found, acknowledged = set(ledger.account.approved), told_of(told, "acknowledged")
    ledger.close()
    print(f"{CLAIMANTS} approvals, of which {FITTING} fit the budget: {len(found)} in the ledger")
    return len(found) == FITTING and found == {approval.study for approval in acknowledged}


def releases(path: Path, claims: int) -> bool:
    """Let the threads claim releases, two fifths of them on the first study, and compare with the ledger."""
    share = {study: 4 if study == STUDIES[0] else 1.5 for study in STUDIES}
    envelopes = {study: int(claims * 0.08 * part) for study, part in share.items()}
    queue = []
    for number in range(claims):
        distinct = number - (number % 21 == 20)  # which is the claim before it again
        study = STUDIES[0] if distinct % 5 < 2 else STUDIES[1 + distinct % 4]
        queue.append(site.charge(study, distinct))
    ledger = site.create(path)
    for study, most in envelopes.items():
        ledger.append(site.approval(study, most))
    other = subprocess.Popen([sys.executable, __file__, "--open", str(path)])
    start = time.perf_counter()
    told = claim(queue, ledger.reserve)
    seconds = time.perf_counter() - start
    opened = bool(other.wait())
    ledger.close()
    verify_ledger(path)
    ledger = Ledger.open(path, site.SITE, site.KEY)
    charged = dict(ledger.account.reserved)
    ledger.close()
    acknowledged = Counter(entry.release for entry in told_of(told, "acknowledged"))
    spent = Counter(entry.study for entry in charged.values())
    over = sum(max(0, spent[study] - most) for study, most in envelopes.items())
    lost = len(acknowledged.keys() - charged.keys())
    unasked = len(charged.keys() - acknowledged.keys()) + acknowledged.total() - len(acknowledged)
    counts = Counter(outcome for _, outcome in told)
    outcomes = ", ".join(f"{number:,} {outcome}" for outcome, number in counts.items())
    print(f"{claims:,} claims of {CLAIMANTS} threads in {seconds:.0f} s: {outcomes}")
    print(f"{over} over budget, {lost} lost, {unasked} charged unasked or twice, of {len(charged):,} in the ledger")
    print(f"another process could open it meanwhile: {opened}")
    everything_spent = all(spent[study] == most for study, most in envelopes.items())
    return everything_spent and not (over or lost or unasked or opened) and counts.total() == claims


def claim(queue: Sequence[Claim], act: Callable[[Claim], object]) -> list[tuple[Claim, Outcome]]:
    """Work through a queue with all threads at once and return what each was told."""
    told: list[tuple[Claim, Outcome]] = []
    rest, ready = iter(queue), threading.Barrier(CLAIMANTS)
    taking = threading.Lock()

    def work() -> None:
        ready.wait()
        while True:
            with taking:
                entry = next(rest, None)
            if entry is None:
                return
            outcome: Outcome = "acknowledged"
            try:
                act(entry)
            except BudgetExhausted:
                outcome = "budget spent"
            except LedgerDamaged as error:
                if "twice" not in error.what:
                    raise
                outcome = "claimed before"
            told.append((entry, outcome))

    threads = [threading.Thread(target=work) for _ in range(CLAIMANTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def told_of(told: list[tuple[Claim, Outcome]], wanted: Outcome) -> list[Claim]:
    """Return the claims of one outcome."""
    return [entry for entry, outcome in told if outcome == wanted]


def is_open_to_others(path: Path) -> bool:
    """Say whether this process can open the ledger at `path`."""
    try:
        Ledger.open(path, site.SITE, site.KEY)
    except LedgerDamaged as error:
        return "in use" not in error.what
    return True


if __name__ == "__main__":
    main()
