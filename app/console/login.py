"""`/console/login` and `/console/logout`.

Knows how a session begins and ends; every refused login reads alike.
"""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from app.console import cookies
from app.console.access import VisitorForm, from_here, repeats, sent
from app.console.errors import ForgedForm
from app.console.rendering import render
from app.console.routing import LOGIN, PageRoute
from app.dependencies import Everybody, OriginDep, ServicesDep, key_of
from app.forms import form
from app.pipeline import Services
from keys.addresses import network_of
from keys.errors import InvalidCredential
from keys.material import check_api_key
from keys.records import KeyKind, Origin, RateLimit

HOMES: dict[KeyKind, str] = {"admin": "/console", "client": "/console/me"}
# A path of the console and nothing else: no host, no scheme, no backslash, no dots that climb.
OF_THE_CONSOLE = re.compile(r"/console(/[A-Za-z0-9_-]+)*(\?[A-Za-z0-9_.=&%+-]*)?", re.ASCII)
REFUSED = "This API key is not valid."
ATTEMPTS = RateLimit(name="logins", limit=20, window_s=60)  # from one address

router = APIRouter(prefix="/console", include_in_schema=False, route_class=PageRoute)


@router.get("/login", dependencies=[Everybody])
async def login_page(request: Request, there: Annotated[str, Query(alias="next")] = "", done: str = "") -> Response:
    """The form."""
    return _form(request, there, logged_out=done == "log-out")


@router.post("/login", dependencies=[Everybody])
async def log_in(request: Request, origin: OriginDep, services: ServicesDep) -> Response:
    """Begin a session with an API key; whatever is wrong with the key, the answer is the same."""
    from_here(request)
    async with form(request, max_files=0) as fields:
        if not repeats(sent(fields, "ticket"), cookies.read(request, cookies.LOGIN)):
            raise ForgedForm("the login page was left open too long, or cookies are off; load it again")
        api_key, there = (sent(fields, name) for name in ("api_key", "next"))
    await services.keys.pass_window(f"login {network_of(origin.address)}", ATTEMPTS, 1)
    try:
        return await _begin(request, services, origin, api_key, there)
    except InvalidCredential:
        await services.keys.sessions.refused(origin)
        return _form(request, there, refused=REFUSED)


async def _begin(request: Request, services: Services, origin: Origin, api_key: str, there: str) -> Response:
    check_api_key(api_key)  # an access token has fewer rights than its key, so it opens no session
    key = key_of(await services.keys.authenticate(api_key, origin))
    await services.keys.sessions.end(cookies.read(request, cookies.SESSION))
    allowed = key.kind == "admin" and OF_THE_CONSOLE.fullmatch(there)
    answer = RedirectResponse(there if allowed else HOMES[key.kind], 303, {"Cache-Control": "no-store"})
    cookies.give(request, answer, cookies.SESSION, await services.keys.sessions.start(key, origin))
    cookies.take(request, answer, cookies.LOGIN)
    return answer


@router.post("/logout")
async def log_out(request: Request, _: VisitorForm, services: ServicesDep) -> Response:
    """End the session, in the store and in the browser."""
    await services.keys.sessions.end(cookies.read(request, cookies.SESSION))
    answer = RedirectResponse(f"{LOGIN}?done=log-out", 303, {"Cache-Control": "no-store"})
    cookies.take(request, answer, cookies.SESSION)
    return answer


def _form(request: Request, there: str, *, refused: str = "", logged_out: bool = False) -> Response:
    ticket = cookies.read(request, cookies.LOGIN) or cookies.ticket()  # two tabs share it
    page = render(
        "login.html",
        None,
        status=401 if refused else 200,
        ticket=ticket,
        there=there if OF_THE_CONSOLE.fullmatch(there) else "",
        refused=refused,
        logged_out=logged_out,
    )
    cookies.give(request, page, cookies.LOGIN, ticket)
    return page
