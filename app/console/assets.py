"""`/static`: the style sheet and the scripts of the pages, each under an address that changes with its content.

Knows files; knows no template.
"""

import hashlib
from functools import cache
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from app.console.errors import NotFound
from app.dependencies import Everybody

STATIC = Path(__file__).parent / "static"
FOR_EVER = "public, max-age=31536000, immutable"

router = APIRouter(prefix="/static", include_in_schema=False, dependencies=[Everybody])


@cache
def _versions() -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:12] for path in STATIC.iterdir()}


def address(name: str) -> str:
    """Where the asset `name` is; a new version of it has a new address.

    Raises:
        KeyError: there is none of this name.
    """
    return f"/static/{name}?v={_versions()[name]}"


@router.get("/{name}")
async def asset(name: str, v: str = "") -> FileResponse:
    """One asset, for everybody; kept by browsers for as long as they like when asked for by its version."""
    version = _versions().get(name)
    if version is None:
        raise NotFound("there is no such file")
    return FileResponse(STATIC / name, headers={"Cache-Control": FOR_EVER if v == version else "no-cache"})
