"""What a gate refuses, with which code, and that a refusal costs nothing."""

import io
import struct

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import PolicyForbids, RefusalCode
from fedhealth.learning.plan import encode_weights, envelope_of
from fedhealth.link.frames import (
    MAX_FRAME_BYTES,
    Answer,
    NeedWitness,
    PutStudy,
    ReleaseReply,
    Witnessed,
    pack,
    unpack_reply,
)
from fedhealth.privacy.entries import Withdrawn
from fedhealth.site.prepared_studies import PreparedStudies
from fedhealth.study.signature import sign_study

UNKNOWN = "ab" * 32


def with_value(hospital, value):
    data = np.zeros(3)
    data[1] = value
    return hospital.question(data=encode_weights(data))


def with_bits(hospital, bits):
    return hospital.question(data=np.array([0, bits, 0], dtype="<u8").tobytes())


def numpy_file(array):
    with io.BytesIO() as file:
        np.save(file, array)
        return file.getvalue()


def other_study(hospital, make_protocol):
    return sign_study(make_protocol(name="other"), hospital.researcher)


# Each row: name, the frame made from a hospital, the code. None of them may change the ledger.
REFUSALS = [
    ("an empty frame", lambda h, p, raw: b"", "bad-request"),
    ("a frame of three bytes", lambda h, p, raw: b"\x00\x00\x00", "bad-request"),
    ("a header longer than the frame", lambda h, p, raw: struct.pack("!I", 50) + b"{}", "bad-request"),
    ("a header length near 2**32", lambda h, p, raw: b"\xff\xff\xff\xff{}", "bad-request"),
    ("a frame beyond the limit", lambda h, p, raw: bytes(MAX_FRAME_BYTES + 1), "bad-request"),
    ("a header that is no JSON", lambda h, p, raw: raw(b"{"), "bad-request"),
    ("a header nested 10,000 deep", lambda h, p, raw: raw(b"[" * 10_000), "bad-request"),
    ("an unknown kind", lambda h, p, raw: raw({"kind": "shell"}), "bad-request"),
    ("a reply instead of a request", lambda h, p, raw: raw({"kind": "refused", "code": "busy"}), "bad-request"),
    (
        "an unknown field",
        lambda h, p, raw: raw(
            {"kind": "answer", "study": h.study.digest, "step": "train", "round": 1, "x": 1}, h.weights(0)
        ),
        "bad-request",
    ),
    (
        "round 0",
        lambda h, p, raw: raw({"kind": "answer", "study": h.study.digest, "step": "train", "round": 0}, h.weights(0)),
        "bad-request",
    ),
    (
        "an unknown step",
        lambda h, p, raw: raw({"kind": "answer", "study": h.study.digest, "step": "dump", "round": 1}, h.weights(0)),
        "bad-request",
    ),
    ("training beyond the plan", lambda h, p, raw: h.question(number=4), "bad-request"),
    ("a second evaluation round", lambda h, p, raw: h.question("evaluate", 2), "bad-request"),
    ("the last round number there is", lambda h, p, raw: h.question(number=2**31), "bad-request"),
    ("an empty input", lambda h, p, raw: h.question(data=b""), "bad-request"),
    ("an input a byte short", lambda h, p, raw: h.question(data=h.weights(0)[:-1]), "bad-request"),
    ("an input a byte long", lambda h, p, raw: h.question(data=h.weights(0) + b"\0"), "bad-request"),
    ("an input a weight long", lambda h, p, raw: h.question(data=h.weights(0) + bytes(8)), "bad-request"),
    ("weights in single precision", lambda h, p, raw: h.question(data=np.zeros(3, "<f4").tobytes()), "bad-request"),
    ("weights as a list in JSON", lambda h, p, raw: h.question(data=b"[0.0, 0.0, 0.0]"), "bad-request"),
    ("weights as a file of NumPy's", lambda h, p, raw: h.question(data=numpy_file(np.zeros(3))), "bad-request"),
    ("as many bytes of text", lambda h, p, raw: h.question(data=b"\xff" * 24), "bad-request"),  # which are NaNs
    ("a NaN with a payload", lambda h, p, raw: with_bits(h, 0x7FF8_0000_DEAD_BEEF), "bad-request"),
    ("a signalling NaN", lambda h, p, raw: with_bits(h, 0x7FF0_0000_0000_0001), "bad-request"),
    ("a NaN weight", lambda h, p, raw: with_value(h, np.nan), "bad-request"),
    ("an infinite weight", lambda h, p, raw: with_value(h, np.inf), "bad-request"),
    ("a weight of minus infinity", lambda h, p, raw: with_value(h, -np.inf), "bad-request"),
    ("an unknown study", lambda h, p, raw: pack(Answer(study=UNKNOWN, step="train", round=1)), "not-approved"),
    ("a study never approved", lambda h, p, raw: pack(PutStudy(), other_study(h, p)), "not-approved"),
    ("a study by a stranger", lambda h, p, raw: pack(PutStudy(), sign_study(h.study, h.witness)), "policy"),
    ("a study that is no study", lambda h, p, raw: pack(PutStudy(), b"{}"), "bad-request"),
    ("a study with a space added", lambda h, p, raw: pack(PutStudy(), h.signed + b" "), "bad-request"),
    (
        "a study whose epsilon was changed after signing",
        lambda h, p, raw: pack(PutStudy(), h.signed.replace(b'"delta":0.0001', b'"delta":0.001')),
        "bad-request",
    ),
    ("a receipt with nothing pending", lambda h, p, raw: h.witnessed(), "bad-request"),
    (
        "a receipt signed by another key",
        lambda h, p, raw: h.witnessed(key=Ed25519PrivateKey.generate()),
        "bad-request",
    ),
    ("a receipt signed by the site itself", lambda h, p, raw: h.witnessed(key=h.key), "bad-request"),
    ("a receipt for another site", lambda h, p, raw: h.witnessed(site="ward-b"), "bad-request"),
    (
        "an old receipt for another root",
        lambda h, p, raw: h.witnessed(root="0" * 64, challenge="ab" * 32),
        "bad-request",
    ),
    ("an old receipt for a longer ledger", lambda h, p, raw: h.witnessed(size=99, challenge="ab" * 32), "bad-request"),
    ("a receipt of size 0", lambda h, p, raw: h.witnessed().replace(b'"size":2', b'"size":0'), "bad-request"),
    ("a head since -1", lambda h, p, raw: raw({"kind": "head", "since": -1}), "bad-request"),
]


@pytest.mark.parametrize(("frame_of", "code"), [row[1:] for row in REFUSALS], ids=[row[0] for row in REFUSALS])
def test_refuses_with_the_right_code_and_charges_nothing(hospital, make_protocol, raw, frame_of, code):
    site = hospital()
    before = site.entries
    reply, body, wait = site.send(frame_of(site, make_protocol, raw))
    assert (reply.kind, reply.code.value, body, wait) == ("refused", code, b"", 0)
    assert site.entries == before == 2
    assert site.charges() == 0
    # And whatever it was, the gate serves on.
    assert isinstance(site.ask()[0], ReleaseReply)


def test_a_receipt_of_another_history_does_not_stand_in_for_one_of_this(hospital):
    site = hospital()
    site.send(site.question())
    old = {"challenge": "ab" * 32}
    for wrong in ({"root": "0" * 64} | old, {"size": 99} | old, {"site": "ward-b"}, {"key": site.key}):
        assert site.send(site.witnessed(**wrong))[0].kind == "refused"
        assert site.ledger.receipt().size == 2  # that of the head the gate started with
    assert isinstance(site.send(site.witnessed())[0], ReleaseReply)


def test_an_older_receipt_is_refused_and_does_not_witness(hospital):
    site = hospital()
    old = site.receipt()
    site.ask(number=1)
    site.send(site.question(number=2))
    reply = site.send(pack(Witnessed(study=site.study.digest, receipt=old)))[0]
    assert (reply.kind, reply.code) == ("refused", RefusalCode.BAD_REQUEST)


def test_a_receipt_that_does_not_cover_the_charge_releases_nothing(hospital):
    site = hospital()
    before_the_charge = site.receipt()
    site.send(site.question())
    reply, body, _ = site.send(pack(Witnessed(study=site.study.digest, receipt=before_the_charge)))
    assert (reply.kind, reply.code, body) == ("refused", RefusalCode.BAD_REQUEST, b"")
    assert isinstance(site.send(site.witnessed())[0], ReleaseReply)  # nothing was computed, so nothing stopped


def test_refuses_a_withdrawn_study(hospital):
    site = hospital()
    site.ask(number=1)
    site.send(site.question(number=2))
    site.ledger.append(Withdrawn(study=site.study.digest, by="test", at=0))
    size = site.entries
    frames = [
        site.question(number=1),  # its payload is stored
        site.question(number=2),  # it is charged
        site.question(number=3),
        pack(PutStudy(), site.signed),
        site.witnessed(),
    ]
    for frame in frames:
        reply = site.send(frame)[0]
        assert (reply.kind, reply.code) == ("refused", RefusalCode.NOT_APPROVED)
    assert site.entries == size


def test_refuses_an_approved_study_that_the_policy_forbids_since(hospital):
    site = hospital()
    site.max_epsilon = 1.0  # the study asks 2.0
    with pytest.raises(PolicyForbids):
        site.reopen()
    for frame in (site.question(), pack(PutStudy(), site.signed)):
        reply = site.send(frame)[0]
        assert (reply.kind, reply.code) == ("refused", RefusalCode.POLICY)
    assert site.entries == 2


def test_an_approved_study_that_could_not_be_prepared_is_busy_and_costs_nothing(hospital):
    site = hospital()
    site.csv.write_text("id,age\np1,3\n")
    with pytest.raises(Exception, match="lacks what study"):
        site.reopen()
    reply = site.send(site.question())[0]
    assert (reply.kind, reply.code) == ("refused", RefusalCode.BUSY)
    assert site.charges() == 0


def test_a_study_cannot_run_on_another_data_set_than_the_one_that_pays(hospital, monkeypatch):
    site = hospital()
    inputs = site.gate._inputs
    moved = inputs.site.data_set.model_copy(update={"name": "intensive-care"})
    monkeypatch.setattr(
        PreparedStudies, "_warm_up", lambda *_: pytest.fail("the study was prepared on another data set")
    )
    object.__setattr__(inputs, "site", inputs.site.model_copy(update={"data_set": moved}))
    with pytest.raises(Exception, match="data set 'ward', which pays for it"):
        site.gate.prepare(site.signed)


def test_other_inputs_at_one_round_are_new_charges_until_the_envelope_is_spent(hospital):
    # Three rounds are planned, so the envelope holds three releases, whichever rounds they are asked for.
    site = hospital()
    payloads = []
    for value in (1.0, 2.0, 3.0):
        reply, payload, _ = site.ask(number=1, data=site.weights(value))
        assert isinstance(reply, ReleaseReply)
        payloads.append(payload)
    assert len(set(payloads)) == 3
    assert site.charges() == 3
    size = site.entries
    for number, value in ((1, 4.0), (2, 1.0), (3, 0.0)):
        reply = site.ask(number=number, data=site.weights(value))[0]
        assert (reply.kind, reply.code) == ("refused", RefusalCode.BUDGET_SPENT)
    assert site.entries == size
    envelope = envelope_of(site.study, site.ledger.created.budgets["ward"])["training"]
    assert site.ledger.account.spent(site.study.digest, "training").fits(envelope)
    # What was paid for is still answered, and the other side of the data set has its own envelope.
    assert site.ask(number=1, data=site.weights(2.0))[1] == payloads[1]
    assert isinstance(site.ask("evaluate")[0], ReleaseReply)
    assert site.ask("evaluate", data=site.weights(9.0))[0].code == RefusalCode.BUDGET_SPENT


def test_questions_that_are_never_witnessed_spend_the_envelope_and_no_more(hospital):
    site = hospital()
    for value in range(3):
        assert isinstance(site.send(site.question(data=site.weights(value)))[0], NeedWitness)
    assert site.send(site.question(data=site.weights(7.0)))[0].code == RefusalCode.BUDGET_SPENT
    assert site.charges() == 3


def test_minus_zero_is_another_input_and_another_charge(hospital):
    # Equal numbers, other bytes: the identity is of bytes, so the noise may not be shared and is not.
    site = hospital()
    one, two = site.ask(data=site.weights(0.0)), site.ask(data=site.weights(-0.0))
    assert one[1] != two[1]
    assert site.charges() == 2


words = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.floats(), st.text(max_size=70), st.just(UNKNOWN)
)
near_valid = st.fixed_dictionaries(
    {"kind": st.sampled_from(["answer", "witnessed", "head", "put-study", "release", 1])},
    optional={
        "study": words,
        "step": st.one_of(st.sampled_from(["train", "evaluate"]), words),
        "round": words,
        "since": words,
        "receipt": st.one_of(
            words, st.fixed_dictionaries({"receipt": st.dictionaries(st.text(max_size=9), words), "signature": words})
        ),
    },
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory, make_hospital):
    site = make_hospital(tmp_path_factory.mktemp("fuzzed") / "hospital")
    yield site
    site.close()


def to_bytes(header):
    try:
        return canonical_bytes(header)
    except Exception:  # NaN and lone surrogates have no canonical form
        return repr(header).encode(errors="replace")


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(
        st.binary(max_size=200),
        st.builds(
            lambda head, body, lie: struct.pack("!I", max(0, len(head) + lie)) + head + body,
            st.one_of(st.binary(max_size=80), near_valid.map(to_bytes)),
            st.binary(max_size=60),
            st.sampled_from([0, 0, 0, 0, -1, 1, 2**31]),
        ),
    )
)
def test_any_bytes_get_a_well_formed_reply_and_cost_nothing(fuzzed, frame):
    reply = fuzzed.gate.handle(frame)
    header, body = unpack_reply(reply.frame)
    assert header.kind in ("refused", "head")
    assert body == b""
    assert reply.leaves_at == fuzzed.time.now
    assert fuzzed.entries == 2


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 10**6), st.integers(1, 255), st.integers(0, 40))
def test_a_question_with_a_flipped_byte_is_refused_or_is_another_question(fuzzed, place, flip, cut):
    # Nothing is ever witnessed here, so nothing may ever come out, and the envelope bounds what it costs.
    frame = bytearray(fuzzed.question("evaluate", data=fuzzed.weights(1.0)))
    frame[place % len(frame)] ^= flip
    header, body = unpack_reply(fuzzed.gate.handle(bytes(frame[: len(frame) - cut] if cut < 4 else frame)).frame)
    assert header.kind in ("refused", "need-witness")
    assert header.kind == "need-witness" or body == b""
    assert fuzzed.charges("evaluate") <= 1
    assert fuzzed.charges("train") <= 3


def test_a_study_that_is_shown_again_and_again_is_refused_each_time_and_told_once(hospital, caplog):
    site = hospital()
    shown = pack(PutStudy(), sign_study(site.study, site.witness))  # by a stranger
    replies = {site.send(shown)[0].code for _ in range(20)}
    assert replies == {RefusalCode.POLICY}
    assert sum("a study was refused" in line for line in caplog.messages) == 1
