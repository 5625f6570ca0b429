"""A site of made-up patients with codes, whose gate answers the queries of a search study."""

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.canonical import canonical_bytes
from fedhealth.link.frames import Answer, AskHead, NeedWitness, PutStudy, Witnessed, pack, unpack_reply
from fedhealth.policy.rules import Policy
from fedhealth.policy.site_file import SiteFile
from fedhealth.privacy.checkpoint import Receipt, open_checkpoint, sign_receipt
from fedhealth.privacy.entries import Approved, Created
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.mu_squared import MuSquaredBudget
from fedhealth.privacy.stream import UnsafeFixedNoiseSecret
from fedhealth.records.members import PassingMembers
from fedhealth.records.table import Table
from fedhealth.search.coded_patients import PatientFacts
from fedhealth.search.counting import envelope_of_search, read_count
from fedhealth.signing import public_key_hex
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock, GateInputs
from fedhealth.site.hold import LedgerHold
from fedhealth.study.count_query import count_query, sign_query, vouch
from fedhealth.study.search_study import SearchStudy
from fedhealth.study.signature import sign_study

RESEARCHER = Ed25519PrivateKey.from_private_bytes(b"researcher key".ljust(32))
WITNESS = Ed25519PrivateKey.from_private_bytes(b"witness key".ljust(32))
LEDGER_KEYS = {
    site: Ed25519PrivateKey.from_private_bytes(site.encode().ljust(32)) for site in ("ward-a", "ward-b", "ward-c")
}
ASKING_KEY = Ed25519PrivateKey.from_private_bytes(b"asking key".ljust(32))
ASKER = Ed25519PrivateKey.from_private_bytes(b"asker".ljust(32))
NOVEMBER_2026 = 1_794_000_000_000
QUARTER = "2026-Q4"
BUDGET = MuSquaredBudget(epsilon=20.0, delta=1e-4)
REPLY_AFTER_SECONDS = 0.02


def search_study(**counts):
    return SearchStudy.model_validate(
        {
            "format": 1,
            "name": "search",
            "title": "How many patients",
            "task": "search",
            "purpose": "Feasibility of studies.",
            "legal_basis": "Made-up patients.",
            "data_set": "ward",
            "first_quarter": "2026-Q3",
            "last_quarter": "2027-Q2",
            "roles": ["clinician"],
            "asking_sites": [{"site": "far-away", "key": public_key_hex(ASKING_KEY.public_key())}],
            "counts": {"epsilon": 0.5, "most": 20, "most_of_an_asker": 10, "least_shown": 5} | counts,
            "delta": 1e-5,
        }
    )


def patients(number=60):
    """Every second patient has Parkinson's disease, every third takes levodopa, every fifth has dementia."""
    return [
        PatientFacts(
            patient=f"p{index}",
            codes=frozenset(
                [
                    *(["icd10:G20"] if index % 2 == 0 else []),
                    *(["atc:N04BA02"] if index % 3 == 0 else []),
                    *(["icd10:F03"] if index % 5 == 0 else []),
                ]
            ),
            birth_year=1940 + index,
            sex="female" if index % 4 else "male",
        )
        for index in range(number)
    ]


class CountedWard:
    """A gate on made-up patients in the middle of November 2026; time moves only when told to."""

    def __init__(self, facts, study=None, noise=7, site="ward-a"):
        self.study, self.now, self.at = study or search_study(), 1000.0, NOVEMBER_2026
        self.site, self.key = site, LEDGER_KEYS[site]
        created = Created(
            site=site,
            ledger_key=public_key_hex(self.key.public_key()),
            witness_key=public_key_hex(WITNESS.public_key()),
            budgets={"ward": BUDGET},
            unsafe_test_site=True,
            simulation=True,
            at=0,
        )
        self.ledger = Ledger.in_memory(created, self.key)
        self.ledger.append(
            Approved(
                study=self.study.digest,
                researcher=public_key_hex(RESEARCHER.public_key()),
                data_set="ward",
                sides=None,
                declared_patients=60,
                reply_after_ms={"count": round(1000 * REPLY_AFTER_SECONDS)},
                envelope=envelope_of_search(self.study, BUDGET),
                counts_of_an_asker=self.study.counts.most_of_an_asker,
                counts_of_a_hospital=self.study.counts.most_of_a_hospital,
                delta=self.study.delta,
                by="test",
                at=0,
            )
        )
        self.facts, self.noise = facts, noise
        self.serve()

    def serve(self):
        """Start a gate on the ledger as it is, and on the patients as they are."""
        policy = {
            "tasks": ["search"],
            "purposes": ["scientific-research"],
            "researchers": ["test"],
            "min_patients_a_side": 1,
            "max_epsilon_a_study": 20,
            "budget": {"ward": {"epsilon": BUDGET.epsilon, "delta": BUDGET.delta}},
        }
        data_set = {"name": "ward", "file": "ward.csv", "patient_column": "id", "declared_patients": 60}
        inputs = GateInputs(
            site=SiteFile.model_validate({"id": self.site, "title": "Ward A", "data_set": data_set}),
            policy=Policy.model_validate(policy),
            policy_change=None,
            table=Table(Path("ward.csv"), ("id",), ()),
            split_key=bytes(32),
            naming_secret=bytes(32),
            members=PassingMembers(),
            copies_secret=bytes(32),
            hold=LedgerHold(Path("nowhere"), self.site),
            noise_secret=UnsafeFixedNoiseSecret(self.noise),
            witness_key=WITNESS.public_key(),
            researchers={"test": public_key_hex(RESEARCHER.public_key())},
            patient_facts=lambda: self.facts,
        )
        clock = Clock(monotonic=lambda: self.now, unix_ms=lambda: self.at)
        self.gate = Gate(inputs, self.ledger, {}, clock)
        self.gate.prepare(sign_study(self.study, RESEARCHER))
        self.send(pack(Witnessed(study=None, receipt=self.receipt())))

    def send(self, frame):
        """Return the reply's header, its body, and the seconds after which it may leave."""
        arrived = self.now
        reply = self.gate.handle(frame)
        header, body = unpack_reply(reply.frame)
        return header, bytes(body), reply.leaves_at - arrived

    def receipt(self):
        head = open_checkpoint(self.ledger.head(), self.site, self.key.public_key())
        challenge = unpack_reply(self.gate.handle(pack(AskHead(since=0))).frame)[0].challenge
        return sign_receipt(Receipt(site=self.site, size=head.size, root=head.root, challenge=challenge), WITNESS)

    def put(self):
        return self.send(pack(PutStudy(), sign_study(self.study, RESEARCHER)))

    def ask(self, data):
        """Ask with a body, countersign where wanted, and return the last reply."""
        reply = self.send(pack(Answer(study=self.study.digest, step="count", round=1), data))
        while isinstance(reply[0], NeedWitness):
            reply = self.send(pack(Witnessed(study=self.study.digest, receipt=self.receipt())))
        return reply

    def count(self, query, **who):
        """Return the noisy count of a query; "fewer" for None."""
        header, body, _ = self.ask(signed_query(self.study, query, **who))
        assert header.kind == "release", header
        return read_count(body, self.study)

    @property
    def charged(self):
        return self.ledger.account.releases(self.study.digest, "count")


def query(*all_of, quarter=QUARTER, **parts):
    return count_query(quarter, tuple(all_of), **parts)


def signed_query(study, asked, key=ASKER, role="clinician", site="far-away", until="2026-Q4", asking_key=ASKING_KEY):
    asker = vouch(site, public_key_hex(key.public_key()), role, until, asking_key)
    return canonical_bytes(sign_query(study.digest, asked, study.purpose_class, asker, key))
