"""Doors of predictions: documented and right-checked as every route is, run without what FastAPI does for any route.

Knows what each of these doors needs, and that it reads its body itself; knows no model and no protocol. To route a
request, to solve its dependencies and to see to its errors takes FastAPI several times as long as the door itself does;
here the same functions are called.
"""

import inspect
from collections.abc import Iterable
from typing import Any

from fastapi.routing import APIRoute, APIRouter
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from app.dependencies import idempotency_key_of, predicting, services_of
from app.errors import REFUSED, refusal

NEEDS, METHOD = {"request", "caller", "services", "idempotency_key"}, "POST"


class Door(APIRoute):
    """A route whose endpoint takes what is in NEEDS, its caller by the right `predicting`, and makes its own response.

    Under FastAPI alone the same endpoint gives the same answers.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - handed through
        """A route as FastAPI's.

        Raises:
            AssertionError: the endpoint needs something else, or does not ask who calls; or the method is another.
        """
        super().__init__(*arguments, **options)
        asked = {dependency.call for dependency in self.dependant.dependencies}
        needed = set(inspect.signature(self.endpoint).parameters)
        if needed != NEEDS or predicting not in asked or self.methods != {METHOD}:
            raise AssertionError(f"{self.path} is no door of predictions")

    async def answer(self, request: Request) -> Response:
        """What the endpoint answers, or raises."""
        caller, services = await predicting(request), await services_of(request)
        answer: Response = await self.endpoint(
            request=request, caller=caller, services=services, idempotency_key=idempotency_key_of(request)
        )
        return answer


class Doors:
    """The application, before which the doors of `routers` answer what is asked of them; all else is FastAPI's."""

    def __init__(self, app: ASGIApp, routers: Iterable[APIRouter]) -> None:
        self._app = app
        self._doors = [route for router in routers for route in router.routes if isinstance(route, Door)]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        door = self._asked(scope)
        if door is None:
            await self._app(scope, receive, send)
            return
        request = Request(scope, receive, send)
        try:
            answer = await door.answer(request)
        except REFUSED as error:
            answer = await refusal(request, error)
        await answer(scope, receive, send)

    def _asked(self, scope: Scope) -> Door | None:
        """The door that the request is at, which is from here on its route; behind a prefix, FastAPI finds it."""
        if scope["type"] != "http" or scope["method"] != METHOD or scope.get("root_path"):
            return None
        for door in self._doors:
            if named := door.path_regex.match(scope["path"]):
                scope["route"], scope["path_params"] = door, named.groupdict()
                return door
        return None
