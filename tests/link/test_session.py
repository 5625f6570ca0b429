import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from fedhealth.errors import LinkUnavailable
from fedhealth.link.session import (
    LINK_PROTOCOL_VERSION,
    MAX_FRAME_BYTES,
    MAX_HEADER_BYTES,
    FrameKind,
    FrameRejected,
    ProtocolMismatch,
    SessionEnd,
    check_hello,
    hello_body,
)
from fedhealth.pki.profiles import Role

SESSION = bytes(range(48))


def pair(session_id=SESSION):
    """Two ends that said HELLO to each other."""
    coordinator, site = SessionEnd(Role.COORDINATOR, session_id), SessionEnd(Role.SITE)
    site.open(coordinator.seal(FrameKind.HELLO, 0, "", hello_body()))
    coordinator.open(site.seal(FrameKind.HELLO, 0, "", hello_body()))
    return coordinator, site


@given(bodies=st.lists(st.tuples(st.integers(0, 2**64 - 1), st.binary(max_size=64)), max_size=5))
def test_what_is_sealed_opens_at_the_other_end_in_order(bodies):
    coordinator, site = pair()
    for counter, (request_id, body) in enumerate(bodies, start=1):
        frame = site.open(coordinator.seal(FrameKind.ASK, request_id, "gate", body))
        assert (frame.session_id, frame.counter, frame.kind) == (SESSION[:16], counter, FrameKind.ASK)
        assert (frame.request_id, frame.service, frame.body) == (request_id, "gate", body)
    answer = coordinator.open(site.seal(FrameKind.ANSWER, 7, "gate", b""))
    assert answer.counter == 1, "each direction counts by itself"


def test_the_layout_is_the_documented_one():
    coordinator, _ = pair()
    data = coordinator.seal(FrameKind.ASK, 5, "gate", b"bo", b"dy")
    assert data[:38] == SESSION[:16] + struct.pack(">QQBB", 1, 5, 2, 4) + b"gate"
    assert data[38 + 16 :] == b"body"
    nonce = b"coor" + struct.pack(">Q", 1)
    by_another_way = AESGCM(SESSION[16:]).encrypt(nonce, b"", data[:38] + b"body")
    assert data[38 : 38 + 16] == by_another_way


def test_the_layout_of_hello_is_that_of_every_version():
    data = SessionEnd(Role.COORDINATOR, SESSION).seal(FrameKind.HELLO, 0, "", b"body")
    assert data[:34] == SESSION[:16] + struct.pack(">QQBB", 0, 0, 1, 0)
    rest = b"body" + SESSION[16:]
    assert data[34:66] == hashlib.sha256(b"fedhealth/link/from-coordinator\0" + data[:34] + rest).digest()
    assert data[66:] == rest


@given(body=st.binary(max_size=40), data=st.data())
def test_refuses_a_frame_with_any_bit_changed(body, data):
    coordinator, site = pair()
    frame = bytearray(coordinator.seal(FrameKind.ASK, 1, "gate", body))
    frame[data.draw(st.integers(0, len(frame) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(FrameRejected):
        site.open(bytes(frame))


@given(body=st.binary(max_size=40), data=st.data())
def test_refuses_a_truncated_or_extended_frame(body, data):
    coordinator, site = pair()
    frame = coordinator.seal(FrameKind.ASK, 1, "gate", body)
    length = data.draw(st.integers(0, len(frame) + 8).filter(lambda n: n != len(frame)))
    with pytest.raises(FrameRejected):
        site.open((frame + bytes(8))[:length])


@given(order=st.permutations(range(4)) | st.lists(st.integers(0, 3), min_size=1, max_size=6))
def test_accepts_exactly_the_frames_in_order_and_nothing_after_a_fault(order):
    coordinator, site = pair()
    frames = [coordinator.seal(FrameKind.ASK, n, "gate", bytes([n])) for n in range(4)]
    expected = 0
    for n in order:
        if expected is not None and n == expected:
            assert site.open(frames[n]).body == bytes([n])
            expected += 1
        else:  # a gap, a repeat or an earlier frame; from here on the end is closed, even for the right one
            expected = None
            with pytest.raises(FrameRejected):
                site.open(frames[n])


def test_a_broken_end_neither_opens_nor_seals():
    coordinator, site = pair()
    good = coordinator.seal(FrameKind.ASK, 1, "gate", b"")
    with pytest.raises(FrameRejected):
        site.open(b"")
    with pytest.raises(FrameRejected, match="session that is over"):
        site.open(good)
    with pytest.raises(FrameRejected, match="session that is over"):
        site.seal(FrameKind.ANSWER, 1, "gate", b"")


@given(session_id=st.binary(min_size=48, max_size=48).filter(lambda value: value[:16] != SESSION[:16]))
def test_refuses_a_frame_of_another_session(session_id):
    foreign, _ = pair(session_id)
    _, site = pair()
    with pytest.raises(FrameRejected, match="another session"):
        site.open(foreign.seal(FrameKind.ASK, 1, "gate", b""))


@given(key=st.binary(min_size=32, max_size=32).filter(lambda value: value != SESSION[16:]))
def test_who_knows_the_session_id_but_not_the_key_cannot_make_a_frame(key):
    foreign, _ = pair(SESSION[:16] + key)
    _, site = pair()
    with pytest.raises(FrameRejected, match="wrong seal"):
        site.open(foreign.seal(FrameKind.ASK, 1, "gate", b""))


def test_refuses_its_own_frame_sent_back():
    for kind, coordinator in [(FrameKind.HELLO, SessionEnd(Role.COORDINATOR, SESSION)), (FrameKind.ASK, pair()[0])]:
        twin = SessionEnd(Role.COORDINATOR, SESSION) if kind is FrameKind.HELLO else pair()[0]
        with pytest.raises(FrameRejected, match="wrong seal"):
            coordinator.open(twin.seal(kind, 0, "", hello_body()))


def test_refuses_a_site_whose_hello_is_of_another_session():
    coordinator = SessionEnd(Role.COORDINATOR, SESSION)
    other, site = SessionEnd(Role.COORDINATOR, bytes(48)), SessionEnd(Role.SITE)
    site.open(other.seal(FrameKind.HELLO, 0, "", hello_body()))
    with pytest.raises(FrameRejected, match="another session"):
        coordinator.open(site.seal(FrameKind.HELLO, 0, "", hello_body()))


def test_hello_comes_first_and_never_again():
    coordinator, site = pair()
    for end, kind in [
        (coordinator, FrameKind.HELLO),
        (site, FrameKind.HELLO),
        (SessionEnd(Role.COORDINATOR, SESSION), FrameKind.ASK),
    ]:
        with pytest.raises(ValueError, match="cannot send"):
            end.seal(kind, 1, "gate", b"")


@pytest.mark.parametrize("body", [hello_body(1), hello_body(2) + bytes(31)])
def test_a_hello_without_a_key_is_good_for_its_version_only(body):
    """An older coordinator sends none; nothing but its HELLO is believed."""
    old, site = SessionEnd(Role.SITE), SessionEnd(Role.SITE)
    old._side, old._peer, old._session_id = Role.COORDINATOR, Role.SITE, SESSION[:16]
    site.open(old.seal(FrameKind.HELLO, 0, "", body))
    with pytest.raises(FrameRejected, match="no key"):
        old.seal(FrameKind.ASK, 1, "gate", b"")
    good, _ = pair()
    with pytest.raises(FrameRejected, match="no key"):
        site.open(good.seal(FrameKind.ASK, 1, "gate", b""))


def test_a_site_cannot_speak_before_the_coordinator():
    with pytest.raises(FrameRejected, match="not begun"):
        SessionEnd(Role.SITE).seal(FrameKind.HELLO, 0, "", hello_body())


def test_the_largest_body_passes_and_one_byte_more_leaves_the_session_open():
    coordinator, site = pair()
    largest = bytes(MAX_FRAME_BYTES)
    with pytest.raises(FrameRejected, match="at most 1048584"):
        coordinator.seal(FrameKind.ASK, 1, "gate", largest + b"\0")
    assert site.open(coordinator.seal(FrameKind.ASK, 1, "gate", largest)).body == largest


@pytest.mark.parametrize("extra", [1, MAX_HEADER_BYTES, 2 * MAX_HEADER_BYTES])
def test_refuses_a_frame_that_arrives_too_large(extra):
    coordinator, site = pair()
    frame = coordinator.seal(FrameKind.ASK, 1, "gate", bytes(MAX_FRAME_BYTES))
    with pytest.raises(FrameRejected, match="at most"):
        site.open(frame + bytes(extra))


@pytest.mark.parametrize("service", ["é", "a" * 256])
def test_a_service_name_that_does_not_fit_is_a_mistake_in_the_program(service):
    with pytest.raises(ValueError, match="not the name of a service"):
        pair()[0].seal(FrameKind.ASK, 1, service, b"")


def test_session_ids_are_the_coordinators():
    with pytest.raises(ValueError, match="only the coordinator"):
        SessionEnd(Role.COORDINATOR)
    with pytest.raises(ValueError, match="only the coordinator"):
        SessionEnd(Role.SITE, SESSION)
    with pytest.raises(ValueError, match="48 bytes"):
        SessionEnd(Role.COORDINATOR, b"short")


@pytest.mark.parametrize(
    ("reader", "theirs", "upgrade", "words"),
    [
        (Role.SITE, 3, Role.SITE, "upgrade the site first.*Install the newer FedHealth on this site"),
        (Role.SITE, 1, Role.COORDINATOR, "upgrade the coordinator first.*nothing is to be done here"),
        (Role.COORDINATOR, 1, Role.SITE, "upgrade the site first.*nothing is to be done here"),
        (Role.COORDINATOR, 3, Role.COORDINATOR, "upgrade the coordinator first.*on this coordinator"),
    ],
)
def test_a_version_mismatch_names_who_must_act(reader, theirs, upgrade, words):
    assert LINK_PROTOCOL_VERSION == 2
    with pytest.raises(ProtocolMismatch, match=words) as caught:
        check_hello(hello_body(theirs), reader)
    assert caught.value.upgrade is upgrade
    assert isinstance(caught.value, LinkUnavailable)


def test_hello_may_grow_but_not_shrink():
    check_hello(hello_body() + b"later versions append", Role.SITE)
    with pytest.raises(FrameRejected):
        check_hello(b"\0\0\1", Role.SITE)
