"""A change of the admin plane as a request. Knows JSON and the Idempotency-Key; knows no key."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import httpx

from sdb_client.transport.request import JSON, Request, as_json, named, path

T = TypeVar("T")


def change(
    answer: Callable[[httpx.Response], T],
    *segments: str,
    document: object | None = None,
    query: Mapping[str, object] = {},
    if_match: str | None = None,
    idempotency_key: str | None = None,
    method: str = "POST",
) -> Request[T]:
    """A request that changes what is at the path of these segments below `/admin/v1`."""
    headers = named(idempotency_key) | ({} if if_match is None else {"If-Match": if_match})
    content = None
    if document is not None:
        content, headers = as_json(document), headers | JSON
    return Request(method, path("admin", "v1", *segments), answer, query=query, headers=headers, content=content)
