"""What no ledger takes, and what no ledger can be opened as: a clear error, and nothing lost."""

import math
import os
import resource
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from hospital_ledger import Hospital, cost
from pydantic import BaseModel

from fedhealth.errors import BudgetExhausted, FedHealthError, IdentityInvalid, LedgerDamaged
from fedhealth.privacy.entries import ENTRY, Reserved
from fedhealth.privacy.mu_squared import MuSquaredCost
from fedhealth.privacy.renyi import RenyiCost
from fedhealth.privacy.verify import verify_ledger

NOBODY = 65534

AMOUNTS = [-1, 0, -(2**40), 5e-324, -5e-324, math.nan, math.inf, -math.inf, 1.0, 0.5, 2**53, True, "1", None]


def unchecked(amount=1, total_variation=0):
    """A cost that nobody checked, as a mistake in the program could make it."""
    return MuSquaredCost.model_construct(mu_squared=amount, total_variation=total_variation)


def refuses(ledger, write):
    """Check that a write is refused with a clear error, changes nothing, and that the ledger goes on."""
    before, number = ledger.head(), len(ledger.account.reserved)
    with pytest.raises(LedgerDamaged, match="what no entry can say") as caught:
        write()
    assert "Nothing was written" in str(caught.value) and "wanted" in str(caught.value)
    assert ledger.head() == before and len(ledger.account.reserved) == number
    ledger.reserve(Hospital.charge(Hospital, 10 + number))


@pytest.fixture
def ledger(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    yield ledger
    ledger.close()
    assert verify_ledger(hospital.path).releases == len(ledger.account.reserved)
    hospital.open().close()


@pytest.mark.parametrize("amount", AMOUNTS, ids=repr)
def test_a_charge_that_is_no_positive_integer_is_refused_and_gives_nothing_back(hospital, ledger, amount):
    ledger.reserve(hospital.charge(0, mu_squared=900))
    bad = hospital.charge(1).model_copy(update={"cost": unchecked(amount)})
    refuses(ledger, lambda: ledger.reserve(bad))
    assert ledger.account.spent(hospital.study, "training").mu_squared == 901
    with pytest.raises(BudgetExhausted):
        ledger.reserve(hospital.charge(2, mu_squared=100))  # of the thousand, 99 are left


@pytest.mark.parametrize("distance", [-1, math.nan, 5e-324, 0.0, 2**53, None], ids=repr)
def test_a_distance_from_exact_noise_that_is_no_integer_is_refused(hospital, ledger, distance):
    refuses(ledger, lambda: ledger.reserve(hospital.charge(1).model_copy(update={"cost": unchecked(1, distance)})))


@pytest.mark.parametrize("amount", AMOUNTS, ids=repr)
def test_an_envelope_that_is_no_positive_integer_is_refused(hospital, ledger, amount):
    bad = hospital.approval(hospital.other_study).model_copy(update={"envelope": {"training": unchecked(amount)}})
    refuses(ledger, lambda: ledger.append(bad))
    assert hospital.other_study not in ledger.account.approved


class Refund(BaseModel):
    """An entry that no ledger knows."""

    kind: str = "refund"
    study: str = Hospital.study


class Quiet(Reserved):
    """Claims to be a charge, and may mean anything."""

    times: int = 0


NO_ENTRIES = {
    "of an unknown kind": lambda h: Refund(),
    "that claims to be a charge": lambda h: Quiet(**h.charge(1).model_dump(), times=1),
    "that is nothing": lambda h: None,
    "that is a dictionary": lambda h: h.charge(1).model_dump(),
    "in round 0": lambda h: h.charge(1).model_copy(update={"round": 0}),
    "before 1970": lambda h: h.charge(1).model_copy(update={"at": -1}),
    "on a side that does not exist": lambda h: h.charge(1).model_copy(update={"cohort": "everybody"}),
}


@pytest.mark.parametrize("case", NO_ENTRIES)
def test_an_entry_that_no_ledger_knows_is_refused(hospital, ledger, case):
    refuses(ledger, lambda: ledger.append(NO_ENTRIES[case](hospital)))


def test_a_charge_in_another_currency_or_beyond_what_can_be_written_down_is_refused_too(hospital, ledger):
    ledger.reserve(hospital.charge(0))
    before = ledger.head()
    other = hospital.charge(1).model_copy(update={"cost": RenyiCost(order=4.0, renyi=1, total_variation=0)})
    with pytest.raises(LedgerDamaged, match="another currency"):
        ledger.reserve(other)
    with pytest.raises(BudgetExhausted):
        ledger.reserve(hospital.charge(1, mu_squared=2**53 - 1))
    assert ledger.head() == before
    ledger.reserve(hospital.charge(1))


@pytest.mark.parametrize("kind", ["refund", "", None, 1])
def test_an_unknown_kind_cannot_be_read_either(hospital, kind):
    with pytest.raises(ValueError):
        ENTRY.validate_python(hospital.charge(0).model_dump() | {"kind": kind})


# What stands where the ledger should be: name: (how it comes about, words of the message).
PLACES = {
    "missing": (lambda path: path.unlink(), ["is missing", "must not replace it"]),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), ["is missing", "must not replace it"]),
    "no database": (lambda path: path.write_bytes(b"x" * 8192), ["cannot be read", "audit verify"]),
    "cut in half": (lambda path: os.truncate(path, path.stat().st_size // 2), ["cannot be read", "audit verify"]),
}


@pytest.mark.parametrize("case", PLACES)
def test_what_is_no_ledger_is_said_to_be_none_and_left_as_it_is(hospital, case):
    hospital.create().close()
    harm, words = PLACES[case]
    harm(hospital.path)
    before = hospital.path.read_bytes() if hospital.path.is_file() else None
    for word in words:
        with pytest.raises(LedgerDamaged, match=word):
            hospital.open()
    assert (hospital.path.read_bytes() if hospital.path.is_file() else None) == before


def test_the_ledger_of_another_site_is_named_as_that(hospital, tmp_path):
    (tmp_path / "south").mkdir()
    other = Hospital(tmp_path / "south", site="south")
    other.create().close()
    shutil.copy(other.path, hospital.path)
    before = hospital.path.read_bytes()
    with pytest.raises(LedgerDamaged, match=r"is not of site 'north'.*Check which state folder belongs to which site"):
        hospital.open()
    assert hospital.path.read_bytes() == before
    other.open().close()


def test_the_ledger_of_another_key_is_named_as_that(hospital):
    hospital.create().close()
    hospital.key = Hospital.witness_key
    with pytest.raises((LedgerDamaged, IdentityInvalid), match="key"):
        hospital.open()


def in_a_child(body):
    """Run `body` in a process of its own and return what it returned."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            os.write(writer, str(body()).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as said:
        text = said.read()
    os.wait()
    return text


def refused(act):
    """Return the message of a refusal."""
    try:
        act()
    except FedHealthError as error:
        return f"{type(error).__name__}: {error}"
    return "not refused"


@pytest.fixture
def common():
    """A hospital in a folder that other users may enter."""
    folder = Path(tempfile.mkdtemp(prefix="fh-"))
    folder.chmod(0o755)
    yield Hospital(folder)
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user that may read a ledger and not write it")
@pytest.mark.parametrize("what", ["the file", "the folder"])
def test_a_ledger_that_cannot_be_written_is_not_opened_for_half_its_work(common, what):
    common.create().close()
    if what == "the folder":  # the log beside the file cannot be made
        os.chown(common.path, NOBODY, NOBODY)
    else:
        common.path.chmod(0o644)

    def act():
        os.setuid(NOBODY)
        return refused(common.open)

    said = in_a_child(act)
    assert said.startswith("LedgerDamaged") and "cannot be read or written" in said
    assert "Check the disk and the permissions" in said
    common.open().close()


def without_room(room, act):
    """Do `act` in a process that may let no file grow beyond `room` bytes, as on a full disk."""

    def body():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
        return refused(act)

    return in_a_child(body)


@pytest.mark.parametrize("room", [0, 100, 5000, 20_000])
def test_on_a_full_disk_no_ledger_is_made_and_the_next_try_makes_one(hospital, room):
    said = without_room(room, hospital.create)
    assert said.startswith("LedgerDamaged") and "cannot be made" in said and "Check the disk" in said
    assert not hospital.path.exists()
    hospital.create().close()
    assert verify_ledger(hospital.path).head.size == 1


def test_on_a_full_disk_an_approval_is_refused_and_what_was_there_stays(hospital):
    ledger = hospital.create()
    ledger.append(hospital.approval())
    ledger.reserve(hospital.charge(0))
    ledger.close()

    def act():
        opened = hospital.open()
        opened.append(hospital.approval(hospital.other_study))

    said = without_room(4096, act)
    assert said.startswith("LedgerDamaged") and "could not be written" in said and "Free disk space" in said
    assert verify_ledger(hospital.path).releases == 1
    ledger = hospital.open()
    assert hospital.other_study not in ledger.account.approved
    assert ledger.account.spent(hospital.study, "training") == cost(1)
    ledger.append(hospital.approval(hospital.other_study))
    ledger.close()
