"""`/oauth2/token`: an API key becomes a short-lived access token (RFC 6749 §4.4)."""

import base64
import binascii

from fastapi import APIRouter, Request, Response
from starlette.datastructures import FormData

from app.dependencies import ServicesDep
from app.forms import form
from app.schemas import Token, refusals
from keys.errors import InvalidCredential, InvalidGrant

router = APIRouter(prefix="/oauth2", tags=["tokens"])
FORM = {
    "required": True,
    "content": {
        "application/x-www-form-urlencoded": {
            "schema": {
                "type": "object",
                "required": ["grant_type"],
                "properties": {
                    "grant_type": {"type": "string", "enum": ["client_credentials"]},
                    "client_id": {"type": "string", "description": "key id, unless given by HTTP Basic"},
                    "client_secret": {"type": "string", "description": "API key, unless given by HTTP Basic"},
                    "scope": {"type": "string", "description": "space-separated; all of the key's when left out"},
                },
            }
        }
    },
}


@router.post(
    "/token",
    openapi_extra={"requestBody": FORM},
    responses=refusals("invalid-request", "invalid-credential", "body-too-large", "store-unavailable"),
)
async def token(request: Request, response: Response, services: ServicesDep) -> Token:
    """Exchange key id and API key, by HTTP Basic or in the form, for an access token."""
    response.headers["Cache-Control"] = "no-store"
    async with form(request, max_files=0) as fields:
        grant_type, scope = _field(fields, "grant_type"), _field(fields, "scope")
        if grant_type is None:
            raise InvalidGrant("invalid_request", "grant_type is missing; send application/x-www-form-urlencoded")
        if grant_type != "client_credentials":
            raise InvalidGrant("unsupported_grant_type", "grant_type must be client_credentials")
        client_id, client_secret = _client(request, fields)
    access_token, lifetime_s, scopes = await services.keys.token(client_id, client_secret, scope)
    return Token(access_token=access_token, expires_in=lifetime_s, scope=" ".join(scopes))


def _field(fields: FormData, name: str) -> str | None:
    values = fields.getlist(name)
    if len(values) > 1:
        raise InvalidGrant("invalid_request", f"{name} is given twice")
    return values[0] if values and isinstance(values[0], str) else None


def _client(request: Request, fields: FormData) -> tuple[str, str]:
    """Client id and secret, given in exactly one of the two ways (RFC 6749 §2.3)."""
    client_id, client_secret = _field(fields, "client_id"), _field(fields, "client_secret")
    headers = request.headers.getlist("authorization")
    if not headers:
        return client_id or "", client_secret or ""
    if len(headers) > 1:
        raise InvalidCredential
    scheme, _, encoded = headers[0].partition(" ")
    if client_secret is not None:
        raise InvalidGrant("invalid_request", "the client authenticates in two ways")
    try:
        name, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")
    except (binascii.Error, ValueError):
        raise InvalidCredential from None
    if scheme.lower() != "basic" or not colon:
        raise InvalidCredential
    return name, secret
