"""How often the empirical audit finds what is wrong, how often it cries for nothing, and how long a run takes.

One hundred runs each, every one with new noise: correct mechanisms; a standard deviation 5 % too small and 5 % too
large; twice the clip; noise that comes twice; a claim of 5 % more noise than there is. A fault counts as found in a
mechanism only where the audit names that mechanism. Seconds are of processor time: a run has one thread.

Run: .venv/bin/python benchmarks/audit.py            (half an hour; fewer runs: benchmarks/audit.py 10)
"""

import hashlib
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

from broken_mechanisms import Fault, RepeatedNoise, claims_of_more_noise, clip_times_two, noise_times

from fedhealth.compliance.empirical import audit_mechanisms
from fedhealth.privacy.stream import SiteNoiseSecret
from fedhealth.training.per_patient import make_deterministic

FAULTS: dict[str, Callable[[], Fault]] = {
    "noise 5 % too small": lambda: noise_times(0.95),
    "twice the clip": clip_times_two,
    "noise that comes twice": nullcontext,
    "claims of 5 % more noise": claims_of_more_noise,
    "noise 5 % too large": lambda: noise_times(1.05),
}
TARGET_FOUND, TARGET_FALSE_ALARMS, TARGET_SECONDS = 0.99, 0.01, 5.0


def main() -> int:
    """Print counts and median seconds; end with 1 if a target is missed."""
    make_deterministic()
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    missed = False
    seconds = []
    alarms, first = 0, 0.0
    for seed in range(runs + 1):
        start = time.process_time()
        passed = audit_mechanisms(seed).passed
        if seed == 0:  # the tables of the noise are made
            first = time.process_time() - start
            continue
        seconds.append(time.process_time() - start)
        alarms += not passed
    median, most = statistics.median(seconds), max(seconds)
    good = alarms <= TARGET_FALSE_ALARMS * runs
    print(f"correct mechanisms: {alarms} of {runs} runs fail  (target: at most {TARGET_FALSE_ALARMS:.0%}) {good}")
    fast = median <= TARGET_SECONDS
    print(f"a run: median {median:.1f} s of one core, longest {most:.1f} s  (target: {TARGET_SECONDS:g}) {fast}")
    print(f"the first run, which makes the tables of the noise: {first:.1f} s of one core", flush=True)
    missed |= not good or not fast
    for name, fault in FAULTS.items():
        found: Counter[str] = Counter()
        names: list[str] = []
        for seed in range(1000, 1000 + runs):
            true = SiteNoiseSecret(hashlib.sha256(f"{name} {seed}".encode()).digest())
            with fault():
                secret = RepeatedNoise(true) if name == "noise that comes twice" else true
                findings = audit_mechanisms(seed, secret=secret).findings
            names = [finding.mechanism for finding in findings]
            found.update(finding.mechanism for finding in findings if finding.failed)
        print(f"{name}, found in")
        for mechanism in names:
            enough = found[mechanism] >= TARGET_FOUND * runs
            print(f"  {mechanism:30} {found[mechanism]:4} of {runs}  (target: {TARGET_FOUND:.0%}) {enough}", flush=True)
            missed |= not enough
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
