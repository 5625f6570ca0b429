"""The way out of a hospital whose network lets nobody out but through an HTTP proxy.

A proxy is asked to `CONNECT` (RFC 9110, section 9.3.6) and from then on carries bytes: TLS goes through it unopened,
to the coordinator itself, whose certificate is checked as without one. The proxy learns the coordinator's name, when
there is a connection, and how many bytes cross it.

Invariants: a site's proxy is what its administrator wrote into `node.toml`, whatever `https_proxy` and `no_proxy` say;
where there is one, nothing goes out beside it, names of hosts to look up included. None takes a password: it would
have to lie where the node, which is counted as lost, can read it.

Leaves to others: the same for gRPC, which does it by itself when told to (`tls.open_channel`).
"""

import re
import socket
import time
from typing import Annotated

from pydantic import AfterValidator

_MAX_HEAD_BYTES = 8 * 2**10
_FORM = re.compile(r"http://([A-Za-z0-9.-]{1,253}):([0-9]{1,5})/?")


class ProxyRefused(OSError):
    """The proxy does not open a way there; `strerror` says what it answered."""


def split_proxy(proxy: str) -> tuple[str, int]:
    """Return host and port of a proxy.

    Args:
        proxy: `http://host:port`.

    Raises:
        ValueError: it is written in another way.

    Example:
        >>> split_proxy("http://proxy.hospital.example:3128")
        ('proxy.hospital.example', 3128)
    """
    found = _FORM.fullmatch(proxy)
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise ValueError("a proxy is written http://HOST:PORT, without a name or a password")
    return found[1], int(found[2])


def _checked(proxy: str) -> str:
    split_proxy(proxy)
    return proxy


Proxy = Annotated[str, AfterValidator(_checked)]
"""`http://host:port`."""


def connect(address: str, proxy: str | None, timeout_seconds: float) -> socket.socket:
    """Return a TCP connection to the coordinator, through the proxy where there is one.

    Args:
        address: `host:port` of the coordinator.
        proxy: `http://host:port`, None to connect directly.
        timeout_seconds: for each step; the socket keeps it.

    Raises:
        ProxyRefused: the proxy does not let this through.
        OSError: nobody answers.
    """
    host, _, port = address.rpartition(":")
    if proxy is None:
        return socket.create_connection((host, int(port)), timeout=timeout_seconds)
    connection = socket.create_connection(split_proxy(proxy), timeout=timeout_seconds)
    try:
        connection.sendall(f"CONNECT {address} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode("ascii"))
        _check_answer(_head(connection, time.monotonic() + timeout_seconds))
    except BaseException:
        connection.close()
        raise
    return connection


def _head(connection: socket.socket, deadline: float) -> bytes:
    """Read up to the empty line and not a byte further: what follows it belongs to TLS."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        part = connection.recv(1)
        if not part or len(head) >= _MAX_HEAD_BYTES or time.monotonic() > deadline:
            raise ProxyRefused(None, "the proxy does not answer as one")
        head += part
    return head


def _check_answer(head: bytes) -> None:
    words = head.split(b"\r\n", 1)[0].split(b" ", 2)
    code = words[1] if len(words) > 1 and words[0].startswith(b"HTTP/1.") else b""
    if not re.fullmatch(rb"2[0-9]{2}", code):
        said = code.decode("ascii") if re.fullmatch(rb"[0-9]{3}", code) else "no HTTP status"
        raise ProxyRefused(None, f"the proxy answers {said}")
