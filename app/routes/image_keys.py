"""`/admin/v1/keys/{key_id}/image-keys`: what opens a client's encrypted images."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.dependencies import Acting, AdminCaller, ServicesDep
from app.key_schemas import CreateImageKey, ImageKeys, NewImageKey
from app.schemas import refusals
from keys.image_keys import ImageKey, Overlap

router = APIRouter(prefix="/{key_id}/image-keys")
READ = ("unknown-key", "invalid-credential", "missing-scope", "store-unavailable")
CHANGE = ("invalid-request", "idempotency-mismatch", *READ)


@router.post("", status_code=201, responses=refusals("body-too-large", *CHANGE))
async def issue(
    key_id: str, grant: CreateImageKey, act: Acting, services: ServicesDep, response: Response
) -> NewImageKey:
    """Issue an image key; the active ones of its scheme open images for `overlap_s` seconds more."""
    issued = await services.keys.image_keys.issue(key_id, grant, grant.overlap_s, act)
    response.headers["Cache-Control"] = "no-store"
    return NewImageKey.of(issued)


@router.get("", responses=refusals(*READ))
async def image_keys(key_id: str, _: AdminCaller, services: ServicesDep) -> ImageKeys:
    """All image keys of a key, newest first, the retired ones too."""
    return ImageKeys(image_keys=await services.keys.image_keys.of(key_id))


@router.delete("/{kid}", responses=refusals(*CHANGE))
async def retire(
    key_id: str, kid: str, act: Acting, services: ServicesDep, overlap_s: Annotated[Overlap, Query()] = 0
) -> ImageKey:
    """Let an image key end in `overlap_s` seconds, or when it would anyway."""
    return await services.keys.image_keys.retire(key_id, kid, overlap_s, act)
