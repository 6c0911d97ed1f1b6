"""`/livez` and `/readyz`."""

from fastapi import APIRouter, Response

from app.dependencies import Everybody, ServicesDep
from app.pipeline import Services
from keys.errors import StoreUnavailable

router = APIRouter(tags=["health"], dependencies=[Everybody])


@router.get("/livez")
async def livez() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/readyz")
async def readyz(services: ServicesDep, response: Response) -> dict[str, object]:
    """The store, the models and their batchers work: 200, or 503 and which does not."""
    checks = await readiness(services)
    ready = all(checks.values())
    response.status_code = 200 if ready else 503
    response.headers["Cache-Control"] = "no-store"
    return {"status": "ok" if ready else "unavailable", "checks": checks}


async def readiness(services: Services) -> dict[str, bool]:
    """Which of the models and the store answer."""
    checks = {f"model:{model.manifest.name}": model.running for model in services.models}
    try:
        await services.keys.ready()
        checks["store"] = True
    except StoreUnavailable:
        checks["store"] = False
    if services.stopping.is_set():
        checks["running"] = False
    return checks
