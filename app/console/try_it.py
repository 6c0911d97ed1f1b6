"""`/try`: drop an image, and see what the public and what one's own credential may see.

The page asks `/v1` itself, so it may see what its visitor may and nothing else.
"""

from fastapi import APIRouter, Response

from app.console.rendering import render
from app.console.routing import PageRoute
from app.dependencies import Everybody, ServicesDep

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/try", dependencies=[Everybody])
async def try_it(services: ServicesDep) -> Response:
    """The page; it is for everybody."""
    return render("try.html", None, here="try", models=[model.manifest for model in services.models])
