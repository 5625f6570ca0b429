"""The path of one release: charged once, durable before it leaves, the same bytes for ever, gone once acknowledged."""

import shutil

import apsw
import pytest

from fedhealth.errors import RefusalCode
from fedhealth.link.frames import AskHead, Head, NeedWitness, PutStudy, ReleaseReply, Witnessed, pack
from fedhealth.privacy.checkpoint import open_checkpoint
from fedhealth.privacy.ledger_database import connect
from fedhealth.privacy.merkle import is_consistent
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import verify


def on_disk(site, name):
    """Return a copy of the ledger's files as a power cut would leave them."""
    copy = site.folder / name
    copy.mkdir()
    for path in site.folder.glob("ledger.sqlite*"):
        shutil.copy(path, copy / path.name)
    return copy / "ledger.sqlite"


def rows_of(path):
    database = connect(path, apsw.SQLITE_OPEN_READWRITE)
    rows = list(database.execute("SELECT release, state, payload FROM release"))
    database.close()
    return rows


def identity_of(site, step="train", number=1, data=None):
    data = site.weights(0.0) if data is None else data
    return ReleaseIdentity(
        site=site.site, study=site.study.digest, step=step, round=number, input_digest=input_digest(data)
    ).digest


def test_an_approved_study_is_accepted_with_public_figures_only(hospital):
    site = hospital()
    reply = site.send(pack(PutStudy(), site.signed))[0]
    assert reply.model_dump(exclude={"signature"}) == {
        "kind": "accepted",
        "study": site.study.digest,
        "declared_patients": 30,
        "reply_after_ms": {"train": 20, "evaluate": 40},
        "unsafe_test_site": True,
    }
    verify(site.key.public_key(), "accepted", reply.statement(), bytes.fromhex(reply.signature))


@pytest.mark.parametrize("change", ["site", "study", "step", "round", "input_digest"])
def test_a_release_is_named_by_site_study_step_round_and_input(change):
    one = {"site": "ward-a", "study": "a" * 64, "step": "train", "round": 1, "input_digest": "b" * 64}
    other = {"site": "ward-b", "study": "c" * 64, "step": "evaluate", "round": 2, "input_digest": "d" * 64}
    changed = one | {change: other[change]}
    assert ReleaseIdentity(**one).digest != ReleaseIdentity(**changed).digest


def test_the_charge_is_on_disk_and_witnessed_before_noise_exists(hospital):
    site = hospital()
    seen = []

    class Watching:
        def __init__(self, secret):
            self.secret = secret

        def stream(self, key, purpose):
            path = on_disk(site, f"at-noise-{len(seen)}")
            seen.append((rows_of(path), verify_ledger(path)))
            return self.secret.stream(key, purpose)

    object.__setattr__(site.gate._inputs, "noise_secret", Watching(site.gate._inputs.noise_secret))
    site.send(site.question())
    assert seen == []  # charged, not witnessed: no noise yet
    assert isinstance(site.send(site.witnessed())[0], ReleaseReply)
    ((rows, verified),) = seen
    assert rows == [(identity_of(site), "witnessed", None)]
    assert (verified.releases, verified.witnessed) == (1, 3)  # created, approved, reserved


def test_the_payload_is_on_disk_before_it_leaves(hospital):
    site = hospital()
    _, payload, _ = site.ask()
    path = on_disk(site, "when-it-left")
    assert rows_of(path) == [(identity_of(site), "stored", payload)]
    assert verify_ledger(path).releases == 1


def test_the_same_question_has_the_same_answer_and_one_charge(hospital):
    site = hospital()
    first = site.ask()
    size = site.entries
    for _ in range(3):
        again = site.send(site.question())
        assert again == first
    assert site.entries == size == 4  # created, approved, reserved, stored
    assert site.charges() == 1


def test_asking_again_before_the_receipt_charges_once(hospital):
    site = hospital()
    heads = [site.send(site.question())[0] for _ in range(3)]
    assert heads[0] == heads[1] == heads[2]
    assert isinstance(heads[0], NeedWitness)
    assert site.charges() == 1
    assert isinstance(site.send(site.witnessed())[0], ReleaseReply)


def test_the_same_receipt_twice_releases_once(hospital):
    site = hospital()
    site.send(site.question())
    frame = site.witnessed()
    assert isinstance(site.send(frame)[0], ReleaseReply)
    reply, body, _ = site.send(frame)
    assert (reply.kind, reply.code, body) == ("refused", RefusalCode.BAD_REQUEST, b"")
    assert site.charges() == 1


def test_a_later_question_does_not_lose_the_charge_of_an_earlier_one(hospital):
    site = hospital()
    site.send(site.question(number=1))
    site.send(site.question(number=2))
    reply, _, _ = site.send(site.witnessed())
    assert reply.release == identity_of(site, number=2)
    # Round 1 was covered by the same receipt: it comes without another charge and without another receipt.
    reply, _, _ = site.send(site.question(number=1))
    assert reply.release == identity_of(site, number=1)
    assert site.charges() == 2


def test_an_acknowledged_release_is_forgotten_and_never_computed_again(hospital):
    computed = []

    def compute(*arguments):
        computed.append(1)
        return b"\x01" * 24, 0

    site = hospital(compute=compute)
    site.ask()
    reply = site.acknowledge(identity_of(site))[0]
    assert isinstance(reply, Head)
    assert site.ledger.row(identity_of(site)).payload_bytes is None
    size = site.entries
    for _ in range(2):
        reply, body, _ = site.send(site.question())
        assert (reply.kind, reply.code, body) == ("refused", RefusalCode.BAD_REQUEST, b"")
        site.reopen(compute)
    assert (computed, site.entries, site.charges()) == ([1], size, 1)


def test_an_acknowledgement_of_what_was_not_released_yet_drops_nothing(hospital):
    site = hospital()
    site.send(site.question())
    site.acknowledge(identity_of(site), "ab" * 32)
    reply, payload, _ = site.send(site.question())
    assert isinstance(reply, ReleaseReply)
    assert len(payload) == 24  # three weights of eight bytes


def test_only_an_acknowledgement_with_the_coordinators_signature_counts(hospital):
    site = hospital()
    _, payload, _ = site.ask()
    forged = site.receipt(checkpointed=(identity_of(site),), key=site.key)
    assert site.send(pack(Witnessed(study=None, receipt=forged)))[0].kind == "refused"
    assert site.send(site.question())[1] == payload


def test_step_and_round_give_different_releases(hospital):
    site = hospital()
    names = {site.ask("train", 1)[0].release, site.ask("train", 2)[0].release, site.ask("evaluate", 1)[0].release}
    assert len(names) == 3
    assert (site.charges("train"), site.charges("evaluate")) == (2, 1)


def test_every_head_extends_every_earlier_one(hospital):
    site = hospital()
    heads = [open_checkpoint(site.ledger.head(), site.site, site.key.public_key())]
    for number in (1, 2, 3):
        site.ask(number=number)
        heads.append(open_checkpoint(site.ledger.head(), site.site, site.key.public_key()))
    for early in heads:
        reply = site.send(pack(AskHead(since=early.size)))[0]
        late = open_checkpoint(reply.note, site.site, site.key.public_key())
        proof = [bytes.fromhex(node) for node in reply.proof]
        roots = bytes.fromhex(early.root), bytes.fromhex(late.root)
        assert is_consistent(early.size, roots[0], late.size, roots[1], proof)
    assert site.send(pack(AskHead(since=10**9)))[0].proof == ()


@pytest.mark.parametrize(
    ("milliseconds", "leaves"),
    [
        # reply_after of "train" is 20 ms: at arrival plus 20 ms, or at the next multiple that is not over yet.
        (0, 0.020),
        (5, 0.020),
        (19.9, 0.020),
        (20.1, 0.040),
        (39.9, 0.040),
        (41, 0.060),
        (1005, 1.020),
    ],
)
def test_a_release_leaves_at_a_multiple_of_its_public_time(hospital, milliseconds, leaves):
    site = hospital()

    def slow(step, weights, records, streams):
        site.time.now += milliseconds / 1000
        return b"\0" * 24, 0

    site.reopen(slow)
    site.send(site.question())
    reply, _, wait = site.send(site.witnessed())
    assert isinstance(reply, ReleaseReply)
    assert wait == pytest.approx(leaves, abs=1e-9)
    # The stored payload waits as long as a computed one, so that a repeat cannot be told from a first answer.
    assert site.send(site.question())[2] == pytest.approx(0.020, abs=1e-9)


def test_each_step_has_its_own_public_time(hospital):
    site = hospital()
    assert site.ask("train")[2] == pytest.approx(0.020, abs=1e-9)
    assert site.ask("evaluate")[2] == pytest.approx(0.040, abs=1e-9)


def test_a_patient_counted_as_zero_changes_the_journal_and_nothing_outside(hospital):
    def compute_with(zeroed):
        return lambda step, weights, records, streams: (b"\x07" * 24, zeroed)

    one, two = hospital("one", compute=compute_with(0)), hospital("two", compute=compute_with(3))
    assert one.ask() == two.ask()
    assert one.entries == two.entries
    assert [note.kind for note in one.ledger.journal()] == ["data"]
    assert [note.kind for note in two.ledger.journal()] == ["data", "alert"]
    assert "3" not in list(two.ledger.journal())[1].text
