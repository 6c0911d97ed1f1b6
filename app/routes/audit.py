"""`/admin/v1/audit`: who changed what, and whether the record of it is whole."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.dependencies import AdminCaller, ServicesDep
from app.key_schemas import AuditPage
from app.schemas import refusals
from keys.audit import Verdict
from keys.directory import MAX_PAGE

router = APIRouter(prefix="/admin/v1/audit", tags=["audit"])
READ = ("invalid-credential", "missing-scope", "store-unavailable")


@router.get("", responses=refusals("invalid-request", "unknown-key", *READ))
async def page(
    _: AdminCaller,
    services: ServicesDep,
    cursor: Annotated[str | None, Query(max_length=64, description="`next` of the page before")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    target: Annotated[str | None, Query(max_length=64, description="only what was done to this key")] = None,
) -> AuditPage:
    """Acts of admins and refusals of privilege, newest first; each entry holds the hash of the one before."""
    entries, following = await services.keys.audit.page(cursor, limit, target)
    return AuditPage(entries=entries, next=following)


@router.get("/verify", responses=refusals(*READ))
async def verify(_: AdminCaller, services: ServicesDep) -> Verdict:
    """Recompute the chain of hashes and its seals: `intact`, or what is wrong with it; keep `head` elsewhere."""
    return await services.keys.audit.verify()
