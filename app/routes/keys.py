"""`/admin/v1/keys` for admins, `/v1/keys/self` for whoever holds a key."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import ConfigDict, Field

from app.dependencies import AdminCaller, KeyHolder, ServicesDep
from app.schemas import Key, KeyPage, NewKey, refusals
from keys.errors import InvalidCredential
from keys.records import KeyGrant, KeyRecord
from keys.service import MAX_PAGE

admin = APIRouter(prefix="/admin/v1/keys", tags=["keys"])
REFUSALS = ("invalid-credential", "missing-scope", "store-unavailable")
holder = APIRouter(prefix="/v1/keys", tags=["keys"])


class CreateKey(KeyGrant):
    """What `POST /admin/v1/keys` takes. Rate limits and image keys are not issued yet: only their absence passes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rate_limits: Annotated[tuple[()], Field(description="none yet")] = ()
    image_key: None = None


def _key(record: KeyRecord) -> Key:
    return Key.model_validate(record.model_dump())


@admin.post("", status_code=201, responses=refusals("invalid-request", "body-too-large", *REFUSALS))
async def create(grant: CreateKey, _: AdminCaller, services: ServicesDep, response: Response) -> NewKey:
    """Issue a client key; its API key is in this answer and nowhere else."""
    record, api_key = await services.keys.create(grant)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Location"] = f"/admin/v1/keys/{record.id}"
    return NewKey(api_key=api_key, **record.model_dump())


@admin.get("", responses=refusals("invalid-request", "unknown-key", *REFUSALS))
async def page(
    _: AdminCaller,
    services: ServicesDep,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> KeyPage:
    """All keys, newest first."""
    records, following = await services.keys.page(cursor, limit)
    return KeyPage(keys=[_key(record) for record in records], next=following)


@admin.get("/{key_id}", responses=refusals("unknown-key", *REFUSALS))
async def show(key_id: str, _: AdminCaller, services: ServicesDep) -> Key:
    """One key."""
    return _key(await services.keys.show(key_id))


@admin.post("/{key_id}/revoke", responses=refusals("unknown-key", *REFUSALS))
async def revoke(key_id: str, _: AdminCaller, services: ServicesDep) -> Key:
    """End a key at once and for good, and every token made from it."""
    return _key(await services.keys.revoke(key_id))


@holder.get("/self", responses=refusals("invalid-credential", "store-unavailable"))
async def own(caller: KeyHolder, response: Response) -> Key:
    """What the presented key may do and what is left of it."""
    response.headers["Cache-Control"] = "no-store"
    if caller.key is None:
        raise InvalidCredential
    return _key(caller.key)
