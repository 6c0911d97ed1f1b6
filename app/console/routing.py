"""Refusals as pages: a route of the console answers with HTML whatever goes wrong on the way.

Knows errors and where the login is; which right a page needs is in `access`.
"""

from collections.abc import Callable, Coroutine, Mapping
from typing import Any
from urllib.parse import urlencode

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from app.console.errors import PAGE_STATUS, SessionOver, StaleForm
from app.console.rendering import render
from app.errors import HEADERS, RequestError, explain, never_or_after
from keys.errors import IdempotencyMismatch, KeyServiceError, RateLimited

LOGIN = "/console/login"
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class PageRoute(APIRoute):
    """A route whose refusals are pages, and which sends those without a session to the login."""

    def get_route_handler(self) -> Handler:
        """See FastAPI: custom request and route classes."""
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handle(request)
            except SessionOver:
                return _to_login(request)
            except IdempotencyMismatch:
                return _refusal(request, StaleForm.code, "this form was sent before, with other values; load it again")
            except RequestValidationError as error:
                return _refusal(request, "invalid-request", explain(error.errors()))
            except HTTPException as error:  # a form with too many fields
                return _refusal(request, "invalid-request", str(error.detail))
            except (RequestError, KeyServiceError) as error:
                headers = never_or_after(error.retry_after_s) if isinstance(error, RateLimited) else {}
                return _refusal(request, error.code, str(error), headers)

        return answer


def _refusal(request: Request, code: str, detail: str, headers: Mapping[str, str] = {}) -> Response:
    request.scope["code"] = code
    status, title = PAGE_STATUS[code]
    page = render(
        "refusal.html", None, status=status, title=title, detail=detail, request_id=request.scope["request_id"]
    )
    page.headers.update({**HEADERS.get(code, {}), **headers})
    return page


def _to_login(request: Request) -> Response:
    """To the login, and back again afterwards if the page can simply be asked for again."""
    query = request.scope["query_string"].decode("latin-1")  # `request.url` cannot be had of one that is not UTF-8
    there = request.scope["path"] + (f"?{query}" if query else "")
    address = f"{LOGIN}?{urlencode({'next': there})}" if request.method == "GET" else LOGIN
    if "hx-request" in request.headers:  # a script's request would put the login page inside the page it is on
        return Response(status_code=204, headers={"HX-Redirect": address, "Cache-Control": "no-store"})
    return RedirectResponse(address, 303, {"Cache-Control": "no-store"})
