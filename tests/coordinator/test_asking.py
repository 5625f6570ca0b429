"""Asking a gate: heals what was lost, believes nothing else, acknowledges only what is checkpointed."""

import asyncio
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedhealth.coordinator.asking import AWAY, LEDGER_BEHIND, Asker, NoRelease
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.errors import LinkUnavailable
from fedhealth.learning.plan import encode_release, encode_weights, plan_study
from fedhealth.link.frames import (
    Accepted,
    AskHead,
    Head,
    NeedWitness,
    PutStudy,
    Refused,
    ReleaseReply,
    Witnessed,
    pack,
    unpack_reply,
    unpack_request,
)
from fedhealth.policy.site_file import load_site_file
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.records.table import read_table
from fedhealth.simulation.gates import SimulatedSite, open_gate
from fedhealth.site.gate import Gate
from fedhealth.site.gate_inputs import Clock
from fedhealth.study.protocol import load_study
from fedhealth.study.signature import sign_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = load_study(ROOT / "protocols" / "heart-disease-diagnosis.toml")
FILE = load_site_file(ROOT / "sites" / "switzerland")
TABLE = read_table(FILE.data_set.file, strict=True)
WIDTH = plan_study(STUDY)["train"].input_length
CLOCK = Clock(monotonic=time.monotonic, unix_ms=lambda: time.time_ns() // 10**6)


def noise_only(step, weights, records, streams):
    return encode_release(step.mechanism.add_noise(np.zeros(step.mechanism.dimension, np.int64), streams("noise"))), 0


def data_of(value=0.0):
    return encode_weights(np.full(WIDTH, value))


def identity_of(number=1, data=None):
    return ReleaseIdentity(
        site=FILE.id, study=STUDY.digest, step="train", round=number, input_digest=input_digest(data or data_of())
    )


class Wire:
    """A coordinator and one gate in this process, with a wire between them that can be cut."""

    def __init__(self, folder):
        self.folder, self.key = folder, Ed25519PrivateKey.generate()
        self.researcher = Ed25519PrivateKey.generate()
        steps = {"train": noise_only, "evaluate": noise_only}
        site = SimulatedSite(FILE, TABLE, bytes(32), 3)
        self.gate, self.ledger = open_gate(site, STUDY, folder, self.researcher, self.key, CLOCK, steps)
        self.requests, self.lose, self.change = [], lambda kind: None, None
        self.start_coordinator()
        self.meet()

    def meet(self):
        """Countersign the head that the gate started with, as a coordinator does before it asks for a release."""
        asyncio.run(self.asker.head(FILE.id))
        self.requests.clear()

    def start_coordinator(self):
        pinned = {FILE.id: PinnedSite(ledger_key=self.ledger.account.created.ledger_key)}
        self.asker = Asker(self.carry, Witness(self.folder, pinned, self.key))

    def restart_gate(self):
        before = self.gate
        self.gate = Gate(before._inputs, self.ledger, before._compute, CLOCK)
        self.gate.prepare(sign_study(STUDY, self.researcher))

    async def carry(self, site, frame):
        assert site == FILE.id
        request, _ = unpack_request(frame)
        self.requests.append(request)
        lost = self.lose(request.kind)
        if lost == "request":
            raise LinkUnavailable("cut")
        reply = self.gate.handle(frame).frame
        if lost == "reply":
            raise LinkUnavailable("cut")
        if callable(lost):
            lost()
        return self.change(reply) if self.change else reply

    def ask(self, number=1, value=0.0):
        return asyncio.run(self.asker.ask(identity_of(number, data_of(value)), data_of(value)))

    @property
    def charges(self):
        return self.ledger.account.releases(STUDY.digest, "train")

    @property
    def kinds(self):
        return [request.kind for request in self.requests]

    def state(self, number=1, value=0.0):
        return self.ledger.row(identity_of(number, data_of(value)).digest).state


@pytest.fixture
def wire(tmp_path):
    made = Wire(tmp_path)
    yield made
    made.ledger.close()


def once(kind, what):
    """Do `what` to the first request of a kind and leave the rest alone."""
    left = [kind]

    def lose(found):
        if found in left:
            left.remove(found)
            return what
        return None

    return lose


def test_a_release_takes_two_questions_and_one_charge(wire):
    payload = wire.ask()
    assert wire.kinds == ["answer", "witnessed"]
    assert len(payload) == 8 * WIDTH
    assert wire.charges == 1


@pytest.mark.parametrize("kind", ["answer", "witnessed"])
@pytest.mark.parametrize("what", ["request", "reply"])
def test_whatever_is_lost_asking_again_gives_the_same_release_and_one_charge(wire, kind, what):
    wire.lose = once(kind, what)
    with pytest.raises(NoRelease) as caught:
        wire.ask()
    assert caught.value.code == AWAY
    payload = wire.ask()
    assert wire.charges == 1
    assert wire.ask() == payload
    # And the next round is not disturbed.
    wire.ask(number=2)
    assert wire.charges == 2


def test_a_gate_that_restarted_after_the_charge_is_asked_again_at_once(wire):
    wire.lose = once("answer", wire.restart_gate)
    assert len(wire.ask()) == 8 * WIDTH
    assert wire.kinds == ["answer", "witnessed", "answer", "witnessed"]
    assert wire.charges == 1


def test_a_coordinator_that_restarted_gets_the_same_bytes(wire):
    payload = wire.ask()
    wire.start_coordinator()
    assert wire.ask() == payload
    assert wire.charges == 1


def test_a_lost_receipt_is_healed_by_a_proof_from_the_coordinators_own_size(wire):
    # The coordinator countersigned and the receipt never arrived: the gate proves from 0, the coordinator saw 3.
    wire.lose = once("witnessed", "request")
    with pytest.raises(NoRelease):
        wire.ask()
    wire.requests.clear()
    wire.ask(number=2)
    assert wire.kinds == ["answer", "head", "witnessed"]
    assert wire.requests[1] == AskHead(since=3, copies_from=3)  # created, approved, reserved
    assert wire.charges == 2
    wire.ask(number=1)
    assert wire.charges == 2


def test_a_ledger_that_was_rolled_back_is_named_at_once_and_never_countersigned(wire, tmp_path):
    wire.ask(number=1)
    wire.ask(number=2)
    kept, copy = wire.gate, tmp_path / "earlier"
    copy.mkdir()
    earlier = Wire(copy)  # a ledger under the same key that never had these releases
    earlier.ledger._logs.key = wire.ledger._logs.key
    wire.gate = earlier.gate
    with pytest.raises(NoRelease) as caught:
        wire.ask(number=3)
    assert caught.value.code == LEDGER_BEHIND
    assert "older than the head" in caught.value.detail
    with pytest.raises(NoRelease, match=LEDGER_BEHIND):
        asyncio.run(wire.asker.head(FILE.id))
    assert earlier.ledger.receipt().size == 2  # of its own coordinator, from before
    assert earlier.state(3) == "reserved"  # no signature, so no noise and no release
    wire.gate = kept
    wire.ask(number=3)
    earlier.ledger.close()


def changed_release(name):
    def change(reply):
        header, body = unpack_reply(reply)
        if not isinstance(header, ReleaseReply):
            return reply
        return pack(ReleaseReply(release=name, signature=header.signature), body)

    return change


def made_up_payload(reply):
    """What a hostile node would say in the gate's name: the right release, its real signature, other figures."""
    header, body = unpack_reply(reply)
    return pack(header, bytes(len(body))) if isinstance(header, ReleaseReply) else reply


LIES = [
    ("another release's name", changed_release("ab" * 32)),
    ("the name of another round", changed_release(identity_of(number=2).digest)),
    ("no frame", lambda reply: b"\xff"),
    ("nothing", lambda reply: b""),
    (
        "a head out of turn",
        lambda reply: pack(Head(note="x", proof=(), challenge="ab" * 32, entries=1, signature="0" * 128)),
    ),
    (
        "a witness wanted for ever",
        lambda reply: pack(NeedWitness(note="x", proof=(), challenge="ab" * 32, signature="0" * 128)),
    ),
    (
        "an approval",
        lambda reply: pack(
            Accepted(
                study="ab" * 32,
                declared_patients=1,
                reply_after_ms={"train": 1},
                unsafe_test_site=False,
                signature="0" * 128,
            )
        ),
    ),
    ("figures that no gate signed", made_up_payload),
    ("a code that does not exist", lambda reply: reply.replace(b"release", b"patient")),
]


@pytest.mark.parametrize("change", [row[1] for row in LIES], ids=[row[0] for row in LIES])
def test_a_site_that_answers_something_else_is_away(wire, change):
    wire.change = change
    with pytest.raises(NoRelease) as caught:
        wire.ask()
    assert caught.value.code == AWAY
    wire.change = None
    wire.asker.checkpointed()
    wire.ask(number=2)
    # What was not believed was not acknowledged either.
    assert all(identity_of().digest not in acknowledged(request) for request in wire.requests)


def acknowledged(request):
    return request.receipt.receipt.checkpointed if isinstance(request, Witnessed) else ()


@pytest.mark.parametrize("code", ["policy", "budget-spent", "not-approved", "busy", "bad-request"])
def test_a_refusal_is_its_code(wire, code):
    wire.change = lambda reply: pack(Refused(code=code))
    with pytest.raises(NoRelease) as caught:
        wire.ask()
    assert caught.value.code == code


def test_an_identity_must_be_of_the_input(wire):
    with pytest.raises(ValueError, match="another input"):
        asyncio.run(wire.asker.ask(identity_of(), data_of(1.0)))
    assert wire.requests == []


def test_nothing_is_acknowledged_before_it_is_checkpointed(wire):
    wire.ask(number=1)
    wire.ask(number=2)
    assert [wire.state(1), wire.state(2)] == ["stored", "stored"]
    wire.asker.checkpointed()
    wire.ask(number=3)
    assert [wire.state(1), wire.state(2), wire.state(3)] == ["sent", "sent", "stored"]
    asyncio.run(wire.asker.head(FILE.id))
    assert wire.state(3) == "stored"
    wire.asker.checkpointed()
    asyncio.run(wire.asker.head(FILE.id))
    assert wire.state(3) == "sent"


@pytest.mark.parametrize("what", ["request", "reply"])
def test_an_acknowledgement_that_was_lost_is_given_again(wire, what):
    wire.ask(number=1)
    wire.asker.checkpointed()
    wire.lose = once("witnessed", what)
    with pytest.raises(NoRelease):
        wire.ask(number=2)
    wire.ask(number=2)
    asyncio.run(wire.asker.head(FILE.id))
    assert wire.state(1) == "sent"
    assert wire.state(2) == "stored"


def test_more_acknowledgements_than_fit_one_receipt_go_with_the_next(wire):
    releases = [f"{number:064x}" for number in range(150)]
    wire.asker._received[FILE.id] = list(releases)
    wire.asker.checkpointed()
    for _ in range(3):
        asyncio.run(wire.asker.head(FILE.id))
    sent = [acknowledged(request) for request in wire.requests if isinstance(request, Witnessed)]
    assert [len(each) for each in sent] == [64, 64, 22]
    assert [release for each in sent for release in each] == releases


def test_a_study_is_put_to_a_site_and_refused_by_code(wire):
    accepted = asyncio.run(wire.asker.put_study(FILE.id, sign_study(STUDY, wire.researcher)))
    assert accepted.declared_patients == FILE.data_set.declared_patients
    assert accepted.unsafe_test_site
    with pytest.raises(NoRelease) as caught:
        asyncio.run(wire.asker.put_study(FILE.id, sign_study(STUDY, wire.key)))
    assert caught.value.code == "policy"
    assert wire.requests[-1] == PutStudy()


@pytest.mark.parametrize(
    "lie", [{"unsafe_test_site": False}, {"declared_patients": 10**9}, {"reply_after_ms": {"train": 86_400_000}}]
)
def test_a_node_cannot_change_what_a_gate_says_of_itself(wire, lie):
    def change(reply):
        header, _ = unpack_reply(reply)
        return pack(header.model_copy(update=lie))

    wire.change = change
    with pytest.raises(NoRelease, match="not signed"):
        asyncio.run(wire.asker.put_study(FILE.id, sign_study(STUDY, wire.researcher)))
    wire.change = None
    assert asyncio.run(wire.asker.put_study(FILE.id, sign_study(STUDY, wire.researcher))).unsafe_test_site


def test_nobody_waits_while_a_head_is_written_down_and_an_ask_given_up_meanwhile_loses_nothing(wire, monkeypatch):
    flush, writing, go_on = os.fsync, threading.Event(), threading.Event()

    def slow_flush(descriptor):
        writing.set()
        go_on.wait(5)
        flush(descriptor)

    async def given_up_and_asked_again():
        monkeypatch.setattr(os, "fsync", slow_flush)
        given_up = asyncio.create_task(wire.asker.ask(identity_of(), data_of()))
        while not writing.is_set():
            await asyncio.sleep(0.001)
        given_up.cancel()
        await asyncio.wait([given_up])
        again = asyncio.create_task(wire.asker.ask(identity_of(), data_of()))
        await asyncio.sleep(0.01)
        go_on.set()
        return given_up.cancelled(), await again

    cancelled, payload = asyncio.run(given_up_and_asked_again())
    assert cancelled
    assert len(payload) == 8 * WIDTH
    assert wire.charges == 1
    wire.start_coordinator()  # reads the file again, whole
    assert wire.ask(2, 1.0)
