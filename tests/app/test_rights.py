"""Deny by default: no route is built that does not say who may reach it, and what it says holds."""

import re
from collections.abc import Iterator

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.routing import BaseRoute

from app.dependencies import check_rights
from app.main import create_app
from app.settings import Settings
from tests.conftest import Api, bearer

# Documentation of the interface itself, made by the framework: nothing in it belongs to anybody.
FRAMEWORKS_OWN = {"/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}
FOR_ADMINS = re.compile(r"/admin/")


def calls(app: FastAPI) -> Iterator[tuple[str, str]]:
    """Every call of the API with its parameters filled in."""
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, APIRoute):
            for method in sorted(route.methods or ()):
                yield method, re.sub(r"\{[^}]*\}", "x", route.path or "")


def test_every_route_is_one_of_ours_with_a_right_or_the_frameworks_own(settings: Settings) -> None:
    routes = iter_route_contexts(create_app(settings).routes)
    assert {route.path for route in routes if not isinstance(route.original_route, APIRoute)} == FRAMEWORKS_OWN


def test_an_application_with_a_route_that_names_no_right_is_not_built() -> None:
    router = APIRouter()

    @router.get("/open")
    def open_() -> None: ...

    routes: list[BaseRoute] = list(router.routes)
    with pytest.raises(AssertionError, match="/open does not say who may reach it"):
        check_rights(routes)


async def test_the_admin_plane_is_closed_to_strangers_and_clients(api: Api) -> None:
    key = await api.issue(5, scopes=["predict", "distill", "decrypt", "unlock"])
    found = [(method, path) for method, path in calls(api.app) if FOR_ADMINS.match(path)]
    assert len(found) > 10
    for method, path in found:
        assert (await api.client.request(method, path)).status_code == 401, path
        for credential in (key["api_key"], await api.token(key)):
            answer = await api.client.request(method, path, headers=bearer(credential))
            assert (answer.status_code, answer.json()["code"]) == (403, "missing-scope"), path


async def test_an_admin_key_reaches_no_prediction(api: Api) -> None:
    for method, path in calls(api.app):
        if path.startswith("/v1/models"):
            answer = await api.client.request(method, path, headers=api.admin)
            assert (answer.status_code, answer.json()["code"]) == (403, "missing-scope"), path
