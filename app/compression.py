"""Answers that leave compressed: large ones of the data plane, for callers that ask.

Knows ASGI. The admin plane and the pages hold secrets beside what a caller chose, and what such an answer shrinks to
tells of the secret (BREACH): they leave as they are.
"""

import re

from starlette.datastructures import Headers
from starlette.middleware.gzip import GZipMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

DATA_PLANE = ("/v1/models", "/v2/", "/hf/")
WORTH_BYTES = 2**16  # below, a network that is worth serving images over sends it sooner than it is compressed
FASTEST = 1  # numbers shrink by half at any level
REFUSED = re.compile(r"gzip\s*;\s*q=0(\.0*)?\s*(,|$)")


class Compressed:
    """The application, with such answers in gzip."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain, self._gzip = app, GZipMiddleware(app, minimum_size=WORTH_BYTES, compresslevel=FASTEST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        eligible = scope["type"] == "http" and scope["path"].startswith(DATA_PLANE)
        accepted = Headers(scope=scope).get("accept-encoding", "") if eligible else ""
        if "gzip" in accepted and not REFUSED.search(accepted):
            await self._gzip(scope, receive, send)
        else:
            await self._plain(scope, receive, send)
