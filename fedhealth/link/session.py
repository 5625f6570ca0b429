"""Frames of one stream: sealed and opened in order, without any input or output.

A frame is a header (`16s` session id, `u64` counter, `u64` request id, `u8` kind, `u8` length of the service
name, all big-endian), the service name in ASCII, a seal, and the body. HELLO is sealed with a SHA-256 over a label of
the direction and the rest of the frame. Every later frame is sealed with 16 bytes of AES-256-GMAC over header, name
and body, under a key that the coordinator draws for this stream and sends in its HELLO, inside TLS; the nonce is the
direction and the counter. A frame that was altered anywhere, repeated, moved, sent back to its sender or taken from
another session is refused.

Source: NIST SP 800-38D for GMAC. gRPC in Python offers no channel binding; session id, key and counter take its
place. A keyed seal and not a plain hash, because a hash can be computed by whoever altered the frame, and costs more
than TLS itself (SHA-256 53 ms per 100 MiB where GMAC takes 5 and the whole bare stream 105).

Invariants: the first frame of each direction is HELLO and no other is; counters start at 0 and grow by one,
each direction by itself, so no nonce repeats under a key; the first frame that breaks a rule ends this end for good.
The layout of HELLO never changes, whatever the protocol version, so that old and new ends can tell each other which
to upgrade.

Leaves to others: secrecy and the peer's identity (TLS), the order of kinds (`fedhealth.link.exchange`), and whole
bodies: a step's input is named by its SHA-256 in the release's identity, and a payload by the one its gate signed.
"""

import hashlib
import hmac
import struct
from dataclasses import dataclass
from enum import IntEnum

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from fedhealth.errors import LinkUnavailable
from fedhealth.link.memory import CHUNK_BYTES, Buffer
from fedhealth.pki.profiles import Role

LINK_PROTOCOL_VERSION = 2
SESSION_ID_BYTES = 16
KEY_BYTES = 32
SESSION_BYTES = SESSION_ID_BYTES + KEY_BYTES
MAX_FRAME_BYTES = CHUNK_BYTES + 8
"""The largest body of one frame: a chunk, and the size of the whole that the first chunk declares."""

_HEADER = struct.Struct(">16sQQBB")
_VERSION = struct.Struct(">I")
_HASH_BYTES = 32
_SEAL_BYTES = 16
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
    """What a frame is for; what each carries is said in `fedhealth.link.exchange`."""

    HELLO = 1
    ASK = 2
    ANSWER = 3
    FAIL = 4
    MORE = 5
    ROOM = 6
    CANCEL = 7
    BEAT = 8


_KINDS = {int(kind): kind for kind in FrameKind}


@dataclass(frozen=True)
class SessionFrame:
    """One frame that passed every check.

    Args:
        session_id: 16 bytes, the same for the whole stream.
        counter: 0, 1, 2 ... in its direction.
        request_id: chosen by the end that asked; 0 in HELLO.
        kind: what the frame is for.
        service: the service asked, in ASCII; empty where the request is known.
        body: at most `MAX_FRAME_BYTES` bytes; a view of the message it came in.
    """

    session_id: bytes
    counter: int
    request_id: int
    kind: FrameKind
    service: str
    body: Buffer


class SessionEnd:
    """One end of a session; owns the two counters and is used by one stream only.

    Args:
        side: which end this is.
        session: 48 random bytes for the coordinator, id and key; None for a site, which takes the coordinator's over.
    """

    def __init__(self, side: Role, session: bytes | None = None) -> None:
        if (session is None) != (side is Role.SITE):
            raise ValueError("the coordinator chooses the session, and only the coordinator")
        if session is not None and len(session) != SESSION_BYTES:
            raise ValueError(f"a session has {SESSION_BYTES} bytes")
        self._side = side
        self._peer = Role.SITE if side is Role.COORDINATOR else Role.COORDINATOR
        self._session_id = session[:SESSION_ID_BYTES] if session else None
        self._key = session[SESSION_ID_BYTES:] if session else None
        self._sent = 0
        self._received = 0
        self._broken = False

    def seal(self, kind: FrameKind, request_id: int, service: str, *parts: Buffer) -> bytes:
        """Return the next frame of this direction; it must be sent before any later one.

        Args:
            kind: HELLO for the first frame, never after.
            request_id: 0 to 2**64 - 1.
            service: at most 255 ASCII characters.
            parts: the body, at most `MAX_FRAME_BYTES` bytes together. The coordinator's HELLO gets the key appended.

        Raises:
            FrameRejected: the body is too large (nothing changes), or the session is over or has not begun.
            ValueError: HELLO out of place, or a service name that does not fit.
        """
        if self._broken or self._session_id is None:
            raise _rejected("a session that is over, or not begun", "an open one")
        check_service_name(service)
        length = sum(map(len, parts))
        if length > MAX_FRAME_BYTES:
            raise _rejected(f"a body of {length} bytes", f"at most {MAX_FRAME_BYTES}")
        if (kind is FrameKind.HELLO) != (self._sent == 0):
            raise ValueError(f"{self._side} cannot send {kind.name} as frame {self._sent}")
        name = service.encode("ascii")
        head = _HEADER.pack(self._session_id, self._sent, request_id, kind, len(name)) + name
        if kind is not FrameKind.HELLO:
            seal = self._seal_of(self._side, self._sent, head, *parts)
        else:
            if self._side is Role.COORDINATOR and self._key is not None:
                parts = (*parts, self._key)
            seal = _hash(self._side, head, *parts)
        self._sent += 1
        return b"".join((head, seal, *parts))

    def open(self, data: bytes) -> SessionFrame:
        """Check the next frame from the other end and return it.

        Args:
            data: one frame, as it arrived.

        Raises:
            FrameRejected: too short, too large, altered, out of order, repeated, of another session or of no known
                kind. This end refuses everything from then on.
        """
        if self._broken:
            raise _rejected("a session that is over", "an open one")
        try:
            frame = self._checked(data)
        except FrameRejected:
            self._broken = True
            raise
        if frame.kind is FrameKind.HELLO and self._side is Role.SITE:
            self._session_id = frame.session_id
            self._key = bytes(frame.body[_VERSION.size :][:KEY_BYTES])
        self._received += 1
        return frame

    def _checked(self, data: bytes) -> SessionFrame:
        if len(data) < _HEADER.size + _SEAL_BYTES:
            raise _rejected(f"{len(data)} bytes", f"at least {_HEADER.size + _SEAL_BYTES}")
        if len(data) > MAX_FRAME_BYTES + MAX_HEADER_BYTES:
            raise _rejected(f"{len(data)} bytes", f"at most {MAX_FRAME_BYTES + MAX_HEADER_BYTES}")
        session_id, counter, request_id, kind_number, name_length = _HEADER.unpack_from(data)
        if self._session_id is not None and not hmac.compare_digest(session_id, self._session_id):
            raise _rejected("another session's frame", "one of this session")
        if counter != self._received:
            raise _rejected(f"frame {counter}", f"frame {self._received}")
        kind = _KINDS.get(kind_number)
        if kind is None:
            raise _rejected(f"kind {kind_number}", "one of this version")
        if (kind is FrameKind.HELLO) != (counter == 0):
            raise _rejected(f"{kind.name} as frame {counter}", "HELLO first and never again")
        seal_start = _HEADER.size + name_length
        body_start = seal_start + (_HASH_BYTES if kind is FrameKind.HELLO else _SEAL_BYTES)
        if len(data) < body_start:
            raise _rejected(f"{len(data)} bytes", f"at least {body_start}")
        head, given, body = data[:seal_start], data[seal_start:body_start], memoryview(data)[body_start:]
        if len(body) > MAX_FRAME_BYTES:
            raise _rejected(f"a body of {len(body)} bytes", f"at most {MAX_FRAME_BYTES}")
        hello = kind is FrameKind.HELLO
        wanted = _hash(self._peer, head, body) if hello else self._seal_of(self._peer, counter, head, body)
        if not hmac.compare_digest(given, wanted):
            raise _rejected("a wrong seal", "the one of this frame in this direction and session")
        name = head[_HEADER.size :]
        if not name.isascii():
            raise _rejected("a service name outside ASCII", "ASCII")
        return SessionFrame(session_id, counter, request_id, kind, name.decode("ascii"), body)

    def _seal_of(self, sender: Role, counter: int, head: bytes, *parts: Buffer) -> bytes:
        if self._key is None or len(self._key) != KEY_BYTES:
            raise _rejected("no key of the session", f"{KEY_BYTES} bytes in the coordinator's HELLO")
        nonce = (b"site" if sender is Role.SITE else b"coor") + counter.to_bytes(8, "big")
        mac = Cipher(algorithms.AES256(self._key), modes.GCM(nonce)).encryptor()
        mac.authenticate_additional_data(head)
        for part in parts:
            mac.authenticate_additional_data(part)
        mac.finalize()
        return mac.tag


def hello_body(version: int = LINK_PROTOCOL_VERSION) -> bytes:
    """Return the body of HELLO: the sender's protocol version as a big-endian `u32`."""
    return _VERSION.pack(version)


def check_hello(body: Buffer, reader: Role, own_version: int = LINK_PROTOCOL_VERSION) -> None:
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


def check_service_name(service: str) -> None:
    """Refuse what is not the name of a service.

    Raises:
        ValueError: more than 255 characters, or not ASCII (a mistake in the program).
    """
    if len(service) > 255 or not service.isascii():
        raise ValueError(f"not the name of a service: {service[:80]!r}")


def _hash(sender: Role, head: bytes, *parts: Buffer) -> bytes:
    digest = hashlib.sha256(f"fedhealth/link/from-{sender}\0".encode() + head)
    for part in parts:
        digest.update(part)
    return digest.digest()


def _rejected(got: str, wanted: str) -> FrameRejected:
    return FrameRejected(
        "a frame of the link is refused",
        got=got,
        wanted=wanted,
        next_step="The link is set up again by itself; if this recurs, look at what lies between.",
    )
