"""What a site's ledger must say of a run: the same study, charges, model and counts as the evidence. Torch-free.

A release is named by a digest over site, study, step, round and input, and its stored entry has the payload's hash. So
the ledger, which the coordinator countersigned before anything left, says which model the site evaluated and which
counts it released, to the bit, without holding either.
"""

import hashlib
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from fedhealth.compliance.history import History
from fedhealth.coordinator.evidence import Evidence, SiteEvidence
from fedhealth.errors import ApprovalMissing, IdentityInvalid, RunAltered
from fedhealth.learning.plan import encode_counts, encode_weights
from fedhealth.privacy.entries import ENTRY, Approved, Entry, Reserved, Stored
from fedhealth.privacy.release import Digest, ReleaseIdentity, input_digest
from fedhealth.study.signature import SignedStudy


def check_ledger(
    history: History,
    evidence: Evidence,
    site: SiteEvidence,
    signed: SignedStudy,
    weights: NDArray[np.float64],
    coordinator: Digest | None,
) -> str:
    """Return what was found good of a site's verified ledger.

    The evidence says how much was charged at most: a release whose answer was lost is counted, charged or not.

    Args:
        history: the ledger.
        evidence: of the run.
        site: what it says of the site.
        signed: the study that was run.
        weights: the published model's.
        coordinator: the key that sealed the run; None if there is no seal.

    Raises:
        LedgerDamaged: the ledger does not extend its head in the evidence.
        IdentityInvalid: a key is another one.
        ApprovalMissing: the site did not approve this study.
        RunAltered: it charged or released something else.
    """
    head = history.check_seen(site.ledger.note)
    if site.ledger.ledger_key != history.account.acts.key_at(head.size):
        raise IdentityInvalid("the evidence names another ledger key than the one in force at that head")
    if coordinator is not None and coordinator != history.created.witness_key:
        raise IdentityInvalid("the run is sealed by another key than the coordinator's that this site pinned")
    said = (site.site in evidence.unsafe_test_sites, evidence.simulation)
    if said != (history.created.unsafe_test_site, history.created.simulation):
        raise RunAltered("ledger and evidence do not agree on whether this is a test site or a simulation")
    entries = [ENTRY.validate_json(body) for body in history.ledger.entries]
    _check_approval(entries, site, signed)
    digest, most = signed.study.digest, 0
    for step, purpose in (("train", "training"), ("evaluate", "evaluation")):
        at_most = sum(line.releases for line in site.spent if line.purpose == purpose)
        found = sum(each.step == step for each in _charges(entries, digest))  # whichever head the run chose to show
        if found > at_most:
            raise RunAltered(f"the ledger has charged {found} releases of {purpose}; the evidence says {at_most}")
        most += at_most
    charged = list(_charges(entries, digest))  # the last of them may have left after the site last showed its head
    if missing := set(site.rounds) - {each.round for each in charged if each.step == "train"}:
        raise RunAltered(f"the evidence has {len(missing)} rounds that the ledger has not charged")
    if not site.noisy_counts:
        return f"{len(charged)} of at most {most} charges; it released no counts"
    try:
        _check_evaluation(entries, charged, site, signed, weights)
    except ValueError as error:
        raise RunAltered("the counts in the evidence are those of no release") from error
    return f"{len(charged)} of at most {most} charges, this model and counts"


def _charges(entries: Iterable[Entry], study: Digest) -> Iterator[Reserved]:
    return (each for each in entries if isinstance(each, Reserved) and each.study == study)


def _check_approval(entries: Iterable[Entry], site: SiteEvidence, signed: SignedStudy) -> None:
    digest = signed.study.digest
    approval = next((each for each in entries if isinstance(each, Approved) and each.study == digest), None)
    if approval is None:
        raise ApprovalMissing("the ledger has no approval of this study before that head")
    if approval.researcher != signed.researcher:
        raise IdentityInvalid("the site approved this study as another researcher's")
    if approval.declared_patients != site.declared_patients:
        raise RunAltered(f"the site declared {approval.declared_patients} patients, not {site.declared_patients}")


def _check_evaluation(
    entries: Iterable[Entry],
    charged: Iterable[Reserved],
    site: SiteEvidence,
    signed: SignedStudy,
    weights: NDArray[np.float64],
) -> None:
    model = input_digest(encode_weights(weights))
    of_model = [
        each.release
        for each in charged
        if each.step == "evaluate"
        and each.release
        == ReleaseIdentity(
            site=site.site, study=each.study, step=each.step, round=each.round, input_digest=model
        ).digest
    ]
    if not of_model:
        raise RunAltered("the site evaluated another model")
    stored = {each.release: each.payload_sha256 for each in entries if isinstance(each, Stored)}
    payload = encode_counts(signed.study, site.noisy_counts)
    if hashlib.sha256(payload).hexdigest() not in {stored.get(release) for release in of_model}:
        raise RunAltered("the site released other counts")
