"""`/metrics`: what the server has counted, for Prometheus, and who may read it."""

import hmac
from ipaddress import ip_address

import anyio.to_thread
from fastapi import APIRouter, Depends, Request, Response

from app.dependencies import Credential, OriginDep, ServicesDep, right
from app.schemas import refusals
from app.settings import Settings
from keys.errors import InvalidCredential, MissingScope

FORWARDED = {"forwarded", "x-forwarded-for", "x-real-ip", "via"}
router = APIRouter(tags=["health"])


@right
async def _reader(request: Request, credential: Credential, origin: OriginDep, services: ServicesDep) -> None:
    """A caller of this machine or anybody, as `SDB_METRICS` says; who has the token for it; an admin."""
    if credential is None:
        if not _open_to(request, services.settings):
            raise InvalidCredential
        return
    token = services.settings.metrics_token.get_secret_value()
    if token and hmac.compare_digest(credential.encode(), token.encode()):
        return
    caller = await services.keys.authenticate(credential, origin)
    if caller.key is not None and caller.key.kind != "admin":
        await services.keys.refused(caller.key.id, "", MissingScope.code, origin)
        raise MissingScope("this needs an admin key, or the token of SDB_METRICS_TOKEN")


def _open_to(request: Request, settings: Settings) -> bool:
    """Whether this caller needs no credential; one whom a proxy passed on is not of this machine, if it seems so."""
    if settings.metrics != "loopback":
        return settings.metrics == "everybody"
    local = request.client is not None and ip_address(request.client.host).is_loopback
    return local and not FORWARDED & set(request.headers)


@router.get(
    "/metrics",
    dependencies=[Depends(_reader)],
    response_class=Response,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}}},
        **refusals("invalid-credential", "missing-scope", "store-unavailable"),
    },
)
async def metrics(request: Request, services: ServicesDep) -> Response:
    """The metrics of all processes of this server, in Prometheus' text format or in OpenMetrics."""
    services.metrics.refresh()
    text, media_type = await anyio.to_thread.run_sync(services.metrics.text, request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
