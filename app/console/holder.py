"""`/console/me`: what the holder of a client key has left, and for how long."""

from fastapi import APIRouter, Response

from app.console import chart, formats
from app.console.access import HolderVisit
from app.console.forecast import forecast
from app.console.rendering import render
from app.console.routing import PageRoute
from app.dependencies import ServicesDep
from keys.records import Bucket

router = APIRouter(prefix="/console/me", include_in_schema=False, route_class=PageRoute)


@router.get("")
async def own_key(session: HolderVisit, services: ServicesDep, bucket: Bucket = "day") -> Response:
    """The visitor's own key."""
    key, now = session.key, formats.now()
    days = await services.keys.directory.usage(key.id, "day")
    usage = days if bucket == "day" else await services.keys.directory.usage(key.id, bucket)
    return render(
        "holder.html",
        session,
        here="me",
        key=key,
        image_keys=await services.keys.image_keys.of(key.id),
        forecast=forecast(key, days, now),
        chart=chart.draw(usage, bucket, now),
    )
