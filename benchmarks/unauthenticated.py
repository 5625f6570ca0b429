"""Strangers who send a coordinator bytes without being let in; what they do to it is for others to measure."""

import contextlib
import socket
import ssl
from collections.abc import Callable

CONNECTIONS = 64
"""At a time: each stranger keeps them open while the rest is sent."""
_HTTP2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000")
_TLS_RECORD = bytes.fromhex("1603014000") + bytes(0x4000)
"""A handshake record of the largest size; the coordinator expects a ClientHello of some hundred bytes."""


def bytes_sent_by_strangers(port: int, at_least: int) -> dict[str, int]:
    """Send bytes over plain TCP, half a handshake, and TLS without a certificate, and return how many were taken.

    Args:
        port: of the coordinator on this machine.
        at_least: how many bytes the coordinator's machine must have taken from each.
    """
    return {
        "as plain HTTP/2": _send(port, at_least, lambda plain: plain, _HTTP2 + bytes(2**16)),
        "as an endless handshake": _send(port, at_least, lambda plain: plain, _TLS_RECORD),
        "after a handshake without certificate": _send(port, at_least, _without_certificate, _HTTP2 + bytes(2**16)),
    }


def _without_certificate(plain: socket.socket) -> socket.socket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(plain)


def _send(port: int, at_least: int, over: Callable[[socket.socket], socket.socket], data: bytes) -> int:
    taken = 0
    with contextlib.ExitStack() as opened:
        connections: list[socket.socket] = []
        while taken < at_least:
            if len(connections) == CONNECTIONS:
                connections.pop(0).close()
            try:
                plain = socket.create_connection(("127.0.0.1", port), timeout=0.5)
                connection = opened.enter_context(over(plain))
                connections.append(connection)
            except OSError:
                continue
            mine = 0
            with contextlib.suppress(OSError):
                while mine < 2**23 and taken + mine < at_least:
                    connection.sendall(data)
                    mine += len(data)
            taken += mine
    return taken
