"""`/metrics`: what the server has counted, for Prometheus, and who may read it."""

import hmac

import anyio.to_thread
from fastapi import APIRouter, Depends, Request, Response

from app.dependencies import Credential, OriginDep, ServicesDep, check_kind, key_of, right
from app.schemas import refusals
from app.settings import Settings
from keys.addresses import of_this_machine
from keys.errors import InvalidCredential

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
    key = key_of(await services.keys.authenticate(credential, origin))
    await check_kind(key, "admin", origin, services, "this needs an admin key, or the token of SDB_METRICS_TOKEN")


def _open_to(request: Request, settings: Settings) -> bool:
    """Whether this caller needs no credential; one whom a proxy passed on is not of this machine, if it seems so."""
    if settings.metrics != "loopback":
        return settings.metrics == "everybody"
    if request.client is None or FORWARDED & set(request.headers):
        return False  # what a proxy says of the address may be anything
    return of_this_machine(request.client.host)


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
