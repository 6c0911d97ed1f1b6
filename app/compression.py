"""Answers that leave compressed: large ones of the data plane, for callers that ask.

Which answer is large, its head says: what is small costs next to nothing here.

Knows ASGI. The admin plane and the pages hold secrets beside what a caller chose, and what such an answer shrinks to
tells of the secret (BREACH): they leave as they are.
"""

import re

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipResponder
from starlette.types import ASGIApp, Message, Receive, Scope, Send

DATA_PLANE = ("/v1/models", "/v2/", "/hf/")
WORTH_BYTES = 2**16  # below, a network that is worth serving images over sends it sooner than it is compressed
FASTEST = 1  # numbers shrink by half at any level
REFUSED = re.compile(r"gzip\s*;\s*q=0(\.0*)?\s*(,|$)")


class Compressed:
    """The application, with such answers in gzip."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        eligible = scope["type"] == "http" and scope["path"].startswith(DATA_PLANE)
        accepted = Headers(scope=scope).get("accept-encoding", "") if eligible else ""
        if "gzip" in accepted and not REFUSED.search(accepted):
            send = _chosen(self._app, send)
        await self._app(scope, receive, send)


def _chosen(app: ASGIApp, plain: Send) -> Send:
    """`plain`, by which a large answer of the application leaves in gzip."""
    chosen: Send | None = None

    async def send(message: Message) -> None:
        nonlocal chosen
        if chosen is None:
            chosen = plain if _small(message) else _gzip(app, plain)
        await chosen(message)

    return send


def _small(head: Message) -> bool:
    """Whether the head of an answer says so; one of unknown length is not."""
    return any(name == b"content-length" and int(value) < WORTH_BYTES for name, value in head.get("headers", ()))


def _gzip(app: ASGIApp, send: Send) -> Send:
    responder = GZipResponder(app, WORTH_BYTES, FASTEST)
    responder.send = send
    return responder.send_with_compression
