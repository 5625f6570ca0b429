"""A release waits for the coordinator's signature: how long, what happens then, and what the ledger says of it."""

import asyncio

import pytest

from fedhealth.coordinator.asking import UNWITNESSED, Asker, NoRelease
from fedhealth.coordinator.witness import PinnedSite, Witness
from fedhealth.errors import LedgerDamaged, RefusalCode
from fedhealth.link.frames import AskHead, NeedWitness, ReleaseReply, Witnessed, pack
from fedhealth.privacy.entries import Unwitnessed
from fedhealth.privacy.release import ReleaseIdentity, input_digest
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex

WAIT = 30  # seconds; the policy's default


def unconfirmed(site, **rules):
    """Start the gate again, with these rules, and before any coordinator has met it."""
    site.rules = rules
    site.reopen(confirm=False)
    return site


def code_of(reply):
    header, body, _ = reply
    assert (header.kind, body) == ("refused", b"")
    return header.code


# The head that a gate starts with


@pytest.mark.parametrize("rules", [{}, {"witness": "best-effort"}], ids=["required", "best-effort"])
def test_a_gate_that_has_just_started_charges_nothing_before_the_coordinator_has_signed(hospital, rules):
    site = unconfirmed(hospital(), **rules)
    for _ in range(3):
        assert isinstance(site.send(site.question())[0], NeedWitness)
        site.time.now += 2 * WAIT  # however long it waits
    assert (site.charges(), site.entries) == (0, 2)
    charged = site.send(site.question())[0]
    assert site.send(site.witnessed())[0] != charged
    assert site.charges() == 1
    assert isinstance(site.send(site.witnessed())[0], ReleaseReply)
    assert site.charges() == 1


def test_only_a_receipt_for_this_process_tells_that_the_ledger_is_the_newest(hospital):
    site = hospital()
    old = site.receipt()
    unconfirmed(site)
    # Somebody between keeps a true receipt and shows it to a gate whose ledger was since put back.
    for receipt in (old, site.receipt(challenge="ab" * 32)):
        site.send(site.question())
        assert isinstance(site.send(pack(Witnessed(study=site.study.digest, receipt=receipt)))[0], NeedWitness)
        assert site.charges() == 0
    site.send(pack(Witnessed(study=None, receipt=site.receipt())))
    assert isinstance(site.send(site.question())[0], NeedWitness)
    assert site.charges() == 1


def test_each_process_has_another_challenge_and_one_throughout(hospital):
    site = hospital()
    seen = []
    for _ in range(3):
        seen.append(site.send(pack(AskHead(since=0)))[0].challenge)
        assert site.send(site.question())[0].challenge == seen[-1]
        unconfirmed(site)
    assert len(set(seen)) == 3


def test_a_stored_release_needs_no_signature_again(hospital):
    site = hospital()
    payload = site.ask()
    assert unconfirmed(site).send(site.question()) == payload


def test_a_witnessed_release_is_not_computed_on_a_ledger_that_may_be_an_older_copy(hospital):
    site = hospital()
    site.send(site.question())
    site.acknowledge()
    unconfirmed(site)
    assert isinstance(site.send(site.question())[0], NeedWitness)
    assert isinstance(site.send(site.witnessed())[0], ReleaseReply)


# The wait


@pytest.mark.parametrize("seconds", [0, 1, WAIT])
def test_a_signature_in_time_releases(hospital, seconds):
    site = hospital()
    site.send(site.question())
    site.time.now += seconds
    assert isinstance(site.send(site.witnessed())[0], ReleaseReply)


@pytest.mark.parametrize("wait", [1, WAIT, 600])
def test_a_late_signature_is_busy_counts_and_costs_nothing_more(hospital, wait):
    site = hospital()
    site.rules = {"witness_wait_seconds": wait}
    site.reopen()
    site.send(site.question())
    site.time.now += wait + 0.001
    reply = site.send(site.witnessed())
    assert (code_of(reply), reply[2]) == (RefusalCode.BUSY, 0)
    assert site.ledger.receipt().size == 3  # a valid receipt is a valid receipt
    assert isinstance(site.send(site.question())[0], ReleaseReply)  # and covers the charge
    assert site.charges() == 1


def test_a_wait_in_vain_starts_again_under_the_same_charge(hospital):
    site = hospital()
    for _ in range(4):
        assert isinstance(site.send(site.question())[0], NeedWitness)
        site.time.now += 10 * WAIT
    site.send(site.question())
    site.time.now += WAIT  # the fifth wait is not over
    assert isinstance(site.send(site.witnessed())[0], ReleaseReply)
    assert (site.charges(), site.entries) == (1, 4)


def test_asking_again_does_not_lengthen_the_wait(hospital):
    site = hospital()
    site.send(site.question())
    site.time.now += WAIT - 1
    site.send(site.question())
    site.time.now += 2
    assert code_of(site.send(site.witnessed())) == RefusalCode.BUSY


# Best effort


def best_effort(site, wait=WAIT):
    site.rules = {"witness": "best-effort", "witness_wait_seconds": wait}
    site.reopen()
    return site


def test_under_best_effort_a_release_leaves_once_the_wait_has_passed_and_the_ledger_says_so(hospital):
    site = best_effort(hospital())
    assert isinstance(site.send(site.question())[0], NeedWitness)
    site.time.now += WAIT
    assert isinstance(site.send(site.question())[0], NeedWitness)  # not over yet
    site.time.now += 0.001
    reply, payload, wait = site.send(site.question())
    assert isinstance(reply, ReleaseReply)
    assert wait == pytest.approx(0.020, abs=1e-9)  # at the public time, as any release
    assert site.send(site.question())[:2] == (reply, payload)
    site.close()
    found = verify_ledger(site.path)
    # created, approved, rule, reserved, unwitnessed, stored
    assert (found.witness, found.unwitnessed, found.head.size, found.releases) == ("best-effort", 1, 6, 1)


def test_required_is_the_default_and_lets_nothing_go(hospital):
    site = hospital()
    for _ in range(5):
        assert isinstance(site.send(site.question())[0], NeedWitness)
        site.time.now += 601
    site.close()
    found = verify_ledger(site.path)
    assert (found.witness, found.unwitnessed, found.head.size) == ("required", 0, 3)


def test_the_rule_stands_in_the_ledger_from_its_first_use_to_its_end(hospital):
    site = best_effort(hospital())
    size = site.entries
    site.reopen()
    assert site.entries == size  # said once
    site.rules = {}
    site.reopen()
    assert site.entries == size + 1
    site.send(site.question())
    site.time.now += 601
    assert isinstance(site.send(site.question())[0], NeedWitness)
    (release,) = site.ledger.account.reserved
    with pytest.raises(LedgerDamaged, match="policy requires"):
        site.ledger.release_unwitnessed(Unwitnessed(release=release, at=0))


def test_another_question_in_between_starts_the_wait_again(hospital):
    site = best_effort(hospital())
    site.send(site.question(number=1))
    site.time.now += WAIT + 1
    site.send(site.question(number=2))
    assert isinstance(site.send(site.question(number=1))[0], NeedWitness)
    assert site.charges() == 2


def test_a_later_signature_covers_what_left_without(hospital):
    site = best_effort(hospital())
    site.send(site.question(number=1))
    site.time.now += WAIT + 1
    name = site.send(site.question(number=1))[0].release
    assert isinstance(site.ask(number=2)[0], ReleaseReply)
    site.acknowledge(name)
    assert site.ledger.row(name).state == "sent"
    site.close()
    found = verify_ledger(site.path)
    assert (found.unwitnessed, found.releases, found.witnessed) == (1, 2, found.head.size)


def test_after_a_crash_a_release_let_go_without_signature_has_the_same_bytes(hospital, monkeypatch):
    calm, crashed = best_effort(hospital("calm")), best_effort(hospital("crashed"))
    for site in (calm, crashed):
        site.send(site.question())
        site.time.now += WAIT + 1
    wanted = calm.send(calm.question())

    def cut(*_):
        raise KeyboardInterrupt  # ends the process between the two writes

    with monkeypatch.context() as patched:
        patched.setattr(type(crashed.ledger), "store", cut)
        with pytest.raises(KeyboardInterrupt):
            crashed.send(crashed.question())
    crashed.reopen(confirm=False)
    assert crashed.ledger.row(wanted[0].release).state == "unwitnessed"
    assert crashed.ask() == wanted
    assert crashed.charges() == 1


# With a real coordinator whose disk is full


def coordinator_of(site, folder):
    async def carry(_, frame):
        return site.gate.handle(frame).frame

    folder.mkdir(exist_ok=True)
    pinned = {site.site: PinnedSite(ledger_key=public_key_hex(site.key.public_key()))}
    asker, data = Asker(carry, Witness(folder, pinned, site.witness)), site.weights(0.0)
    identity = ReleaseIdentity(
        site=site.site, study=site.study.digest, step="train", round=1, input_digest=input_digest(data)
    )
    asyncio.run(asker.head(site.site))  # while there is room
    return lambda: asyncio.run(asker.ask(identity, data))


@pytest.mark.parametrize("witness", ["required", "best-effort"])
def test_a_coordinator_that_cannot_write_signs_nothing_and_gets_a_release_only_where_the_policy_allows_it(
    hospital, tmp_path, monkeypatch, witness
):
    site = hospital()
    site.rules = {"witness": witness}
    site.reopen(confirm=False)
    ask = coordinator_of(site, tmp_path / "witnessed")

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.ftruncate", full)
        for _ in range(2):
            with pytest.raises(NoRelease) as caught:
                ask()
            assert caught.value.code == UNWITNESSED
        site.time.now += WAIT + 1
        if witness == "best-effort":
            assert len(ask()) == 24
        else:
            with pytest.raises(NoRelease, match=UNWITNESSED):
                ask()
    assert len(ask()) == 24
    assert site.charges() == 1
    site.close()
    assert verify_ledger(site.path).unwitnessed == (witness == "best-effort")
