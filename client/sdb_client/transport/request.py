"""A request before it is sent, and how its answer is read: plain data that both clients send alike.

Knows paths, JSON and headers; sends nothing.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
import msgspec

from sdb_client.errors import SdbError, UnexpectedAnswer

JSON = {"Content-Type": "application/json"}
IDEMPOTENCY_KEY = "Idempotency-Key"
VISIBLE = re.compile("[!-~]{1,255}")

T = TypeVar("T")
Part = tuple[str, tuple[str, bytes]]


@dataclass(frozen=True)
class Request(Generic[T]):
    """What is asked of the server; `answer` reads what it says. Sent again, it is the same in every byte."""

    method: str
    path: str
    answer: Callable[[httpx.Response], T]
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    form: Mapping[str, str] | None = None
    parts: Sequence[Part] | None = None
    basic: tuple[str, str] | None = field(default=None, repr=False)
    """Name and secret of HTTP Basic, for the one request that presents a credential in this way."""


def path(*segments: str) -> str:
    """A path of these segments, each quoted: no name leads out of its place."""
    return "".join(f"/{quote(segment, safe='')}" for segment in segments)


def given(**parameters: object) -> dict[str, Any]:
    """The parameters that are not None."""
    return {name: value for name, value in parameters.items() if value is not None}


def as_json(document: object) -> bytes:
    """A document as JSON; times in ISO 8601."""
    return msgspec.json.encode(document)


def named(idempotency_key: str | None) -> dict[str, str]:
    """The header that makes a retry the same request; a new name if the caller has not given one.

    Raises:
        SdbError: a name that no header can hold.
    """
    name = uuid4().hex if idempotency_key is None else idempotency_key
    if not VISIBLE.fullmatch(name):
        raise SdbError("an idempotency key is 1 to 255 visible characters of ASCII")
    return {IDEMPOTENCY_KEY: name}


def reader(expected: type[T]) -> Callable[[httpx.Response], T]:
    """Reads a JSON answer as a dataclass: fields that it does not know are passed over."""
    return lambda response: read(response.content, expected)


def read(document: bytes | memoryview | str, expected: type[T]) -> T:
    """JSON as a dataclass.

    Raises:
        UnexpectedAnswer: it is no JSON, or nested too deep; a field is missing, or one is of another type.
    """
    try:
        return msgspec.json.decode(document, type=expected)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnexpectedAnswer(f"the server's {expected.__name__} cannot be read: {error}") from error
