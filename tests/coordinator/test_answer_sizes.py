"""How long an answer of a gate may be: what a study's releases need, and a page of a ledger's entries, and no more."""

from pathlib import Path

import pytest

from fedhealth.coordinator.service import longest_answer
from fedhealth.link.frames import Head, ReleaseReply, pack
from fedhealth.privacy.copies import page_of
from fedhealth.study.protocol import load_study

STUDY = load_study(Path(__file__).parents[2] / "protocols" / "heart-disease-diagnosis.toml")
HEAD = Head(note="n" * 1000, proof=("a" * 64,) * 128, challenge="b" * 64, entries=2**53 - 1, signature="c" * 128)
RELEASE = ReleaseReply(release="a" * 64, signature="b" * 128)


@pytest.mark.parametrize("entry_bytes", [300, 60_000, 500_000])
def test_a_page_of_entries_fits_whatever_the_study(entry_bytes):
    page = page_of((position, bytes(entry_bytes)) for position in range(10_000))
    assert len(page) > 500_000
    assert len(pack(HEAD, page)) <= longest_answer(STUDY)


def test_a_release_fits_and_nothing_much_longer():
    weights = STUDY.dimension + 1
    assert len(pack(RELEASE, bytes(8 * weights))) <= longest_answer(STUDY) <= 8 * weights + 2 * 2**20
