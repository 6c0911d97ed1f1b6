"""`/admin/v1/keys` for admins, `/v1/keys/self` for whoever holds a key."""

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response
from pydantic import ConfigDict, Field

from app.dependencies import AdminCaller, KeyHolder, ServicesDep
from app.pipeline import Services
from app.schemas import ImageKeys, Key, KeyPage, NewImageKey, NewKey, refusals
from keys.errors import InvalidCredential
from keys.image_keys import DEFAULT_OVERLAP_S, ImageKey, ImageKeyGrant, IssuedImageKey, Overlap
from keys.material import to_text
from keys.records import KeyGrant, KeyRecord
from keys.service import MAX_PAGE

admin = APIRouter(prefix="/admin/v1/keys", tags=["keys"])
REFUSALS = ("invalid-credential", "missing-scope", "store-unavailable")
holder = APIRouter(prefix="/v1/keys", tags=["keys"])


class CreateKey(KeyGrant):
    """What `POST /admin/v1/keys` takes. Rate limits are not issued yet: only their absence passes."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": 1000}},
                {"name": "clinic", "scopes": ["decrypt"], "image_key": {"scheme": "sealed"}},
            ]
        },
    )

    rate_limits: Annotated[tuple[()], Field(description="none yet")] = ()


class CreateImageKey(ImageKeyGrant):
    """What `POST /admin/v1/keys/{key_id}/image-keys` takes."""

    overlap_s: Overlap = DEFAULT_OVERLAP_S


async def _shown(services: Services, records: Sequence[KeyRecord]) -> list[Key]:
    image_keys = await services.keys.image_keys.newest([record.id for record in records])
    return [
        Key(image_key=image_key, **record.model_dump()) for record, image_key in zip(records, image_keys, strict=True)
    ]


def _issued(image_key: IssuedImageKey) -> NewImageKey:
    return NewImageKey(secret=to_text(image_key.secret), **image_key.record.model_dump())


@admin.post("", status_code=201, responses=refusals("invalid-request", "body-too-large", *REFUSALS))
async def create(grant: CreateKey, _: AdminCaller, services: ServicesDep, response: Response) -> NewKey:
    """Issue a client key; its API key and the secret of its image key are in this answer and nowhere else."""
    key = await services.keys.create(grant)
    response.headers["Cache-Control"] = "no-store"
    response.headers["Location"] = f"/admin/v1/keys/{key.record.id}"
    image_key = None if key.image_key is None else _issued(key.image_key)
    return NewKey(api_key=key.api_key, image_key=image_key, **key.record.model_dump())


@admin.get("", responses=refusals("invalid-request", "unknown-key", *REFUSALS))
async def page(
    _: AdminCaller,
    services: ServicesDep,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
) -> KeyPage:
    """All keys, newest first."""
    records, following = await services.keys.page(cursor, limit)
    return KeyPage(keys=await _shown(services, records), next=following)


@admin.get("/{key_id}", responses=refusals("unknown-key", *REFUSALS))
async def show(key_id: str, _: AdminCaller, services: ServicesDep) -> Key:
    """One key, with its newest active image key."""
    (key,) = await _shown(services, [await services.keys.show(key_id)])
    return key


@admin.post("/{key_id}/revoke", responses=refusals("unknown-key", *REFUSALS))
async def revoke(key_id: str, _: AdminCaller, services: ServicesDep) -> Key:
    """End a key at once and for good, and every token made from it."""
    (key,) = await _shown(services, [await services.keys.revoke(key_id)])
    return key


@admin.post(
    "/{key_id}/image-keys",
    status_code=201,
    responses=refusals("invalid-request", "unknown-key", "body-too-large", *REFUSALS),
)
async def issue_image_key(
    key_id: str, grant: CreateImageKey, _: AdminCaller, services: ServicesDep, response: Response
) -> NewImageKey:
    """Issue an image key; the active ones of its scheme open images for `overlap_s` seconds more."""
    issued = await services.keys.image_keys.issue(key_id, grant, grant.overlap_s)
    response.headers["Cache-Control"] = "no-store"
    return _issued(issued)


@admin.get("/{key_id}/image-keys", responses=refusals("unknown-key", *REFUSALS))
async def image_keys(key_id: str, _: AdminCaller, services: ServicesDep) -> ImageKeys:
    """All image keys of a key, newest first, the retired ones too."""
    return ImageKeys(image_keys=await services.keys.image_keys.of(key_id))


@admin.delete("/{key_id}/image-keys/{kid}", responses=refusals("invalid-request", "unknown-key", *REFUSALS))
async def retire_image_key(
    key_id: str, kid: str, _: AdminCaller, services: ServicesDep, overlap_s: Annotated[Overlap, Query()] = 0
) -> ImageKey:
    """Let an image key end in `overlap_s` seconds, or when it would anyway."""
    return await services.keys.image_keys.retire(key_id, kid, overlap_s)


@holder.get("/self", responses=refusals("invalid-credential", "store-unavailable"))
async def own(caller: KeyHolder, services: ServicesDep, response: Response) -> Key:
    """What the presented key may do and what is left of it."""
    response.headers["Cache-Control"] = "no-store"
    if caller.key is None:
        raise InvalidCredential
    (key,) = await _shown(services, [caller.key])
    return key
