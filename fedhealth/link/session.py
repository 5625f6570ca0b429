"""Frames of one stream: sealed and opened in order, without any input or output.

A frame is a header (`16s` session id, `u64` counter, `u64` request id, `u8` kind, `u8` length of the service
name, all big-endian), the service name in ASCII, a SHA-256, and the body. The SHA-256 covers a label of the
direction, the header, the name and the body: a frame altered anywhere, or sent back to its sender, is
refused.

Source: gRPC in Python offers no channel binding; the session id, chosen afresh by the coordinator for each
stream, and the counter take its place.

Invariants: the first frame of each direction is HELLO and no other is; counters start at 0 and grow by one,
each direction by itself; the first frame that breaks a rule ends this end for good. The layout of HELLO never
changes, whatever the protocol version, so that old and new ends can tell each other which to upgrade.

Leaves to others: secrecy and the peer's identity (TLS), and what services mean.
"""

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum

from fedhealth.errors import LinkUnavailable
from fedhealth.pki.profiles import Role

LINK_PROTOCOL_VERSION = 1
MAX_FRAME_BYTES = 4 * 2**20
"""The largest body of one frame: 4 MiB, gRPC's own default for a message."""
SESSION_ID_BYTES = 16

_HEADER = struct.Struct(">16sQQBB")
_VERSION = struct.Struct(">I")
_HASH_BYTES = 32
MAX_HEADER_BYTES = _HEADER.size + 255 + _HASH_BYTES
"""The most that a frame holds beside its body."""


class FrameRejected(LinkUnavailable):
    """A frame broke the session's rules; the stream it came on is closed."""


class ProtocolMismatch(LinkUnavailable):
    """The two ends speak different versions of the link protocol.

    Args:
        upgrade: which end is the older one and must be upgraded first.
    """

    def __init__(self, what: str, *, upgrade: Role, got: str, wanted: str, next_step: str) -> None:
        super().__init__(what, got=got, wanted=wanted, next_step=next_step)
        self.upgrade = upgrade


class FrameKind(IntEnum):
    """What a frame is for: the site sends HELLO, ANSWER and FAIL, the coordinator HELLO and ASK."""

    HELLO = 1
    ASK = 2
    ANSWER = 3
    FAIL = 4


_KINDS_FROM = {
    Role.COORDINATOR: frozenset({FrameKind.HELLO, FrameKind.ASK}),
    Role.SITE: frozenset({FrameKind.HELLO, FrameKind.ANSWER, FrameKind.FAIL}),
}


@dataclass(frozen=True)
class SessionFrame:
    """One frame that passed every check.

    Args:
        session_id: 16 bytes, the same for the whole stream.
        counter: 0, 1, 2 ... in its direction.
        request_id: chosen by the coordinator; an answer repeats its ask's. 0 in HELLO.
        kind: what the frame is for.
        service: the service asked, in ASCII; empty in HELLO.
        body: at most `MAX_FRAME_BYTES` bytes.
    """

    session_id: bytes
    counter: int
    request_id: int
    kind: FrameKind
    service: str
    body: bytes


class SessionEnd:
    """One end of a session; owns the two counters and is used by one stream only.

    Args:
        side: which end this is.
        session_id: 16 random bytes for the coordinator; None for a site, which takes over the coordinator's.
    """

    def __init__(self, side: Role, session_id: bytes | None = None) -> None:
        if (session_id is None) != (side is Role.SITE):
            raise ValueError("the coordinator chooses the session id, and only the coordinator")
        if session_id is not None and len(session_id) != SESSION_ID_BYTES:
            raise ValueError(f"a session id has {SESSION_ID_BYTES} bytes")
        self._side = side
        self._peer = Role.SITE if side is Role.COORDINATOR else Role.COORDINATOR
        self._session_id = session_id
        self._sent = 0
        self._received = 0
        self._broken = False

    def seal(self, kind: FrameKind, request_id: int, service: str, body: bytes) -> bytes:
        """Return the next frame of this direction; it must be sent before any later one.

        Args:
            kind: HELLO for the first frame, never after.
            request_id: 0 to 2**64 - 1.
            service: at most 255 ASCII characters.
            body: at most `MAX_FRAME_BYTES` bytes.

        Raises:
            FrameRejected: the body is too large (nothing changes), or the session was broken before.
            ValueError: a kind this side may not send now, or a service name that does not fit.
        """
        if self._broken or self._session_id is None:
            raise _rejected("a session that is over, or not begun", "an open one")
        check_sendable(service, body)
        name = service.encode("ascii")
        if kind not in _KINDS_FROM[self._side] or (kind is FrameKind.HELLO) != (self._sent == 0):
            raise ValueError(f"{self._side} cannot send {kind.name} as frame {self._sent}")
        head = _HEADER.pack(self._session_id, self._sent, request_id, kind, len(name)) + name
        self._sent += 1
        return b"".join((head, _hash(self._side, head, body), body))

    def open(self, data: bytes) -> SessionFrame:
        """Check the next frame from the other end and return it.

        Args:
            data: one frame, as it arrived.

        Raises:
            FrameRejected: too short, too large, altered, out of order, repeated, of another session or of a
                kind that does not belong here. This end refuses everything from then on.
        """
        if self._broken:
            raise _rejected("a session that is over", "an open one")
        try:
            frame = self._checked(data)
        except FrameRejected:
            self._broken = True
            raise
        self._session_id = frame.session_id
        self._received += 1
        return frame

    def _checked(self, data: bytes) -> SessionFrame:
        if len(data) < _HEADER.size + _HASH_BYTES:
            raise _rejected(f"{len(data)} bytes", f"at least {_HEADER.size + _HASH_BYTES}")
        if len(data) > MAX_FRAME_BYTES + MAX_HEADER_BYTES:
            raise _rejected(f"{len(data)} bytes", f"at most {MAX_FRAME_BYTES + MAX_HEADER_BYTES}")
        session_id, counter, request_id, kind_number, name_length = _HEADER.unpack_from(data)
        body_start = _HEADER.size + name_length + _HASH_BYTES
        if len(data) < body_start:
            raise _rejected(f"{len(data)} bytes", f"at least {body_start}")
        head, given = data[: _HEADER.size + name_length], data[body_start - _HASH_BYTES : body_start]
        name, body = head[_HEADER.size :], data[body_start:]
        if len(body) > MAX_FRAME_BYTES:
            raise _rejected(f"a body of {len(body)} bytes", f"at most {MAX_FRAME_BYTES}")
        if given != _hash(self._peer, head, body):
            raise _rejected("a wrong SHA-256", "the one of this frame in this direction")
        if self._session_id is not None and session_id != self._session_id:
            raise _rejected("another session's frame", "one of this session")
        if counter != self._received:
            raise _rejected(f"frame {counter}", f"frame {self._received}")
        if kind_number not in _KINDS_FROM[self._peer]:
            raise _rejected(f"kind {kind_number}", f"a kind that the {self._peer} may send")
        kind = FrameKind(kind_number)
        if (kind is FrameKind.HELLO) != (counter == 0):
            raise _rejected(f"{kind.name} as frame {counter}", "HELLO first and never again")
        if not name.isascii():
            raise _rejected("a service name outside ASCII", "ASCII")
        return SessionFrame(session_id, counter, request_id, kind, name.decode("ascii"), body)


def hello_body(version: int = LINK_PROTOCOL_VERSION) -> bytes:
    """Return the body of HELLO: the sender's protocol version as a big-endian `u32`."""
    return _VERSION.pack(version)


def check_hello(body: bytes, reader: Role, own_version: int = LINK_PROTOCOL_VERSION) -> None:
    """Refuse a peer of another protocol version, saying which end to upgrade.

    Args:
        body: the body of the peer's HELLO; later versions may append to it.
        reader: whose person reads the message.
        own_version: the version spoken at this end.

    Raises:
        ProtocolMismatch: the versions differ.
        FrameRejected: the body is too short to hold a version.
    """
    if len(body) < _VERSION.size:
        raise _rejected(f"a HELLO of {len(body)} bytes", f"at least {_VERSION.size}")
    (theirs,) = _VERSION.unpack_from(body)
    if theirs == own_version:
        return
    peer = Role.SITE if reader is Role.COORDINATOR else Role.COORDINATOR
    upgrade = reader if theirs > own_version else peer
    who_acts = f"Install the newer FedHealth on this {reader}" if upgrade is reader else f"Ask the {peer} to"
    raise ProtocolMismatch(
        f"the {peer} speaks another version of the link protocol: upgrade the {upgrade} first",
        upgrade=upgrade,
        got=f"version {theirs}",
        wanted=f"version {own_version}",
        next_step=f"{who_acts}." if upgrade is reader else f"{who_acts} upgrade; nothing is to be done here.",
    )


def check_sendable(service: str, body: bytes) -> None:
    """Refuse what no frame can carry, before it is put in line.

    Args:
        service: at most 255 ASCII characters.
        body: at most `MAX_FRAME_BYTES` bytes.

    Raises:
        FrameRejected: the body is too large.
        ValueError: not a service name (a mistake in the program).
    """
    if len(service) > 255 or not service.isascii():
        raise ValueError(f"not the name of a service: {service[:80]!r}")
    if len(body) > MAX_FRAME_BYTES:
        raise _rejected(f"a body of {len(body)} bytes", f"at most {MAX_FRAME_BYTES}")


def _hash(sender: Role, head: bytes, body: bytes) -> bytes:
    digest = hashlib.sha256(f"fedhealth/link/from-{sender}\0".encode() + head)
    digest.update(body)
    return digest.digest()


def _rejected(got: str, wanted: str) -> FrameRejected:
    return FrameRejected(
        "a frame of the link is refused",
        got=got,
        wanted=wanted,
        next_step="The link is set up again by itself; if this recurs, look at what lies between.",
    )
