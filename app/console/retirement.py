"""The page that retires an image key: asks, and does it."""

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse

from app.console.access import AdminForm, AdminVisit
from app.console.rendering import render
from app.console.routing import PageRoute
from app.dependencies import ServicesDep
from keys.errors import UnknownKey
from keys.image_keys import ImageKey

router = APIRouter(prefix="/console/keys/{key_id}/image-keys", include_in_schema=False, route_class=PageRoute)


async def _image_key(key_id: str, kid: str, services: ServicesDep, _: AdminVisit) -> ImageKey:
    for image_key in await services.keys.image_keys.of(key_id):
        if image_key.kid == kid:
            return image_key
    raise UnknownKey("the key has no such image key")


Named = Annotated[ImageKey, Depends(_image_key)]


@router.get("/{kid}/retire")
async def ask(key_id: str, image_key: Named, session: AdminVisit) -> Response:
    """What would happen, and a button that does it."""
    return render("retire.html", session, here="keys", key_id=key_id, image_key=image_key)


@router.post("/{kid}/retire")
async def retire(key_id: str, image_key: Named, form: AdminForm, services: ServicesDep) -> Response:
    """Retire it now."""
    await services.keys.image_keys.retire(key_id, image_key.kid, 0, form.act)
    return RedirectResponse(f"/console/keys/{key_id}?done=retire", 303)
