"""What every request passes and every answer carries: it is for a browser of this machine, and no other page.

| danger | answer |
|---|---|
| a foreign name that points here (DNS rebinding) | the Host header must be one of the page's own |
| a foreign page that sends a form or reads an answer | Origin and Sec-Fetch-Site; SameSite cookies; forms' marks |
| a text of a document or a question that is HTML | escaped by the templates; no script and no foreign address at all |
| what was read stays in the browser's or a proxy's store | no-store |
| an error that tells what was asked or found | its class's name alone is in the log |
"""

import logging
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_LOG = logging.getLogger(__name__)

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


class Guard:
    """Stands before the whole page.

    Args:
        app: the page.
        port: where it listens.
        broken: makes the answer where the page failed.
    """

    def __init__(self, app: ASGIApp, port: int, broken: Callable[[Request], Response]) -> None:
        self._app, self._broken = app, broken
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun = False

        async def guarded(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        if why := self._refusal(Headers(scope=scope), scope["method"]):
            await PlainTextResponse(why, status_code=421 if "address" in why else 403)(scope, receive, guarded)
            return
        try:
            await self._app(scope, receive, guarded)
        except Exception as error:  # whatever it is, it may hold a question or a patient's text
            _LOG.error("the page failed: %(error)s", {"error": error})
            if not begun:
                await self._broken(Request(scope, receive))(scope, receive, guarded)

    def _refusal(self, headers: Headers, method: str) -> str:
        if headers.getlist("host") == [] or not set(headers.getlist("host")) <= self._hosts:
            return "This page answers under its own address alone.\n"
        is_own = headers.get("sec-fetch-site", "same-origin") in ("same-origin", "none")
        if method in ("GET", "HEAD"):
            # A link may lead here; a picture or a frame of another page may not make this one search.
            led = (headers.get("sec-fetch-mode", "navigate"), headers.get("sec-fetch-dest", "document"))
            return "" if is_own or led == ("navigate", "document") else "Another page may load nothing from here.\n"
        origin = headers.get("origin")
        if origin is not None and origin.removeprefix("http://") not in self._hosts:
            return "Another page may send nothing here.\n"
        return "" if is_own else "Another page may send nothing here.\n"
