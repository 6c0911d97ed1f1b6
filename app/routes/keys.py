"""`/admin/v1/keys` for admins, `/v1/keys/self` for whoever holds a key."""

import re
from typing import Annotated

from fastapi import APIRouter, Header, Query, Response

from app.dependencies import Acting, AdminCaller, KeyHolder, ServicesDep
from app.key_schemas import (
    ChangeKey,
    CreateKey,
    Key,
    KeyPage,
    Ledger,
    NewKey,
    RotatedKey,
    Rotation,
    TopUp,
    Usage,
    shown,
    shown_rotated,
)
from app.pipeline import Services
from app.routes import image_keys
from app.schemas import refusals
from keys.directory import MAX_LEDGER, MAX_PAGE
from keys.records import Bucket, KeyRecord

admin = APIRouter(prefix="/admin/v1/keys", tags=["keys"])
holder = APIRouter(prefix="/v1/keys", tags=["keys"])
READ = ("invalid-credential", "missing-scope", "store-unavailable")
CREATE = ("invalid-request", "idempotency-mismatch", *READ)
CHANGE = ("unknown-key", *CREATE)
BODY = "body-too-large"
AT_ONCE = Rotation()
REVISION = re.compile(r'"(\d{1,15})"', re.ASCII)
NO_REVISION = -1
IfMatch = Annotated[
    str | None, Header(max_length=100, description="`ETag` of the key as it was read: change it only if it still is so")
]


async def _shown(services: Services, record: KeyRecord) -> Key:
    (key,) = await shown(services.keys, [record])
    return key


@admin.post("", status_code=201, responses=refusals(BODY, *CREATE))
async def create(grant: CreateKey, act: Acting, services: ServicesDep, response: Response) -> NewKey:
    """Issue a client key; its API key and the secret of its image key are in this answer and nowhere else."""
    issued = await services.keys.lifecycle.create(grant, act)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Location"] = f"{admin.prefix}/{issued.record.id}"
    return NewKey.of(issued)


@admin.get("", responses=refusals("invalid-request", "unknown-key", *READ))
async def page(
    _: AdminCaller,
    services: ServicesDep,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    search: Annotated[str, Query(max_length=200, description="part of a name, an id or a metadata value")] = "",
) -> KeyPage:
    """All keys, or those that `search` finds whatever its case, newest first."""
    records, following = await services.keys.directory.page(cursor, limit, search)
    return KeyPage(keys=await shown(services.keys, records), next=following)


@admin.get("/{key_id}", responses=refusals("unknown-key", *READ))
async def show(key_id: str, _: AdminCaller, services: ServicesDep, response: Response) -> Key:
    """One key, with its newest active image key. `ETag` names what admins have made of it, not what it has used."""
    record = await services.keys.directory.show(key_id)
    response.headers["ETag"] = _tag(record)
    return await _shown(services, record)


@admin.patch("/{key_id}", responses=refusals(BODY, "precondition-failed", *CHANGE))
async def update(
    key_id: str, patch: ChangeKey, act: Acting, services: ServicesDep, *, response: Response, if_match: IfMatch = None
) -> Key:
    """Change what a key may do; its next request is judged by it, and its tokens too."""
    record = await services.keys.lifecycle.update(key_id, patch, act, _expected(if_match))
    response.headers["ETag"] = _tag(record)
    return await _shown(services, record)


def _tag(record: KeyRecord) -> str:
    return f'"{record.revision}"'


def _expected(if_match: str | None) -> int | None:
    """The revision that a change is meant for (RFC 9110 §13.1.1), None for any; no other tag is ever ours."""
    if if_match is None or if_match.strip() == "*":
        return None
    match = REVISION.fullmatch(if_match.strip())
    return int(match[1]) if match else NO_REVISION


@admin.post("/{key_id}/rotate", responses=refusals(BODY, *CHANGE))
async def rotate(
    key_id: str, act: Acting, services: ServicesDep, response: Response, rotation: Rotation = AT_ONCE
) -> RotatedKey:
    """Give a key a new API key, which is in this answer and nowhere else; id, budget and history stay.

    The API key before is accepted for `overlap_s` seconds more; access tokens end at once.
    """
    issued = await services.keys.lifecycle.rotate(key_id, rotation.overlap_s, act)
    response.headers["Cache-Control"] = "no-store"
    return await shown_rotated(services.keys, issued)


@admin.post("/{key_id}/revoke", responses=refusals(*CHANGE))
async def revoke(key_id: str, act: Acting, services: ServicesDep) -> Key:
    """End a key at once and for good, and every token made from it."""
    return await _shown(services, await services.keys.lifecycle.revoke(key_id, act))


@admin.post("/{key_id}/disable", responses=refusals(*CHANGE))
async def disable(key_id: str, act: Acting, services: ServicesDep) -> Key:
    """Refuse a key and its tokens at once, until it is enabled."""
    return await _shown(services, await services.keys.lifecycle.disable(key_id, act))


@admin.post("/{key_id}/enable", responses=refusals(*CHANGE))
async def enable(key_id: str, act: Acting, services: ServicesDep) -> Key:
    """Accept a disabled key again; one that is revoked stays revoked."""
    return await _shown(services, await services.keys.lifecycle.enable(key_id, act))


@admin.post("/{key_id}/top-up", responses=refusals(BODY, *CHANGE))
async def top_up(key_id: str, grant: TopUp, act: Acting, services: ServicesDep) -> Key:
    """Give a key more answers, once; a refill neither takes them away nor gives them again."""
    return await _shown(services, await services.keys.lifecycle.top_up(key_id, grant.answers, act))


@admin.get("/{key_id}/usage", responses=refusals("invalid-request", "unknown-key", *READ))
async def usage(
    key_id: str, _: AdminCaller, services: ServicesDep, bucket: Annotated[Bucket, Query()] = "day"
) -> Usage:
    """Images by hour or day (UTC), model and outcome, oldest first; what was refused is counted too."""
    return Usage(bucket=bucket, usage=await services.keys.directory.usage(key_id, bucket))


@admin.get("/{key_id}/ledger", responses=refusals("invalid-request", "unknown-key", *READ))
async def ledger(
    key_id: str, _: AdminCaller, services: ServicesDep, limit: Annotated[int, Query(ge=1, le=MAX_LEDGER)] = 100
) -> Ledger:
    """The last changes of a key's budget, oldest first: each charge, what was given back, refills and top-ups."""
    return Ledger(ledger=await services.keys.directory.ledger(key_id, limit))


@holder.get("/self", responses=refusals("invalid-credential", "store-unavailable"))
async def own(key: KeyHolder, services: ServicesDep, response: Response) -> Key:
    """What the presented key may do and what is left of it."""
    response.headers["Cache-Control"] = "no-store"
    return await _shown(services, key)


admin.include_router(image_keys.router)
