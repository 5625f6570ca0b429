"""A run of two sites as a coordinator publishes it, and the sites' ledgers, made without any process or training."""

import hashlib

import numpy as np
import safetensors.numpy
from audited_site import BUDGET, RESEARCHER, WITNESS, approval, study
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.canonical import canonical_bytes
from fedhealth.compliance.federation import read_federation
from fedhealth.coordinator.evidence import (
    LedgerHead,
    Participation,
    RunResult,
    SiteResult,
    Span,
    evidence_of,
)
from fedhealth.coordinator.publishing import write_results
from fedhealth.coordinator.run_folder import MODEL
from fedhealth.learning.evaluation import counts_of
from fedhealth.learning.model_file import notes_of
from fedhealth.learning.plan import decode_release, encode_release, encode_weights, plan_study
from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.privacy.entries import Created, Reserved
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.signing import create_signing_key, load_public_key, load_signing_key, public_key_hex
from fedhealth.study.signature import open_signed_study, sign_study

RUN = study("heart").model_copy(update={"title": "Who <is> ill & when"})
WEIGHTS = np.array([0.25, -0.5])
OTHER_WEIGHTS = np.array([0.25, 0.5])
ROUNDS = 4
SITES = ("north", "south")


def released(site):
    """Return an evaluation's release, in grid steps: made-up counts of some hundred patients."""
    mechanism = plan_study(RUN)["evaluate"].mechanism
    counts = np.arange(1, mechanism.dimension + 1) * (7.0 if site == "north" else 11.0)
    return np.rint(counts / mechanism.grid).astype(np.int64)


def make_ledger(folder, site, *, rounds=range(1, ROUNDS + 1), weights=WEIGHTS, coordinator=WITNESS, approved=True):
    """Make the ledger of a site that took part in these rounds of `RUN` and evaluated these weights, if any."""
    (folder / "studies").mkdir(parents=True)
    public = create_signing_key(folder / "ledger.key")
    created = Created(
        site=site,
        ledger_key=public_key_hex(public),
        witness_key=public_key_hex(coordinator.public_key()),
        budgets={"ward": BUDGET},
        researchers={"dr-lin": public_key_hex(RESEARCHER.public_key())},
        unsafe_test_site=False,
        at=1_699_999_999_000,
    )
    ledger = Ledger.create(folder / "ledger.sqlite", created, load_signing_key(folder / "ledger.key"))
    if approved:
        ledger.append(approval(RUN, "ada"))
        (folder / "studies" / f"{RUN.digest}.json").write_bytes(sign_study(RUN, RESEARCHER))
        for number in rounds:
            release(
                ledger, site, "train", number, encode_weights(np.full(2, float(number))), b"a noisy sum", coordinator
            )
        if weights is not None:
            release(ledger, site, "evaluate", 1, encode_weights(weights), encode_release(released(site)), coordinator)
    ledger.close()
    return folder


def release(ledger, site, step, number, data, payload, coordinator):
    """Charge a release, have it countersigned, and store it."""
    identity = ReleaseIdentity(site=site, study=RUN.digest, step=step, round=number, input_digest=input_digest(data))
    planned = plan_study(RUN)[step]
    ledger.reserve(
        Reserved(
            release=identity.digest,
            study=RUN.digest,
            step=step,
            round=number,
            cohort=planned.cohort,
            cost=BUDGET.cost_of(planned.event),
            at=1_700_000_001_000 + number,
        )
    )
    head = open_checkpoint(ledger.head(), site, load_public_key(ledger.created.ledger_key))
    ledger.witness(sign_receipt(Receipt(site=site, size=head.size, root=head.root), coordinator))
    ledger.store(identity.digest, payload)


def make_run(folder, gates):
    """Publish the run of the gates in `gates`, by site, as the coordinator does."""
    folder.mkdir()
    sites = {}
    for site, gate in gates.items():
        ledger = read_federation([gate]).sites[0].history
        verified = ledger.ledger.verified
        mechanism = plan_study(RUN)["evaluate"].mechanism
        sites[site] = SiteResult(
            declared_patients=100,
            rounds=tuple(range(1, ROUNDS + 1)),
            evaluations=1,
            noisy_counts=counts_of(RUN, decode_release(encode_release(released(site)), mechanism)),
            ledger=LedgerHead(
                size=verified.head.size,
                root=verified.head.root,
                note=ledger.ledger.head,
                ledger_key=verified.ledger_key,
            ),
        )
    publish(folder, sites)
    return folder


def publish(folder, sites, weights=WEIGHTS, key=WITNESS, **changes):
    """Write a run's files, sealed, whatever they say; `changes` are to the run's result."""
    signed = sign_study(RUN, RESEARCHER)
    rounds = changes.get("rounds_completed", ROUNDS)
    # Written here, because the package writes no model of another size than the study's.
    model = safetensors.numpy.save(
        {"weights": weights}, metadata={"fedhealth": canonical_bytes(notes_of(RUN, rounds)).decode()}
    )
    (folder / MODEL).write_bytes(model)
    result = RunResult(
        **{
            "software": "fedhealth 0.1.0",
            "federation": "two-hospitals",
            "started": "2025-11-22T08:00:00+00:00",
            "finished": "2025-11-22T08:05:00+00:00",
            "rounds_completed": ROUNDS,
            "participation": Participation(sites=tuple(sorted(sites)), rounds=(Span(first=1, last=rounds),)),
            "sites": sites,
            "model_sha256": hashlib.sha256(model).hexdigest(),
            **changes,
        }
    )
    evidence = evidence_of(open_signed_study(signed), result)
    write_results(folder, signed, evidence, key)


def other_key():
    """Return a key that nobody was told of."""
    return Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32)


def failed(found):
    return {check.name for check in found.checks if check.outcome == "failed"}


def unchecked(found):
    return {check.name for check in found.checks if check.outcome == "not checked"}


def taken(spans, sites=SITES, silent=None):
    rounds = tuple(Span(first=first, last=last, absent=absent) for first, last, absent in spans)
    return Participation(sites=sites, rounds=rounds, evaluation_absent=silent or {})
