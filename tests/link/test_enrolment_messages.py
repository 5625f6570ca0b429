"""The messages of an enrolment: what strangers send is a message or one code, never anything else."""

import contextlib
import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from fedhealth.errors import IdentityInvalid
from fedhealth.link.enrolment import (
    MAX_MESSAGE_BYTES,
    AskRoot,
    AskTerms,
    Joined,
    MessageInvalid,
    TurnedAway,
    announced_bytes,
    certify_ledger_key,
    frame,
    make_join,
    parse_answer,
    parse_ask,
)
from fedhealth.link.renewal import RenewRequest
from fedhealth.pki.profiles import Role

KEY, WITNESS = (Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32) for n in (1, 2))
JOIN = make_join("hungary", bytes(16), b"tls", b"renewal", KEY)
WORD = certify_ledger_key("heart", "hungary", JOIN.ledger_key, 1, WITNESS)
JOINED = Joined(tls_chain="a", renewal_chain="b", ledger=WORD, link="c.example:7443")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@pytest.mark.parametrize("ask", [AskRoot(), AskTerms(), JOIN])
def test_an_ask_comes_back_as_it_was(ask):
    whole = frame(ask)
    assert announced_bytes(whole[:4]) == len(whole) - 4
    assert parse_ask(whole[4:]) == ask


@pytest.mark.parametrize("answer", [JOINED, TurnedAway(code="refused")])
def test_an_answer_comes_back_as_it_was(answer):
    assert parse_answer(frame(answer)[4:]) == answer


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_message_or_one_code(body):
    for parse in (parse_ask, parse_answer):
        try:
            parse(body)
        except MessageInvalid as error:
            assert error.code in ("bad-request", "upgrade-site", "upgrade-coordinator")


@given(field=st.sampled_from(sorted(JOIN.model_fields_set | {"version", "extra"})), value=JSON)
def test_a_join_with_any_other_field_is_a_join_or_one_code(field, value):
    changed = JOIN.model_dump(mode="json") | {field: value}
    with contextlib.suppress(MessageInvalid):
        parse_ask(json.dumps(changed).encode())


@given(st.binary(min_size=4, max_size=4))
def test_a_length_is_within_bounds_or_refused(head):
    try:
        assert 0 < announced_bytes(head) <= MAX_MESSAGE_BYTES
    except MessageInvalid:
        assert not 0 < int.from_bytes(head) <= MAX_MESSAGE_BYTES


@pytest.mark.parametrize(("version", "code"), [(0, "upgrade-site"), (2, "upgrade-coordinator")])
def test_another_version_says_which_end_is_older_whatever_else_it_says(version, code):
    with pytest.raises(MessageInvalid) as refused:
        parse_ask(json.dumps({"version": version, "kind": "anything", "new": 1}).encode())
    assert refused.value.code == code


@pytest.mark.parametrize("field", ["site", "token", "tls_request", "renewal_request", "ledger_key"])
def test_the_ledger_key_signs_all_that_is_asked_for(field):
    JOIN.check_signature()
    other = make_join("other", bytes([7]) * 16, b"x", b"y", WITNESS)
    with pytest.raises(IdentityInvalid):
        JOIN.model_copy(update={field: getattr(other, field)}).check_signature()


@pytest.mark.parametrize("change", [{"federation": "lung"}, {"site": "va"}, {"ledger_key": "ab" * 32}, {"at": 2}])
def test_the_witness_signs_all_of_its_word_for_a_ledger_key(change):
    from fedhealth.signing import public_key_hex

    witness = public_key_hex(WITNESS.public_key())
    WORD.check(witness)
    with pytest.raises(IdentityInvalid):
        WORD.model_copy(update=change).check(witness)
    with pytest.raises(IdentityInvalid):
        WORD.check(JOIN.ledger_key)


@pytest.mark.parametrize("link", ["", "c.example", 'c:1"\nsite = "x', "c.example:123456", "c example:1"])
def test_an_address_that_could_be_more_than_one_is_refused(link):
    body = JOINED.model_dump(mode="json") | {"link": link}
    with pytest.raises(MessageInvalid):
        parse_answer(json.dumps(body).encode())


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_wish_to_renew_or_one_error(body):
    with contextlib.suppress(ValidationError):
        assert RenewRequest.model_validate_json(body).role in (Role.SITE, Role.RENEWAL)


@given(role=st.sampled_from(["site", "renewal", "coordinator", ""]) | JSON, request=JSON)
def test_a_wish_to_renew_is_of_the_two_roles_of_a_site(role, request):
    with contextlib.suppress(ValidationError):
        wish = RenewRequest.model_validate_json(json.dumps({"role": role, "request": request}))
        assert wish.role in (Role.SITE, Role.RENEWAL) and len(wish.request) <= 8 * 1024
