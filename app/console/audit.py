"""The page of the audit log: who changed what, and whether the chain of entries is whole."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.console.access import AdminVisit
from app.console.rendering import render
from app.console.routing import PageRoute
from app.dependencies import ServicesDep

PAGE = 50

router = APIRouter(prefix="/console/audit", include_in_schema=False, route_class=PageRoute)


@router.get("")
async def audit(
    session: AdminVisit,
    services: ServicesDep,
    cursor: Annotated[str | None, Query(max_length=64)] = None,
    target: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Entries, newest first, all or those of one key; the first page says whether the chain is whole."""
    entries, following = await services.keys.audit.page(cursor, PAGE, target.strip() or None)
    verdict = await services.keys.audit.verify() if cursor is None else None  # it reads the whole log
    return render(
        "audit.html", session, here="audit", entries=entries, following=following, target=target, verdict=verdict
    )
