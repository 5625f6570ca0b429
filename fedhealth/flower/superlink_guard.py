"""What stands before a stock SuperLink: nobody but its owner may tell it what to run.

A SuperLink of Flower 1.41 serves the Fleet, Runtime and Control API at one port, and without an account service anybody
who reaches it may use the Control API: start a bundle with code of the own choice, at the datacentre. Loopback keeps
the network out, but not another user of the same machine, who also reads on the command line of a ServerApp the token
with which that takes frames. So whoever asks must be a process of this user's, as the kernel says of its socket. Beside
that, every Control call must show a secret that only the coordinator can read, and no request may be larger than
Flower's own programs make them (a body of 400 MiB from anybody would fill memory before it is looked at).

Source: Flower's hook for extensions, `flwr.superlink.extensions.get_middleware`, which is private. That it works is
looked at each time a SuperLink has started, from outside (`superlink_control.is_guarded`).
"""

import hmac
import ipaddress
import os
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

SECRET_HEADER = "x-fedhealth-control"  # noqa: S105 - the name of a header
MAX_REQUEST_BYTES = 16 * 2**20
"""Flower's programs cut what is larger into objects of 5 MiB."""

_TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ADDRESS, _STATE, _USER = 1, 3, 7
_ESTABLISHED = "01"
_MAPPED = "0" * 16 + f"{int.from_bytes(bytes.fromhex('0000ffff'), sys.byteorder):08X}"
"""What stands before an IPv4 address in the table of IPv6."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class SuperLinkGuard:
    """ASGI middleware in front of a SuperLink.

    Args:
        app: the SuperLink.
        secret: what a Control call must show.
    """

    def __init__(self, app: App, secret: str) -> None:
        if len(secret) < 32:
            raise ValueError("a secret that can be guessed")
        self._app, self._secret = app, secret.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request that may not pass; hand on all others."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        status = self._refusal(scope) if scope["type"] == "http" else 403
        if status is None:
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _refusal(self, scope: Scope) -> int | None:
        headers: list[tuple[bytes, bytes]] = scope["headers"]
        sizes = [value for name, value in headers if name == b"content-length"]
        chunked = any(name == b"transfer-encoding" for name, _ in headers)
        if chunked or len(sizes) > 1 or (sizes and not (sizes[0].isdigit() and len(sizes[0]) < 20)):
            return 411
        if sizes and int(sizes[0]) > MAX_REQUEST_BYTES:
            return 413
        if any(name.startswith(b"x-forwarded") for name, _ in headers) or not is_own(scope):
            return 403  # by that header uvicorn believes who asks
        if not scope["path"].startswith(("/v1/fleet/", "/v1/runtime/", "/health")):
            # Everything else, whatever its spelling, belongs to the owner: the Control API and what is not there yet.
            shown = [value for name, value in headers if name == SECRET_HEADER.encode()]
            if len(shown) != 1 or not hmac.compare_digest(shown[0], self._secret):
                return 403
        return None


def is_own(scope: Scope) -> bool:
    """Say whether the other end of a request's connection is a socket of this process's user, on this machine.

    False too where the kernel's tables do not show it: it is gone, it is elsewhere, or `/proc` is not readable.

    Source: `Documentation/networking/proc_net_tcp.rst` of Linux: addresses are words in the machine's order of bytes.
    """
    try:
        ends = [f"{_word(host)}:{port:04X}" for host, port in (scope["client"], scope["server"])]
        for table, before in zip(_TABLES, ("", _MAPPED), strict=True):
            wanted = [before + end for end in ends]
            with table.open(encoding="ascii") as rows:
                for row in rows:
                    fields = row.split()
                    if fields[_ADDRESS : _STATE + 1] == [*wanted, _ESTABLISHED]:
                        return int(fields[_USER]) == os.getuid()
    except (OSError, ValueError, TypeError, LookupError):
        return False
    return False


def _word(host: str) -> str:
    return f"{int.from_bytes(ipaddress.IPv4Address(host).packed, sys.byteorder):08X}"


def install_guard(secret: str) -> None:
    """Have the SuperLink that starts in this process stand behind the guard.

    Args:
        secret: what its owner shows; at least 32 characters.
    """
    from flwr.superlink import extensions
    from starlette.middleware import Middleware

    before = extensions.get_middleware

    def guarded() -> tuple[Middleware, ...]:
        return (Middleware(SuperLinkGuard, secret=secret), *before())

    extensions.get_middleware = guarded
