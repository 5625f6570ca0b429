"""A site's gate folder as an audit finds it: two approved studies, charges, a journal, a receipt."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.learning.plan import envelope_of, plan_study
from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.privacy.entries import Approved, Created, Reserved, Withdrawn
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.signing import create_signing_key, load_signing_key, public_key_hex
from fedhealth.study.protocol import Study
from fedhealth.study.signature import sign_study

RESEARCHER = Ed25519PrivateKey.from_private_bytes(b"researcher key".ljust(32))
WITNESS = Ed25519PrivateKey.from_private_bytes(b"witness key".ljust(32))
BUDGET = MuSquaredBudget(epsilon=4.0, delta=1e-5)
SECRET_PAYLOAD, SECRET_NOTE = b"a payload that stays here", "a note that stays here"


def study(name, training_epsilon=1.0, rounds=4):
    return Study.model_validate(
        {
            "format": 1,
            "name": name,
            "title": "A study",
            "task": "diagnosis",
            "purpose": "To be audited.",
            "legal_basis": "Made-up records.",
            "data_set": "ward",
            "max_records_per_patient": 4,
            "features": [{"kind": "number", "column": "age", "unit": "years", "range": [0, 100], "impute": 50}],
            "endpoint": {"kind": "binary", "column": "ill", "positive_above": 0, "positive": "is ill"},
            "model": {"kind": "logistic-regression"},
            "training": {"rounds": rounds, "spare_rounds": 0, "learning_rate": 1.0, "l2_clip_norm": 1.0},
            "evaluation": {"held_out_fraction": 0.25},
            "privacy": {
                "unit": "patient",
                "delta": 1e-5,
                "training_epsilon": training_epsilon,
                "evaluation_epsilon": 1.0,
            },
        }
    )


FIRST, SECOND = study("first"), study("second", training_epsilon=0.5)


def approval(asked, by):
    return Approved(
        study=asked.digest,
        researcher=public_key_hex(RESEARCHER.public_key()),
        data_set="ward",
        sides="d" * 64,
        declared_patients=100,
        reply_after_ms={"train": 20, "evaluate": 20},
        envelope=envelope_of(asked, BUDGET),
        delta=1e-5,
        by=by,
        at=1_700_000_000_000,
    )


def charge(asked, number):
    step = plan_study(asked)["train"]
    return Reserved(
        release=f"{number:064x}",
        study=asked.digest,
        step="train",
        round=number,
        cohort="training",
        cost=BUDGET.cost_of(step.event),
        at=1_700_000_001_000,
    )


def make_gate(folder, *, site="north", notes=(), unsafe=False):
    """Two studies; of the first's four rounds three are charged, one of them stored; the second is withdrawn.

    Entries: created, two approvals, withdrawal, two charges, one stored, one charge: eight.
    """
    (folder / "studies").mkdir(parents=True)
    public = create_signing_key(folder / "ledger.key")
    created = Created(
        site=site,
        ledger_key=public_key_hex(public),
        witness_key=public_key_hex(WITNESS.public_key()),
        budgets={"ward": BUDGET},
        unsafe_test_site=unsafe,
        at=1_699_999_999_000,
    )
    ledger = Ledger.create(folder / "ledger.sqlite", created, load_signing_key(folder / "ledger.key"))
    for asked, by in ((FIRST, "ada"), (SECOND, "grace")):
        ledger.append(approval(asked, by), [JournalNote(kind="alert", text=text, at=1) for text in notes])
        (folder / "studies" / f"{asked.digest}.json").write_bytes(sign_study(asked, RESEARCHER))
    ledger.append(Withdrawn(study=SECOND.digest, by="ada", at=1_700_000_000_500))
    ledger.reserve(charge(FIRST, 1))
    ledger.reserve(charge(FIRST, 2))
    head = open_checkpoint(ledger.head(), site, public)
    ledger.witness(sign_receipt(Receipt(site=site, size=head.size, root=head.root), WITNESS))
    ledger.store(f"{1:064x}", SECRET_PAYLOAD)
    ledger.reserve(charge(FIRST, 3))
    ledger.close()
    return folder
