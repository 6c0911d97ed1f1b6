"""The page of the server's health: the store, the models and their batchers."""

from fastapi import APIRouter, Response

from app.console.access import AdminVisit
from app.console.rendering import render
from app.console.routing import PageRoute
from app.dependencies import ServicesDep

router = APIRouter(prefix="/console/health", include_in_schema=False, route_class=PageRoute)


@router.get("")
async def health(session: AdminVisit, services: ServicesDep) -> Response:
    """Each part and whether it works; that the store does is known, since the session came from it."""
    return render("health.html", session, here="health", models=list(services.models), settings=services.settings)
