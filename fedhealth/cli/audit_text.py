"""What `fedhealth audit` says to people: lines of at most 80 columns.

A ledger or bundle may come from a stranger, so text in it is shown without what a terminal would obey.
"""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fedhealth.compliance.times import time_text

if TYPE_CHECKING:
    from fedhealth.compliance.budget import SideUse, StudyUse
    from fedhealth.compliance.checked_run import CheckedRun
    from fedhealth.compliance.empirical import EmpiricalAudit
    from fedhealth.link.enrolment import LedgerCertificate
    from fedhealth.privacy.asked_counts import Asked, Shares
    from fedhealth.privacy.verified_ledger import VerifiedLedger

_OUTCOMES = {"ok": "ok", "failed": "FAILED", "not checked": "-"}
"""How a check's outcome is marked."""

_BAR = 40
"""Characters of a whole budget."""


def certificate_lines(
    found: "VerifiedLedger", certificate: "LedgerCertificate | None", *, named: bool
) -> Iterator[str]:
    """Say whose the ledger key is, by whose word.

    Args:
        found: the ledger.
        certificate: of its key, verified; None if there is none.
        named: the witness key came from the person who asks.
    """
    if certificate is not None:
        yield f"  certified   the key {'' if len(found.ledger_keys) == 1 else certificate.ledger_key[:16] + '... '}of"
        yield f"              site '{certificate.site}' of federation '{shown(certificate.federation)}',"
        yield f"              joined {time_text(certificate.at * 1000)}, by its coordinator"
    else:
        yield "  certified   no: ledger.certificate.json, from when the site joined, is not"
        yield "              beside it; compare the ledger key with the coordinator's"
    yield f"  witness key {found.witness_key}"
    yield f"              {'as asked for' if named else 'not compared with the true one (--witness)'}"


def verified_lines(found: "VerifiedLedger", evidence: Path | None, seen: int | None) -> Iterator[str]:
    """Say what an intact ledger says.

    Args:
        found: the ledger.
        evidence: what it was compared with.
        seen: entries under the head in it.
    """
    yield f"intact: {found.head.size} entries of site '{found.head.site}', {found.releases} releases charged"
    yield f"  root        {found.head.root}"
    yield f"  ledger key  {found.ledger_key}"
    if found.ledger_key != found.first_ledger_key:
        yield "              rotated since the site joined; then it was"
        yield f"              {found.first_ledger_key}"
    yield "              (compare it with the key certified when the site joined)"
    if found.policy_sha256 is not None:
        yield f"  policy      {found.policy_sha256}"
        yield "              (as sha256sum policy.toml)"
    if found.paused:
        yield "  paused      the whole site"
    yield f"  compared    {f'extends the head in {evidence}' if evidence else 'no head from outside (--evidence)'};"
    if seen is not None:
        yield f"              which is of {seen} entries: what follows them, it says nothing of;"
    yield f"              {'with its anchor' if found.anchored else 'there is no anchor beside it'}"
    yield f"  witnessed   up to entry {found.witnessed} by the coordinator; the policy is '{found.witness}',"
    yield f"              {found.unwitnessed} releases left without its signature"
    if found.recoveries:
        yield f"  recovered   {found.recoveries} times from an older copy, by people (audit acts);"
        yield f"              {found.recovered} entries, which the coordinator gave back: what the"
        yield "              local journal said before them cannot be verified any more;"
        yield f"              {found.closed} releases of which nobody knows whether they left"
    for size in found.given_up:
        yield f"  given up    the last of {size} entries that it once had; nobody has them"
    for line in found.spending:
        yield f"  {line.data_set}, {line.cohort} patients:"
        yield f"    epsilon {line.epsilon_spent:.3f} of {line.epsilon_cap:g} spent at delta {line.delta:g},"
        yield f"    which is {line.share_spent:.1%} of the budget; approvals set aside {line.share_set_aside:.1%}"
    yield "  (a budget is counted in a currency that adds up; epsilon does not)"


def simulation_lines(found: "Sequence[VerifiedLedger]") -> Iterator[str]:
    """Say what the intact ledger of a simulation says, each site in a line."""
    entries, releases = sum(each.head.size for each in found), sum(each.releases for each in found)
    yield f"intact: {entries} entries of {len(found)} simulated sites, {releases} releases charged"
    for each in found:
        spent = ", ".join(f"{line.cohort} epsilon {line.epsilon_spent:.3f}" for line in each.spending)
        yield f"  {each.head.site}: {spent}"


def side_lines(side: "SideUse") -> Iterator[str]:
    """Say what one side of a data set has used, and on which studies."""
    spent, aside = round(_BAR * side.share_spent), round(_BAR * side.share_set_aside)
    yield f"\n{side.data_set}, {side.cohort} patients"
    yield f"  cap   epsilon {side.epsilon:g} at delta {side.delta:g}, for the life of the data,"
    yield f"        counted in {side.currency}"
    yield f"  used  [{'#' * spent}{'=' * (aside - spent)}{'.' * (_BAR - aside)}]"
    yield f"        {side.share_spent:.1%} spent (#): epsilon {side.epsilon_spent:.3f};"
    yield f"        {side.share_set_aside:.1%} set aside by approvals (#=); {side.share_left:.1%} left (.)"
    for study in side.studies:
        yield from _study_lines(study)


def _study_lines(study: "StudyUse") -> Iterator[str]:
    yield f"  {study.name or 'a study whose protocol is not here'} ({study.study[:12]})"
    yield f"    asked by  key {study.researcher[:12]}"
    if study.first_by is not None:
        yield f"    first     approved by {shown(study.first_by)}, and then"
    yield f"    approved  {time_text(study.at)} by {shown(study.by)}{'; withdrawn since' if study.withdrawn else ''}"
    for step in study.steps:
        planned = "" if step.planned is None else f" of at most {step.planned}"
        yield f"    {step.step:8}  {step.charged} releases charged{planned}"
    yield from asked_lines(study.shares, study.asked)
    if study.charged is not None:
        yield f"    charged   {time_text(study.charged[0])} to {time_text(study.charged[1])}"
    yield f"    spent     {study.share_of_cap:.1%} of the cap, {study.share_of_envelope:.1%} of its envelope"
    if study.plan is not None:
        yield f"    plan      epsilon {study.plan.epsilon:.3f} at delta {study.plan.delta:g} (informative)"


def asked_lines(shares: "Shares", asked: "Iterable[Asked]") -> Iterator[str]:
    """Say what askers of a search study may cause, and who caused what; nothing of another study."""
    if shares.of_an_asker is None:
        return
    hospital = "as many as there are" if shares.of_a_hospital is None else f"{shares.of_a_hospital} together"
    yield f"    a quarter each key may cause {shares.of_an_asker}, a hospital's keys {hospital}"
    for each in asked:
        counts = f"{each.counts} new count{'' if each.counts == 1 else 's'}"
        yield f"    {each.quarter}   {counts} by key {each.key[:12]} of {each.site or 'a hospital'}"


def run_lines(found: "CheckedRun", folder: Path) -> Iterator[str]:
    """Say what the checks of a run found, one line a check where it fits."""
    counted = {outcome: sum(check.outcome == outcome for check in found.checks) for outcome in _OUTCOMES}
    verdict = "intact" if found.passed else "NOT INTACT"
    yield f"{verdict}: {', '.join(f'{number} {outcome}' for outcome, number in counted.items() if number)}"
    yield from wrapped(f"run in {folder}", "  ")
    for check in found.checks:
        yield from wrapped(f"{_OUTCOMES[check.outcome]:7} {check.name}: {check.detail}", "  ", 8)
    yield "\nKeys that this rests on; compare them with those that were certified:"
    for name, key in found.keys.items():
        yield f"  {shown(name)}"
        yield f"    {key}"
    yield "No check can tell whether a site computed what it was asked."


def wrapped(text: str, indent: str = "", further: int = 0) -> list[str]:
    """Return text in lines of at most 80 columns, without what a terminal would obey.

    Args:
        text: one paragraph.
        indent: of every line.
        further: spaces more, of every line but the first.
    """
    return textwrap.wrap(
        "".join(each if each.isprintable() else "?" for each in text),
        80,
        initial_indent=indent,
        subsequent_indent=indent + " " * further,
        break_long_words=False,  # a path or a digest is to be copied
        break_on_hyphens=False,
    )


def empirical_lines(found: "EmpiricalAudit") -> Iterator[str]:
    """Say what the empirical audit found; what a figure is, only where it failed or is the epsilon."""
    from fedhealth.compliance.checks import ONE_RUN

    checks = sum(len(finding.checks) for finding in found.findings)
    yield f"{'passed' if found.passed else 'FAILED'}: {checks} checks of {len(found.findings)} mechanisms"
    yield f"  to repeat this run: --seed {found.seed}"
    for finding in found.findings:
        yield f"\n{finding.mechanism}"
        for check in finding.checks:
            mark = "FAILED" if check.name in finding.failed else "ok"
            yield f"    {check.name:20} {mark:6} {check.measured:8.4f}, claimed {check.claimed:.4f}"
            if mark == "FAILED" or check.name == ONE_RUN:
                yield f"      {check.unit}"
    yield f"\nA check fails below a p-value of {found.threshold:.1e}: correct mechanisms fail"
    yield "in at most one run of a hundred, all checks together."


def shown(text: str) -> str:
    """Return a name on one line, without what a terminal would obey."""
    return "".join(each if each.isprintable() else "?" for each in text[:40])
