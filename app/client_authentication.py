"""Who asks under `/oauth2`: a key's holder with its id and API key (RFC 6749 §2.3.1), or an admin by Bearer.

Knows the ways in which they are presented; whether they are good is the key service's question.
"""

import base64
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import FormData

from app.dependencies import BEARER, OriginDep, ServicesDep, check_kind, key_of, noted, right
from app.errors import InvalidRequest
from app.forms import form, text_field
from app.pipeline import Services
from keys.errors import InvalidCredential
from keys.records import KeyRecord, Origin

BASIC = "basic"


async def _fields(request: Request) -> AsyncIterator[FormData]:
    async with form(request, max_files=0) as fields:
        yield fields


Fields = Annotated[FormData, Depends(_fields)]


async def _client(request: Request, fields: Fields, origin: OriginDep, services: ServicesDep) -> KeyRecord:
    """The key whose id and API key came by HTTP Basic or in the form."""
    presented = _authorization(request, fields)
    if presented is None:
        pair = text_field(fields, "client_id") or "", text_field(fields, "client_secret") or ""
        return await _owner(services, origin, *pair)
    scheme, credential = presented
    if scheme != BASIC:
        raise InvalidCredential
    return await _owner(services, origin, *_pair(credential))


async def _client_or_admin(request: Request, fields: Fields, origin: OriginDep, services: ServicesDep) -> KeyRecord:
    """The same, or the key of an admin that presents its API key as everywhere else."""
    presented = _authorization(request, fields)
    if presented is None or presented[0] != BEARER:
        return await _client(request, fields, origin, services)
    key = key_of(noted(await services.keys.authenticate(presented[1], origin)))
    await check_kind(key, "admin", origin, services, "this needs an admin key, or a client's id and API key")
    return key


async def _owner(services: Services, origin: Origin, client_id: str, client_secret: str) -> KeyRecord:
    """The key that both belong to; an access token is no client secret."""
    caller = noted(await services.keys.authenticate(client_secret, origin))
    if caller.key is None or caller.key.id != client_id or not caller.proof.digest:
        raise InvalidCredential
    return caller.key


def _authorization(request: Request, fields: Fields) -> tuple[str, str] | None:
    """Scheme and credential of the header, None without one.

    Raises:
        InvalidCredential: there are two, so that nobody checks the one and believes the other.
        InvalidRequest: there is a secret in the form, too (RFC 6749 §2.3).
    """
    headers = request.headers.getlist("authorization")
    if len(headers) > 1:
        raise InvalidCredential
    if headers and text_field(fields, "client_secret") is not None:
        raise InvalidRequest("the client authenticates in two ways")
    scheme, _, credential = (headers or [""])[0].partition(" ")
    return (scheme.lower(), credential.strip()) if headers else None


def _pair(credential: str) -> tuple[str, str]:
    """Id and secret of an HTTP Basic credential (RFC 7617).

    OAuth has both form-encoded first; the characters of ids and API keys stay themselves in that encoding.
    """
    try:
        name, colon, secret = base64.b64decode(credential, validate=True).decode("ascii").partition(":")
    except ValueError:
        raise InvalidCredential from None
    if not colon:
        raise InvalidCredential
    return name, secret


Client = Annotated[KeyRecord, Depends(right(_client))]
ClientOrAdmin = Annotated[KeyRecord, Depends(right(_client_or_admin))]
