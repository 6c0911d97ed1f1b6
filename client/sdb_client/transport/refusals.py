"""An answer that is a refusal, as the error that the caller gets. Knows RFC 9457."""

from typing import Any

import httpx

from sdb_client.errors import BY_CODE, APIError, UnexpectedAnswer
from sdb_client.transport.request import read
from sdb_client.transport.retries import now, retry_after


def refusal(response: httpx.Response) -> APIError:
    """The error for an answer whose status is no success; whatever its body is, a proxy's page included."""
    told = _problem(response.content)
    code = _text(told.get("code"))
    return BY_CODE.get(code or "", APIError)(
        response.status_code,
        code=code,
        title=_text(told.get("title")) or response.reason_phrase,
        detail=_text(told.get("detail")) or "",
        request_id=_text(told.get("request_id")) or response.headers.get("X-Request-ID"),
        retry_after=retry_after(response.headers, now()),
    )


def _problem(content: bytes) -> dict[str, Any]:
    try:
        return read(content, dict)
    except UnexpectedAnswer:
        return {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
