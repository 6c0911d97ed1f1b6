"""Rights as types: a route that takes an `AdminCaller` cannot be reached without being an admin."""

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from app.pipeline import Services
from keys.errors import InvalidCredential, MissingScope
from keys.records import Caller

BEARER = "bearer"


def _services(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(_services)]


# For the OpenAPI document alone: `_presented` judges the header itself, since a bad one must never count as none.
DOCUMENTED = HTTPBearer(auto_error=False, description="API key, or access token from /oauth2/token")
Documented = Annotated[object, Depends(DOCUMENTED)]


async def _presented(request: Request, services: ServicesDep, _: Documented) -> Caller | None:
    """The caller behind the Authorization header, None without one; a header that is not valid is refused."""
    headers = request.headers.getlist("authorization")
    if not headers:
        return None
    scheme, _, credential = headers[0].partition(" ")
    if len(headers) > 1 or scheme.lower() != BEARER or not credential.isascii():
        raise InvalidCredential
    return await services.keys.authenticate(credential.strip())


Presented = Annotated[Caller | None, Depends(_presented)]


def _key_holder(caller: Presented) -> Caller:
    if caller is None:
        raise InvalidCredential
    return caller


def _data_plane(caller: Presented, services: ServicesDep) -> Caller:
    if caller is None:
        if not services.settings.anonymous:
            raise InvalidCredential
        return Caller()
    if caller.key is not None and caller.key.kind == "admin":
        raise MissingScope("admin keys do not predict; issue a client key")
    return caller


def _admin(caller: Annotated[Caller, Depends(_key_holder)]) -> Caller:
    if caller.key is None or caller.key.kind != "admin":
        raise MissingScope("this needs an admin key")
    return caller


KeyHolder = Annotated[Caller, Depends(_key_holder)]
AnyCaller = Annotated[Caller, Depends(_data_plane)]
AdminCaller = Annotated[Caller, Depends(_admin)]
