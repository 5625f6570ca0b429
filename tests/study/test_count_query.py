"""What may be asked of other hospitals: typed codes in one form, and nothing that is free text."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedhealth.canonical import canonical_bytes
from fedhealth.errors import ConfigInvalid, IdentityInvalid
from fedhealth.signing import public_key_hex
from fedhealth.study.count_query import (
    CountQuery,
    ages_of,
    check_asker,
    count_query,
    covers,
    most_general,
    most_specific,
    open_signed_query,
    quarter_of,
    sign_query,
    vouch,
)

ASKING, ASKER, OTHER = (Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32) for seed in (1, 2, 3))
CERTIFICATE = vouch("north", public_key_hex(ASKER.public_key()), "clinician", "2026-Q4", ASKING)
QUERY = count_query("2026-Q4", ("icd10:G20",))
CODES = st.from_regex(r"icd10:[A-C][0-2][0-2](\.[0-2])?|atc:[A-B](01([A-B])?)?", fullmatch=True)


@given(st.lists(CODES, min_size=1, max_size=6), st.randoms())
def test_the_same_codes_in_any_order_and_number_are_the_same_question(codes, draw):
    mixed = [*codes, *codes[:2]]
    draw.shuffle(mixed)
    assert count_query("2026-Q4", tuple(mixed)).input_bytes == count_query("2026-Q4", tuple(codes)).input_bytes


@given(st.sets(CODES, min_size=1, max_size=5), st.sets(CODES, min_size=1, max_size=5))
def test_what_a_code_of_the_list_says_already_is_left_out(having, lacking):
    # Who has "I50.1" has "I50", and who has no "I50" has no "I50.1": codes to have keep the lowest, codes to lack the
    # highest. Checked against the meaning: a patient with exactly the codes of `having` meets both forms or neither.
    def meets(wanted, unwanted):
        has = [any(covers(code, each) for each in having) for code in wanted]
        return all(has) and not any(covers(code, each) for code in unwanted for each in having)

    assert meets(having, lacking) == meets(most_specific(tuple(having)), most_general(tuple(lacking)))


@pytest.mark.parametrize(
    "parts",
    [
        {"all_of": ()},
        {"all_of": ("douleur thoracique",)},
        {"all_of": ("icd10:G20 Madame X",)},
        {"all_of": ("icd10:g20",)},
        {"all_of": ("icd9:332.0",)},
        {"all_of": ("icd10:G20\n",)},
        {"all_of": tuple(f"icd10:A0{number}" for number in range(7))},
        {"all_of": ("icd10:A00",), "none_of": tuple(f"icd10:B0{number}" for number in range(6))},
        {"all_of": ("icd10:I50.1",), "none_of": ("icd10:I50",)},
        {"ages": (61, 80)},
        {"ages": (80, 60)},
        {"ages": (60, 60)},
        {"ages": (0, 125)},
        {"quarter": "2026-11-22"},
        {"quarter": "2026-Q5"},
        {"sex": "unknown"},
    ],
)
def test_what_is_no_query_is_refused_with_what_is_wanted(parts):
    given_parts = {"quarter": "2026-Q4", "all_of": ("icd10:G20",)} | parts
    with pytest.raises(ConfigInvalid, match="other hospitals cannot be asked to count this"):
        count_query(**given_parts)


def test_another_form_of_a_question_is_none():
    for codes in (("icd10:G20", "icd10:F03"), ("icd10:G20", "icd10:G20"), ("icd10:I50", "icd10:I50.1")):
        with pytest.raises(ValidationError, match="not sorted, or that others of their list cover"):
            CountQuery(quarter="2026-Q4", all_of=codes)


@given(st.binary(max_size=200))
def test_what_is_not_signed_is_not_opened(data):
    with pytest.raises(IdentityInvalid):
        open_signed_query(data)


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_no_byte_of_a_signed_query_can_be_changed(place, flip):
    data = bytearray(canonical_bytes(sign_query("a" * 64, QUERY, "scientific-research", CERTIFICATE, ASKER)))
    data[place % len(data)] ^= flip
    # The hospital's own signature is looked at by `check_asker`; all else is under the asker's, or is the asker's key.
    try:
        opened = open_signed_query(bytes(data))
    except IdentityInvalid:
        return
    with pytest.raises(IdentityInvalid):
        check_asker(opened.asker, public_key_hex(ASKING.public_key()), "2026-Q4")


def test_a_hospital_vouches_until_a_quarter_and_for_nobody_elses_key():
    check_asker(CERTIFICATE, public_key_hex(ASKING.public_key()), "2026-Q4")
    with pytest.raises(IdentityInvalid, match="vouched for this asker until 2026-Q4"):
        check_asker(CERTIFICATE, public_key_hex(ASKING.public_key()), "2027-Q1")
    with pytest.raises(IdentityInvalid):
        check_asker(CERTIFICATE, public_key_hex(OTHER.public_key()), "2026-Q4")
    with pytest.raises(IdentityInvalid, match="certificate is of another key"):
        sign_query("a" * 64, QUERY, "scientific-research", CERTIFICATE, OTHER)


def test_quarters_are_those_of_the_calendar_in_utc():
    # 2026-01-01T00:00Z is 1,767,225,600 s; the last millisecond before is of 2025. 2026-04-01 is 90 days later.
    start = 1_767_225_600_000
    assert [quarter_of(at) for at in (start - 1, start, start + 90 * 86_400_000)] == ["2025-Q4", "2026-Q1", "2026-Q2"]


def test_ages_as_people_type_them():
    assert ages_of("") is None and ages_of("60-80") == (60, 80)
    for text in ("60", "60-", "-80", "sixty-80", "60-80-90", "60-" + "9" * 5000):
        with pytest.raises(ConfigInvalid, match="these are no ages"):
            ages_of(text)
