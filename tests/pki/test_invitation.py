"""The invitation: one line that survives a person, and says so when it did not."""

from datetime import UTC, datetime, timedelta

import pytest
from ceremony import NOW
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import FedHealthError
from fedhealth.pki.invitation import Invitation, InvitationInvalid, format_invitation, parse_invitation, token_hash

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
INVITATIONS = st.builds(
    Invitation,
    federation=NAMES,
    site=NAMES,
    address=st.builds("{}:{}".format, st.from_regex(r"[A-Za-z0-9.-]{1,40}", fullmatch=True), st.integers(0, 65535)),
    root_sha256=st.binary(min_size=32, max_size=32),
    token=st.binary(min_size=16, max_size=16),
    ends=st.integers(0, 2**32 - 1).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
ONE = Invitation("heart", "hungary", "c.example:7444", bytes(32), bytes(16), NOW)


@given(INVITATIONS)
def test_what_was_written_is_what_is_read(invitation):
    text = format_invitation(invitation)
    assert parse_invitation(f"  {text}\n") == invitation
    assert text.isascii() and " " not in text


@given(invitation=INVITATIONS, data=st.data())
def test_every_mistyped_character_is_found(invitation, data):
    text = format_invitation(invitation)
    place = data.draw(st.integers(0, len(text) - 1))
    typed = data.draw(st.characters(codec="utf-8"))
    other = text[:place] + typed + text[place + 1 :]
    if other != text:
        with pytest.raises(InvitationInvalid):
            parse_invitation(other)


@given(invitation=INVITATIONS, cut=st.integers(1, 60))
def test_a_line_that_was_cut_is_found(invitation, cut):
    with pytest.raises(InvitationInvalid, match="mistyped or cut"):
        parse_invitation(format_invitation(invitation)[:-cut])


@given(
    st.one_of(
        st.text(max_size=700), st.from_regex(r"fedhealth-1/[a-z-]{1,9}/[a-z]{1,9}/[a-z.:0-9]{1,9}/[A-Za-z0-9_-]{0,99}")
    )
)
def test_any_text_is_an_invitation_or_one_clear_message(text):
    try:
        parse_invitation(text)
    except InvitationInvalid as error:
        assert error.next_step and len(str(error)) < 600


def test_another_version_names_who_must_be_upgraded():
    text = format_invitation(ONE)
    with pytest.raises(InvitationInvalid, match="Upgrade this site first"):
        parse_invitation(text.replace("fedhealth-1/", "fedhealth-2/"))
    with pytest.raises(InvitationInvalid, match="operator to upgrade first"):
        parse_invitation(text.replace("fedhealth-1/", "fedhealth-0/"))


def test_the_end_and_a_clock_that_is_behind_are_told():
    invitation = parse_invitation(format_invitation(ONE))
    invitation.check_time(NOW - timedelta(seconds=1))
    invitation.check_time(NOW - timedelta(minutes=65))
    with pytest.raises(InvitationInvalid, match="ended at 2026-03-01 12:00:00 UTC"):
        invitation.check_time(NOW)
    with pytest.raises(InvitationInvalid, match="from the future"):
        invitation.check_time(NOW - timedelta(minutes=66))


def test_the_token_shows_neither_in_repr_nor_in_its_hash():
    invitation = Invitation("heart", "hungary", "c.example:7444", bytes(32), b"0123456789abcdef", NOW)
    assert "0123456789abcdef" not in repr(invitation)
    assert len(token_hash(invitation.token)) == 64 and invitation.token.hex() not in token_hash(invitation.token)


def test_a_name_that_no_certificate_carries_is_never_invited():
    for name in ("", "A", "a/b", "-a"):
        with pytest.raises(FedHealthError):
            format_invitation(Invitation("heart", name, "c.example:7444", bytes(32), bytes(16), NOW))
