"""A server whose answers a test writes down, and both clients before it: every law holds for each."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

import httpx
from sdb_client import AsyncClient, Client

URL = "http://box"
API_KEY = "sdb_cli_0123456789abcdefghijABCDEFGHIJ0123456789"
ADMIN_KEY = "sdb_adm_0123456789abcdefghijABCDEFGHIJ0123456789"

Answer = httpx.Response | Exception
Answering = Callable[[httpx.Request], Answer]


def answer(document: object, status: int = 200, **headers: str) -> httpx.Response:
    """JSON with a status; underscores in the names of headers are hyphens."""
    return httpx.Response(status, json=document, headers={name.replace("_", "-"): headers[name] for name in headers})


def refusal(code: str, status: int, **headers: str) -> httpx.Response:
    """A problem as the server writes it."""
    body = {"code": code, "status": status, "title": "A title", "detail": f"about {code}", "request_id": "r-1"}
    return answer(body, status, **headers)


@dataclass
class Box:
    """Answers by what a test says, and remembers what was asked."""

    answering: Answering
    asked: list[httpx.Request] = field(default_factory=list)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        found = self.answering(request)
        if isinstance(found, Exception):
            raise found
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)  # each is read once

    @classmethod
    def of(cls, *answers: Answer) -> "Box":
        """One that gives these answers one after the other, and the last of them for ever."""
        left = list(answers)
        return cls(lambda _: left.pop(0) if len(left) > 1 else left[0])

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [request.url.raw_path.decode() for request in self.asked]

    @property
    def credentials(self) -> list[str | None]:
        """What was presented, in order."""
        return [request.headers.get("Authorization") for request in self.asked]


Asking = Callable[..., Any]


def blocking(box: Box, act: Callable[[Client], Any], **options: object) -> Any:  # noqa: ANN401
    """What `act` gets of a blocking client before the box; an iterator as a list."""
    with httpx.Client(transport=httpx.MockTransport(box)) as http:
        given: dict[str, Any] = {"api_key": "", "base_url": URL, "http_client": http} | options
        client = Client(**given)
        found = act(client)
        return list(found) if isinstance(found, Iterator) else found


def awaiting(box: Box, act: Callable[[AsyncClient], Any], **options: object) -> Any:  # noqa: ANN401
    """The same of an awaiting client."""

    async def ask() -> Any:  # noqa: ANN401
        async with httpx.AsyncClient(transport=httpx.MockTransport(box)) as http:
            given: dict[str, Any] = {"api_key": "", "base_url": URL, "http_client": http} | options
            client = AsyncClient(**given)
            found = act(client)
            if isinstance(found, AsyncIterator):
                return [item async for item in found]
            return await found if isawaitable(found) else found

    return asyncio.run(ask())


BOTH: list[Asking] = [blocking, awaiting]
