import shutil

import pytest

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy import ledger_file
from fedhealth.privacy.verify import verify_ledger

COPY = shutil.copyfile
BURST = 60
"""Charges that come at once: enough that the last one's log does not hold every page that they changed."""


@pytest.fixture
def busy(hospital, monkeypatch):
    """Return a function that opens a ledger which charges reach after its file is copied and before its log is."""
    opened = []

    def start(times):
        ledger = hospital.create()
        ledger.append(hospital.approval())
        ledger.reserve(hospital.charge(0))
        opened.append(ledger)

        def copy_and_charge(source, target):
            COPY(source, target)
            first = len(ledger.account.reserved)
            if source == hospital.path and first < 1 + BURST * times:
                for number in range(first, first + BURST):
                    ledger.reserve(hospital.charge(number))

        monkeypatch.setattr(shutil, "copyfile", copy_and_charge)
        monkeypatch.setattr(ledger_file, "_TRIES", 4)
        return ledger

    yield start
    for ledger in opened:
        ledger.close()


@pytest.mark.parametrize("times", [0, 1, 3])
def test_a_ledger_that_is_written_to_while_it_is_read_is_read_again(hospital, busy, times):
    ledger = busy(times)
    found = verify_ledger(hospital.path)
    assert found.releases == len(ledger.account.reserved) == 1 + BURST * times


def test_the_copy_of_two_moments_would_look_like_tampering(hospital, busy, monkeypatch):
    busy(1)
    monkeypatch.setattr(ledger_file, "_marks", lambda *_: "as before")
    with pytest.raises(LedgerDamaged, match="was changed"):
        verify_ledger(hospital.path)


def test_a_ledger_that_is_written_to_all_the_time_is_said_to_be_that_and_not_damaged(hospital, busy):
    ledger = busy(4)
    with pytest.raises(LedgerDamaged) as caught:
        verify_ledger(hospital.path)
    said = str(caught.value)
    assert "written to all the time" in said and "says nothing about its content" in said
    assert "was changed" not in said
    assert len(ledger.account.reserved) == 1 + BURST * 4
