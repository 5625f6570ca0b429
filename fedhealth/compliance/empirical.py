"""Does the noise do what is charged for it? Every mechanism that ships is run, and what it did compared with its claim.

**The promise.** A run fails where a check's p-value is below its share of `FALSE_ALARM`. The p-values are upper
bounds, so correct mechanisms fail with a probability of at most `FALSE_ALARM` a run, all checks together. How much
must be wrong to be found is measured by `benchmarks/audit.py`.

An audit finds mistakes; it proves nothing about what it did not try. The guarantee is the proof in `fedhealth.privacy`.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from fedhealth.compliance.checks import Check, check_subject
from fedhealth.compliance.observation import observe
from fedhealth.compliance.subjects import Subject, subjects
from fedhealth.privacy.stream import NoiseSecret, SiteNoiseSecret

FALSE_ALARM = 0.01
"""The most often that a run on correct mechanisms may fail."""

SHORT_SECONDS = 3.0
"""About what a short run takes."""


@dataclass(frozen=True)
class Finding:
    """What the audit found about one mechanism.

    Attributes:
        mechanism: its name.
        checks: all of them.
        failed: names of the checks whose p-value is below the threshold.
    """

    mechanism: str
    checks: tuple[Check, ...]
    failed: tuple[str, ...]


@dataclass(frozen=True)
class EmpiricalAudit:
    """A whole run.

    Attributes:
        seed: with it the run can be repeated.
        threshold: p-values below it fail.
        findings: one per mechanism.
        passed: whether nothing failed.
    """

    seed: int
    threshold: float
    findings: tuple[Finding, ...]
    passed: bool


def audit_mechanisms(
    seed: int,
    seconds: float = SHORT_SECONDS,
    secret: NoiseSecret | None = None,
    watched: Callable[[tuple[Subject, ...]], Iterable[Subject]] = iter,
) -> EmpiricalAudit:
    """Run every mechanism that ships and compare what it does with what it claims.

    Args:
        seed: decides the noise and the coins; take a new one for each run.
        seconds: about how long to look, a short run at least; more finds smaller mistakes.
        secret: opens the noise streams; one made from the seed by default.
        watched: passes the mechanisms on, one by one, for whoever shows how far it is.
    """
    secret = secret or SiteNoiseSecret(hashlib.sha256(f"fedhealth/empirical-audit/{seed}".encode()).digest())
    coins, more = np.random.default_rng(seed), max(1.0, seconds / SHORT_SECONDS)
    seen = [(subject, observe(subject, secret, coins, more)) for subject in watched(subjects())]
    checked = [check_subject(*each) for each in seen]
    threshold = FALSE_ALARM / sum(map(len, checked))
    findings = tuple(
        Finding(
            mechanism=subject.name,
            checks=checks,
            failed=tuple(check.name for check in checks if check.p_value < threshold),
        )
        for (subject, _), checks in zip(seen, checked, strict=True)
    )
    return EmpiricalAudit(seed, threshold, findings, not any(each.failed for each in findings))
