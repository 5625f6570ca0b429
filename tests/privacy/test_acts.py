"""Entries of people's acts: which may follow which, who must have signed, and what they add up to."""

from itertools import pairwise

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hospital_ledger import Hospital

from fedhealth.errors import IdentityInvalid, LedgerDamaged
from fedhealth.privacy.acts import KeyRotated, Paused, PolicyChanged, Unpaused
from fedhealth.privacy.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from fedhealth.privacy.entries import Account
from fedhealth.privacy.journal import JournalNote
from fedhealth.privacy.ledger import Ledger
from fedhealth.privacy.rotation import follow_rotations, sign_rotation
from fedhealth.privacy.verify import verify_ledger
from fedhealth.signing import public_key_hex

SECOND, THIRD = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (7, 8))
KEYS = (Hospital.key, SECOND, THIRD)


def policy(number):
    return PolicyChanged(policy_sha256=f"{number:064x}", by="ada", at=1)


def paused():
    return Paused(by="ada", at=1)


def unpaused():
    return Unpaused(by="bob", at=2)


def rotated(former, new, site="north", **changes):
    rotation = sign_rotation(site, former, new).model_copy(update=changes)
    return KeyRotated(rotation=rotation, by="ada", at=1)


def public(key):
    return public_key_hex(key.public_key())


# name: (entries before, the entry, words of the refusal or None)
FIRST, A_B = Hospital.key, rotated(Hospital.key, SECOND)
ACTS = {
    "a first policy": ([], policy(1), None),
    "another policy": ([policy(1)], policy(2), None),
    "a policy that came back": ([policy(1), policy(2)], policy(1), None),
    "the policy that is in force": ([policy(1)], policy(1), "in force already"),
    "a pause": ([], paused(), None),
    "a pause again": ([paused(), unpaused()], paused(), None),
    "a pause of a paused site": ([paused()], paused(), "paused already"),
    "an end of no pause": ([], unpaused(), "not paused"),
    "an end of a pause that ended": ([paused(), unpaused()], unpaused(), "not paused"),
    "a rotation": ([], A_B, None),
    "a rotation of the new key": ([A_B], rotated(SECOND, THIRD), None),
    "the same rotation twice": ([A_B], A_B, "not the one in force"),
    "a rotation of a key that is no more": ([A_B], rotated(FIRST, THIRD), "not the one in force"),
    "a rotation of a stranger's key": ([], rotated(SECOND, THIRD), "not the one in force"),
    "a rotation back": ([A_B], rotated(SECOND, FIRST), "was in force before"),
    "a rotation to itself": ([], rotated(FIRST, FIRST), "was in force before"),
    "another site's rotation": ([], rotated(FIRST, SECOND, site="south"), "not the one in force"),
    "a rotation that the former key did not sign": (
        [],
        rotated(FIRST, SECOND, by_former_key=sign_rotation("north", SECOND, FIRST).by_former_key),
        "not signed by both",
    ),
    "a rotation that the new key did not sign": (
        [],
        rotated(FIRST, SECOND, by_ledger_key=sign_rotation("north", FIRST, THIRD).by_ledger_key),
        "not signed by both",
    ),
    "a rotation whose new key was exchanged": (
        [],
        rotated(FIRST, SECOND, ledger_key=public(THIRD)),
        "not signed by both",
    ),
}


@pytest.mark.parametrize(("before", "entry", "words"), ACTS.values(), ids=ACTS)
def test_an_act_follows_or_is_refused_and_leaves_the_account_as_it_was(tmp_path, before, entry, words):
    account = Account()
    for each in (Hospital(tmp_path).created(), *before):
        account.apply(each)
    state = (account.entries, account.acts.policy_sha256, account.acts.paused, account.acts.ledger_key)
    if words is None:
        account.apply(entry)
        assert account.entries == state[0] + 1
    else:
        with pytest.raises(LedgerDamaged, match=words):
            account.apply(entry)
        assert state == (
            account.entries,
            account.acts.policy_sha256,
            account.acts.paused,
            account.acts.ledger_key,
        )


@pytest.mark.parametrize("entry", [policy(1), paused(), A_B], ids=lambda entry: entry.kind)
def test_no_act_comes_before_the_entry_that_creates_the_ledger(entry):
    with pytest.raises(LedgerDamaged, match="exactly one first entry"):
        Account().apply(entry)


def test_acts_add_up_and_come_back_after_a_restart(hospital):
    ledger = hospital.create()
    for entry in (policy(1), paused(), unpaused(), policy(2), paused()):
        ledger.append(entry)
    ledger.close()
    ledger = hospital.open()
    assert (ledger.account.acts.policy_sha256, ledger.account.acts.paused) == (f"{2:064x}", True)
    assert [(entry.kind, entry.by) for entry, _ in ledger.history() if hasattr(entry, "by")] == [
        ("policy-changed", "ada"),
        ("paused", "ada"),
        ("unpaused", "bob"),
        ("policy-changed", "ada"),
        ("paused", "ada"),
    ]
    ledger.close()
    found = verify_ledger(hospital.path)
    assert (found.policy_sha256, found.paused) == (f"{2:064x}", True)


def chain(hospital):
    """A ledger whose key was rotated twice, with the head it had under each key."""
    ledger = hospital.create()
    ledger.append(hospital.approval())
    heads = [ledger.head()]
    for former, new in pairwise(KEYS):
        ledger.rotate(rotated(former, new), new)
        ledger.append(paused() if new is SECOND else unpaused())
        heads.append(ledger.head())
    return ledger, heads


def test_each_head_is_signed_by_the_key_in_force_and_all_of_them_verify(hospital):
    ledger, heads = chain(hospital)
    # created and approved; rotated and paused; rotated and unpaused
    for key, size, note in zip(KEYS, (2, 4, 6), heads, strict=True):
        assert open_checkpoint(note, "north", key.public_key()).size == size
        assert ledger.account.acts.key_at(size) == public(key)
        assert ledger.account.acts.key_at(size - 1) == public(key), "the rotation itself is under the new key"
    ledger.close()
    for note in heads:
        found = verify_ledger(hospital.path, note)
        assert (found.ledger_key, found.first_ledger_key) == (public(THIRD), public(FIRST))


def test_the_journal_is_signed_by_the_new_key_from_the_rotation_on(hospital):
    ledger = hospital.create()
    ledger.note(JournalNote(kind="alert", text="x", at=1))
    ledger.rotate(rotated(FIRST, SECOND), SECOND)  # the journal does not grow by it
    ledger.close()
    Ledger.open(hospital.path, "north", SECOND).close()
    verify_ledger(hospital.path)


def test_a_head_signed_by_a_key_that_was_not_in_force_is_refused(hospital):
    ledger, _ = chain(hospital)
    root = open_checkpoint(ledger.head(), "north", THIRD.public_key()).root
    ledger.close()
    for key, size in ((FIRST, 6), (SECOND, 6), (THIRD, 2), (SECOND, 2)):
        note = sign_checkpoint(Checkpoint(site="north", size=size, root=root), key)
        with pytest.raises(IdentityInvalid):
            verify_ledger(hospital.path, note)


def test_only_the_last_key_opens_the_ledger_or_the_next_one_if_the_ledger_says_so(hospital):
    chain(hospital)[0].close()
    for key in (FIRST, SECOND):
        with pytest.raises(IdentityInvalid, match="does not sign the ledger"):
            Ledger.open(hospital.path, "north", key)
    for key, next_key in ((SECOND, THIRD), (THIRD, FIRST), (THIRD, None)):
        ledger = Ledger.open(hospital.path, "north", key, next_key)
        assert ledger.public_key == public(THIRD)
        ledger.append(paused())
        ledger.append(unpaused())
        ledger.close()
    verify_ledger(hospital.path)


def test_a_rotation_needs_the_very_key_and_a_refused_one_leaves_the_old_key_at_work(hospital):
    ledger = hospital.create()
    for entry, key in ((rotated(FIRST, SECOND), THIRD), (rotated(SECOND, THIRD), THIRD)):
        with pytest.raises(LedgerDamaged):
            ledger.rotate(entry, key)
    with pytest.raises(LedgerDamaged, match="without the one that follows it"):
        ledger.append(rotated(FIRST, SECOND))
    ledger.append(hospital.approval())
    ledger.close()
    hospital.open().close()
    assert verify_ledger(hospital.path).head.size == 2


CHAIN = [sign_rotation("north", FIRST, SECOND), sign_rotation("north", SECOND, THIRD)]
FOLLOWED = {
    "from the first key": (FIRST, CHAIN, THIRD),
    "from the middle": (SECOND, CHAIN, THIRD),
    "one step": (FIRST, CHAIN[:1], SECOND),
    "nothing": (FIRST, [], None),
    "from the last key": (THIRD, CHAIN, None),
    "a gap": (FIRST, [CHAIN[0], sign_rotation("north", THIRD, FIRST)], None),
    "the wrong order": (FIRST, CHAIN[::-1], SECOND),
    "another site's": (FIRST, [sign_rotation("south", FIRST, SECOND)], None),
    "not signed by the old key": (
        FIRST,
        [CHAIN[0].model_copy(update={"by_former_key": CHAIN[1].by_former_key})],
        None,
    ),
    "not signed by the new key": (
        FIRST,
        [CHAIN[0].model_copy(update={"by_ledger_key": CHAIN[1].by_ledger_key})],
        None,
    ),
}


@pytest.mark.parametrize(("pinned", "rotations", "leads_to"), FOLLOWED.values(), ids=FOLLOWED)
def test_a_chain_of_rotations_is_followed_from_the_trusted_key_only(pinned, rotations, leads_to):
    if leads_to is None:
        with pytest.raises(IdentityInvalid):
            follow_rotations("north", public(pinned), rotations)
    else:
        assert follow_rotations("north", public(pinned), rotations) == public(leads_to)
