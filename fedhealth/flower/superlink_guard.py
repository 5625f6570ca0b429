"""What stands before a stock SuperLink: nobody but its owner may tell it what to run.

A SuperLink of Flower 1.41 serves the Fleet, Runtime and Control API at one port, and without an account service anybody
who reaches it may use the Control API: start a bundle with code of the own choice, at the datacentre. Loopback keeps
the network out, but not another user of the same machine. So every Control call must show a secret that only the
coordinator can read, and no request may be larger than Flower's own programs make them (a body of 400 MiB from
anybody would fill memory before it is looked at).

Source: Flower's hook for extensions, `flwr.superlink.extensions.get_middleware`, which is private. That it works is
looked at each time a SuperLink has started, from outside (`superlink_control.is_guarded`).
"""

import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

SECRET_HEADER = "x-fedhealth-control"  # noqa: S105 - the name of a header
MAX_REQUEST_BYTES = 16 * 2**20
"""Flower's programs cut what is larger into objects of 5 MiB."""

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
        if not scope["path"].startswith(("/v1/fleet/", "/v1/runtime/", "/health")):
            # Everything else, whatever its spelling, belongs to the owner: the Control API and what is not there yet.
            shown = [value for name, value in headers if name == SECRET_HEADER.encode()]
            if len(shown) != 1 or not hmac.compare_digest(shown[0], self._secret):
                return 403
        return None


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
