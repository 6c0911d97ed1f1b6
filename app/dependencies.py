"""Rights as types: a route that takes an `AdminCaller` cannot be reached without being an admin.

Whoever may be asked is said by each route: `check_rights` refuses to build an application with one that does not.
All of them are coroutines: FastAPI hands any other function to a thread, which takes longer than all of this.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute, iter_route_contexts
from fastapi.security import HTTPBearer
from starlette.routing import BaseRoute

from app.errors import InvalidRequest
from app.journal import current
from app.pipeline import Services
from keys.errors import InvalidCredential, MissingScope
from keys.records import Act, Caller, KeyKind, KeyRecord, Origin

BEARER = "bearer"
RIGHTS: set[Callable[..., Any]] = set()


def right(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """Declare that a dependency says who may reach a route."""
    RIGHTS.add(dependency)
    return dependency


def check_rights(routes: Sequence[BaseRoute]) -> None:
    """Deny by default.

    Raises:
        AssertionError: a route depends on no right.
    """
    for route in iter_route_contexts(routes):
        if isinstance(route.original_route, APIRoute) and not _needed(route.dependant) & RIGHTS:
            raise AssertionError(f"{route.path} does not say who may reach it")


def _needed(dependant: Dependant) -> set[Callable[..., Any]]:
    calls = {dependant.call} if dependant.call else set()
    return calls.union(*(_needed(needed) for needed in dependant.dependencies))


async def services_of(request: Request) -> Services:
    """What the application was built of."""
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(services_of)]


async def _origin(request: Request) -> Origin:
    return Origin(request.scope["request_id"], request.client.host if request.client else None)


OriginDep = Annotated[Origin, Depends(_origin)]

# For the OpenAPI document alone: `_credential` judges the header itself, since a bad one must never count as none.
DOCUMENTED = HTTPBearer(auto_error=False, description="API key, or access token from /oauth2/token")
Documented = Annotated[object, Depends(DOCUMENTED)]


async def _credential(request: Request, _: Documented = None) -> str | None:
    """What the Authorization header presents, None without one; a header that is not valid is refused."""
    headers = request.headers.getlist("authorization")
    if not headers:
        return None
    scheme, _, credential = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != BEARER or not credential.isascii():
        raise InvalidCredential
    return credential.strip()


Credential = Annotated[str | None, Depends(_credential)]


async def _presented(credential: Credential, origin: OriginDep, services: ServicesDep) -> Caller | None:
    """The caller as the store knows it now."""
    return None if credential is None else noted(await services.keys.authenticate(credential, origin))


def noted(caller: Caller) -> Caller:
    """The same caller, whose key is from here on in what is known of the request."""
    if caller.key is not None:
        current().key_id = caller.key.id
    return caller


Presented = Annotated[Caller | None, Depends(_presented)]


@right
async def everybody() -> None:
    """Nobody is asked who they are."""


def key_of(caller: Caller | None) -> KeyRecord:
    """The key that a caller has presented.

    Raises:
        InvalidCredential: there is none.
    """
    if caller is None or caller.key is None:
        raise InvalidCredential
    return caller.key


@right
async def _key_holder(caller: Presented) -> KeyRecord:
    return key_of(caller)


KeyHolder = Annotated[KeyRecord, Depends(_key_holder)]


async def check_kind(key: KeyRecord, kind: KeyKind, origin: Origin, services: Services, needed: str) -> None:
    """Pass keys of one kind; that another one tried is written into the audit log.

    Raises:
        MissingScope: it is of another kind; `needed` is what is said of that.
    """
    if key.kind != kind:
        await services.keys.refused(key.id, "", MissingScope.code, origin)
        raise MissingScope(needed)


@right
async def _data_plane(caller: Presented, origin: OriginDep, services: ServicesDep) -> Caller:
    return _client(caller, origin, services)


@right
async def predicting(request: Request, _: Documented = None) -> Caller:
    """The caller as this process knows it; the store judges it when it is admitted, which an admin never is."""
    services, origin, credential = await services_of(request), await _origin(request), await _credential(request)
    caller = None
    if credential is not None:
        caller = await services.keys.recall(credential, origin)
        if caller.key is not None and caller.key.kind == "admin":
            caller = await services.keys.authenticate(credential, origin)
        noted(caller)
    return _client(caller, origin, services)


def _client(caller: Caller | None, origin: Origin, services: Services) -> Caller:
    if caller is None:
        if not services.settings.anonymous:
            raise InvalidCredential
        return Caller(origin=origin)
    if caller.key is not None and caller.key.kind == "admin":
        raise MissingScope("admin keys do not predict; issue a client key")
    return caller


@right
async def _admin(key: KeyHolder, origin: OriginDep, services: ServicesDep) -> KeyRecord:
    await check_kind(key, "admin", origin, services, "this needs an admin key")
    return key


AdminCaller = Annotated[KeyRecord, Depends(_admin)]


IDEMPOTENCY_KEY, LONGEST = "Idempotency-Key", 255
PRINTABLE = r"^[\x21-\x7e]+$"
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias=IDEMPOTENCY_KEY,
        min_length=1,
        max_length=LONGEST,
        pattern=PRINTABLE,
        description="a name for this request: repeated with it, it is done, and charged, once",
    ),
]


def idempotency_key_of(request: Request) -> str | None:
    """What the header says, if it is there.

    Raises:
        InvalidRequest: it is empty, too long, or not of printable ASCII characters.
    """
    name = request.headers.get(IDEMPOTENCY_KEY)
    if name is not None and not (len(name) <= LONGEST and re.fullmatch(PRINTABLE, name)):
        raise InvalidRequest(f"{IDEMPOTENCY_KEY}: 1 to {LONGEST} printable ASCII characters")
    return name


async def _act(admin: AdminCaller, origin: OriginDep, idempotency_key: IdempotencyKey = None) -> Act:
    return Act(admin.id, origin.request_id, origin.address, idempotency_key)


Everybody = Depends(everybody)
AnyCaller = Annotated[Caller, Depends(_data_plane)]
PredictingCaller = Annotated[Caller, Depends(predicting)]
Acting = Annotated[Act, Depends(_act)]
