"""Why TLS turned a peer away, in the coordinator's log: gRPC tells nobody but its own standard error.

A handshake that fails never reaches Python. gRPC writes a line about it, with BoringSSL's own name of the reason, when
its verbosity is INFO. While this is on, what the process writes to standard error passes through a pipe; lines of gRPC
are taken out, and one that tells of a handshake becomes a line of our log, with one word of `Flaw`.

Invariants: nothing that a peer sent is in the log, because nothing of gRPC's line is, but which of the phrases below it
has; a phrase that is not known is `handshake`; strangers who knock all the time cost a line a second, with a count.

Leaves to others: a peer whose certificate TLS accepts and the profile does not (`fedhealth.link.peer`).
"""

import logging
import os
import queue
import re
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from fedhealth.pki.leaf import Flaw

logger = logging.getLogger(__name__)

_OF_GRPC = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ [\w./-]+:\d+\]")
_PHRASES = (
    (b"PEER_DID_NOT_RETURN_A_CERTIFICATE", Flaw.NO_CERTIFICATE),
    (b"NO_SHARED_CIPHER", Flaw.TLS_VERSION),
    (b"UNSUPPORTED_PROTOCOL", Flaw.TLS_VERSION),
    (b"unable to get local issuer certificate", Flaw.UNKNOWN_AUTHORITY),
    (b"unable to get issuer certificate", Flaw.UNKNOWN_AUTHORITY),
    (b"self signed certificate", Flaw.SELF_SIGNED),
    (b"self-signed certificate", Flaw.SELF_SIGNED),
    (b"certificate signature failure", Flaw.BAD_SIGNATURE),
    (b"certificate has expired", Flaw.EXPIRED),
    (b"certificate is not yet valid", Flaw.NOT_YET_VALID),
    (b"permitted subtree violation", Flaw.WRONG_FEDERATION),
    (b"Issuer has name constraints but leaf has no SANs", Flaw.NO_URI_NAME),
    (b"unsupported certificate purpose", Flaw.WRONG_PURPOSE),
    (b"path length constraint exceeded", Flaw.PATH_TOO_LONG),
    (b"invalid CA certificate", Flaw.NOT_AN_AUTHORITY),
    (b"unhandled critical extension", Flaw.UNKNOWN_EXTENSION),
    (b"KEY_USAGE_BIT_INCORRECT", Flaw.KEY_USAGE),
    (b"WRONG_SIGNATURE_TYPE", Flaw.WEAK_KEY),
    (b"WRONG_CURVE", Flaw.WEAK_KEY),
    (b"UNKNOWN_CERTIFICATE_TYPE", Flaw.WEAK_KEY),
    (b"NO_COMMON_SIGNATURE_ALGORITHMS", Flaw.WEAK_KEY),
    (b"UNSUPPORTED_ALGORITHM", Flaw.WEAK_KEY),
    (b"BAD_SIGNATURE", Flaw.BAD_SIGNATURE),
    (b"DECODE_ERROR", Flaw.MALFORMED),
    (b"CANNOT_PARSE_LEAF_CERT", Flaw.MALFORMED),
)
_LINES_A_SECOND, _LINES_AT_ONCE = 1.0, 60
_STANDARD_ERROR = 2


def flaw_in(line: bytes) -> Flaw | None:
    """Return why a handshake failed, None if a line of gRPC tells of none.

    Args:
        line: as gRPC wrote it.
    """
    if b"Handshake failed" not in line:
        return None
    return next((flaw for phrase, flaw in _PHRASES if phrase in line), Flaw.HANDSHAKE)


@contextmanager
def logged_handshakes() -> Iterator[None]:
    """Log failed handshakes while this is on; to be entered before anything loads grpc.

    Standard error works as before for everybody else in this process and for its children.
    """
    before = os.environ.get("GRPC_VERBOSITY")
    os.environ["GRPC_VERBOSITY"] = "INFO"
    tap = _Tap()
    try:
        yield
    finally:
        tap.stop()
        if before is None:
            del os.environ["GRPC_VERBOSITY"]
        else:
            os.environ["GRPC_VERBOSITY"] = before


class _Tap:
    """Stands between this process and its standard error.

    One thread reads the pipe and never writes to it; another writes the log lines, which pass through the pipe too.
    """

    def __init__(self) -> None:
        self._original = os.dup(_STANDARD_ERROR)
        self._read, write = os.pipe()
        os.dup2(write, _STANDARD_ERROR)
        os.close(write)
        self._stop_read, self._stop_write = os.pipe()
        self._found: queue.Queue[Flaw | None] = queue.Queue(maxsize=1000)
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._sift, self._tell)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Give standard error back, and write what is still in the pipe."""
        self._found.put(None)
        self._threads[1].join()
        os.dup2(self._original, _STANDARD_ERROR)
        os.write(self._stop_write, b"x")
        self._threads[0].join()
        for descriptor in (self._read, self._stop_read, self._stop_write, self._original):
            os.close(descriptor)

    def _sift(self) -> None:
        rest = b""
        while True:
            ready, _, _ = select.select([self._read, self._stop_read], [], [])
            if self._read not in ready:
                break
            part = os.read(self._read, 1 << 16)
            if not part:
                break
            *lines, rest = (rest + part).split(b"\n")
            self._pass_on(b"".join(line + b"\n" for line in lines if not self._is_grpcs(line)))
            if len(rest) > 1 << 16:  # no line is that long
                self._pass_on(rest)
                rest = b""
        if rest and not self._is_grpcs(rest):
            self._pass_on(rest)

    def _is_grpcs(self, line: bytes) -> bool:
        if not _OF_GRPC.match(line):
            return False
        flaw = flaw_in(line)
        if flaw is not None and not self._found.full():
            self._found.put_nowait(flaw)
        return True

    def _pass_on(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._original, data) :]

    def _tell(self) -> None:
        """Write a line for each, up to a minute's worth at once; what is more is counted in the next line."""
        allowed, counted, held = float(_LINES_AT_ONCE), 0, time.monotonic()
        while (flaw := self._found.get()) is not None:
            now = time.monotonic()
            allowed, held = min(_LINES_AT_ONCE, allowed + (now - held) * _LINES_A_SECOND), now
            counted += 1
            if allowed >= 1:
                logger.warning(
                    "refused a handshake: %(code)s, and %(multiple)s more since the last such line",
                    {"code": flaw, "multiple": counted - 1},
                )
                allowed, counted = allowed - 1, 0
