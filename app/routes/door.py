"""A door of predictions: documented and right-checked as every route is, run without what FastAPI does for any route.

Knows what each of these doors needs, and that it reads its body itself; knows no model and no protocol. To solve the
dependencies of one takes FastAPI several times as long as the door itself does; here the same functions are called.
"""

import inspect
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from app.dependencies import idempotency_key_of, predicting, services_of

NEEDS = {"request", "caller", "services", "idempotency_key"}


class Door(APIRoute):
    """A route whose endpoint takes what is in NEEDS, its caller by the right `predicting`, and makes its own response.

    Under FastAPI's own class of routes the same endpoint gives the same answers.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:  # noqa: ANN401 - handed through
        """A route as FastAPI's.

        Raises:
            AssertionError: the endpoint needs something else, or does not ask who calls.
        """
        super().__init__(*arguments, **options)
        asked = {dependency.call for dependency in self.dependant.dependencies}
        if set(inspect.signature(self.endpoint).parameters) != NEEDS or predicting not in asked:
            raise AssertionError(f"{self.path} is no door of predictions")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI: answer the request that this route was matched with."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)  # which refuses it
            return
        request = Request(scope, receive, send)
        caller = await predicting(request)
        services = await services_of(request)
        response = await self.endpoint(
            request=request, caller=caller, services=services, idempotency_key=idempotency_key_of(request)
        )
        await response(scope, receive, send)
