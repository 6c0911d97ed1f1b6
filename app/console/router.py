"""All pages, for `main` to include."""

from fastapi import APIRouter

from app.console import acts, assets, audit, health, holder, keys, login, retirement, try_it
from app.console.errors import NotFound
from app.console.routing import PageRoute
from app.dependencies import Everybody

nowhere = APIRouter(prefix="/console", include_in_schema=False, route_class=PageRoute)


@nowhere.get("/{path:path}", dependencies=[Everybody])
async def no_page(path: str) -> None:  # noqa: ARG001 - whatever it is
    """What no other route has taken."""
    raise NotFound("there is no such page")


router = APIRouter()
for page in (login, keys, retirement, acts, audit, health, holder, try_it, assets):
    router.include_router(page.router)
router.include_router(nowhere)
