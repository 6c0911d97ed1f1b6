"""`/oauth2`: an API key becomes a short-lived access token (RFC 6749 §4.4), which can be looked at and ended."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app.client_authentication import Client, ClientOrAdmin, Fields
from app.dependencies import Everybody, OriginDep, ServicesDep
from app.errors import InvalidRequest
from app.forms import text_field
from app.schemas import refusals
from app.token_schemas import GRANT, ActiveToken, AuthorizationServer, InactiveToken, Revoked, Token
from keys.errors import InvalidGrant
from keys.records import Act

REFUSALS = ("invalid-request", "invalid-credential", "body-too-large", "store-unavailable")
router = APIRouter(tags=["tokens"])


def _form(required: str, **described: str) -> dict[str, Any]:
    """What the OpenAPI document says of a form, beside the two fields that every one may have."""
    described |= {
        "client_id": "key id, unless given by HTTP Basic",
        "client_secret": "API key, unless given by HTTP Basic",
    }
    properties = {name: {"type": "string", "description": text} for name, text in described.items()}
    schema = {"type": "object", "required": [required], "properties": properties}
    return {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}}


OF_TOKEN = _form("token", token="an access token", token_type_hint="ignored: there is one kind")  # noqa: S106


@router.post(
    "/oauth2/token",
    openapi_extra=_form("grant_type", grant_type=GRANT, scope="space-separated; all of the key's when left out"),
    responses=refusals(*REFUSALS),
)
async def token(client: Client, fields: Fields, services: ServicesDep, response: Response) -> Token:
    """Exchange key id and API key, by HTTP Basic or in the form, for an access token."""
    response.headers["Cache-Control"] = "no-store"
    if _required(fields, "grant_type") != GRANT:
        raise InvalidGrant("unsupported_grant_type", f"grant_type must be {GRANT}")
    issued = services.keys.tokens.issue(client, text_field(fields, "scope"))
    return Token(access_token=issued.token, expires_in=issued.lifetime_s, scope=" ".join(issued.scopes))


@router.post("/oauth2/introspect", openapi_extra=OF_TOKEN, responses=refusals(*REFUSALS, "missing-scope"))
async def introspect(
    asker: ClientOrAdmin, fields: Fields, services: ServicesDep, response: Response
) -> ActiveToken | InactiveToken:
    """What a token may do now (RFC 7662): a client asks about its own, an admin about any.

    Clients authenticate as for a token; admins may present their API key as Bearer.
    """
    response.headers["Cache-Control"] = "no-store"
    claims = await services.keys.tokens.introspect(asker, _required(fields, "token"))
    return InactiveToken() if claims is None else ActiveToken.of(claims)


@router.post("/oauth2/revoke", openapi_extra=OF_TOKEN, responses=refusals(*REFUSALS, "missing-scope"))
async def revoke(asker: ClientOrAdmin, fields: Fields, services: ServicesDep, origin: OriginDep) -> Revoked:
    """End a token at once, on every replica (RFC 7009): a client its own, an admin any.

    A token that is not valid is as good as revoked. API keys are ended by `/admin/v1/keys/{key_id}/revoke`.
    """
    act = Act(asker.id, origin.request_id, origin.address)
    await services.keys.tokens.revoke(asker, _required(fields, "token"), act)
    return Revoked()


@router.get("/.well-known/oauth-authorization-server", dependencies=[Everybody])
async def metadata(request: Request, response: Response) -> AuthorizationServer:
    """Where OAuth 2.0 clients find the rest (RFC 8414), at the address that this request was sent to."""
    response.headers["Cache-Control"] = "no-store"  # a cache would tell one caller what another wrote into Host
    return AuthorizationServer.at(str(request.base_url).rstrip("/"))


def _required(fields: Fields, name: str) -> str:
    value = text_field(fields, name)
    if not value:
        raise InvalidRequest(f"{name} is missing; send application/x-www-form-urlencoded")
    return value
