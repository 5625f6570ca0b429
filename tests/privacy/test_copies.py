"""Sealed copies of entries: only the site can read them, at their place only, and their size tells next to nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import LedgerDamaged
from fedhealth.privacy.copies import PAGE_BYTES, EntrySeal, page_of, read_page

SEAL = EntrySeal(bytes(range(32)), "north")
bodies = st.binary(min_size=1, max_size=2000).map(lambda raw: b'{"x":"' + raw.hex().encode() + b'"}')


@given(st.integers(0, 2**53 - 1), bodies)
def test_the_site_reads_what_it_sealed_and_sealing_again_tells_nothing_new(position, body):
    copy = SEAL.seal(position, body)
    assert EntrySeal(bytes(range(32)), "north").open(position, copy) == body
    assert SEAL.seal(position, body) == copy
    assert body not in copy


@given(bodies)
def test_a_size_tells_an_entry_to_256_bytes_and_no_more(body):
    # 16 bytes of AES-SIV's tag, and the body to the next multiple of 256.
    assert len(SEAL.seal(3, body)) == 16 + (len(body) + 255) // 256 * 256


OTHERS = [
    ("another position", lambda copy: SEAL.open(8, copy)),
    ("another site", lambda copy: EntrySeal(bytes(range(32)), "south").open(7, copy)),
    ("another secret", lambda copy: EntrySeal(bytes(32), "north").open(7, copy)),
    ("nothing", lambda copy: SEAL.open(7, b"")),
    ("a byte less", lambda copy: SEAL.open(7, copy[:-1])),
]


@pytest.mark.parametrize("opened", [row[1] for row in OTHERS], ids=[row[0] for row in OTHERS])
def test_nothing_else_opens_a_copy(opened):
    with pytest.raises(LedgerDamaged, match="cannot be opened"):
        opened(SEAL.seal(7, b'{"kind":"stored"}'))


def test_a_flipped_bit_anywhere_is_found():
    copy = SEAL.seal(7, b'{"kind":"stored"}')
    for place in range(len(copy)):
        raw = bytearray(copy)
        raw[place] ^= 1
        with pytest.raises(LedgerDamaged):
            SEAL.open(7, bytes(raw))


@given(st.integers(0, 2**40), st.lists(st.binary(min_size=1, max_size=300), max_size=20))
def test_a_page_holds_copies_in_a_row(first, copies):
    row = list(enumerate(copies, first))
    assert read_page(page_of(row)) == row


def test_a_page_ends_with_the_copy_that_fills_it():
    row = [(position, bytes(PAGE_BYTES // 4)) for position in range(9)]
    assert [position for position, _ in read_page(page_of(row))] == [0, 1, 2, 3]
    assert read_page(page_of([(0, bytes(3 * PAGE_BYTES))])) == [(0, bytes(3 * PAGE_BYTES))]  # one at least


def test_a_page_that_is_cut_anywhere_but_between_copies_is_refused():
    page, ends = page_of([(5, b"one"), (6, b"three")]), (0, 15, 32)  # 12 bytes before each copy
    assert len(page) == ends[-1]
    for end in range(len(page)):
        if end in ends:
            read_page(page[:end])
        else:
            with pytest.raises(LedgerDamaged, match="malformed"):
                read_page(page[:end])
