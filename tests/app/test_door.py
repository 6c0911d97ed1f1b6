"""Doors of predictions skip FastAPI's solving of dependencies, and nothing that it stands for."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI, Request

from app import errors
from app.dependencies import AnyCaller, IdempotencyKey, PredictingCaller, ServicesDep
from app.journal import Journal
from app.middleware import Gate
from app.routes import huggingface, infer, predict
from app.routes.door import Door
from tests.conftest import Api, bearer

DOORS = ("/v1/models/tiny/predict", "/v2/models/tiny/infer", "/v2/models/tiny/versions/1/infer", "/hf/models/tiny")
PER_REQUEST = {"x-request-id", "traceparent", "content-length"}


@pytest.fixture
async def plain(api: Api) -> AsyncIterator[httpx.AsyncClient]:
    """The same endpoints as routes of FastAPI's own class, over the same services."""
    app = FastAPI()
    errors.install(app)
    for route in (*predict.doors.routes, *infer.doors.routes, *huggingface.doors.routes):
        assert isinstance(route, Door)
        app.add_api_route(route.path, route.endpoint, methods=["POST"], dependencies=route.dependencies)
    assert not any(isinstance(route, Door) for route in app.routes)
    limit = api.app.state.services.settings.max_body_bytes
    app.add_middleware(Gate, max_body_bytes=limit, journal=Journal())
    app.state.services = api.app.state.services
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
        yield client


def shown(answer: httpx.Response) -> tuple[int, dict[str, str], dict[str, Any]]:
    """All of an answer that two requests have in common, but for the words of a refusal."""
    headers = {name: value for name, value in answer.headers.items() if name not in PER_REQUEST}
    body = answer.json()
    if isinstance(body, dict):
        body = {name: value for name, value in body.items() if name not in {"request_id", "detail", "error"}}
    return answer.status_code, headers, body


async def test_a_door_answers_and_refuses_as_the_same_endpoint_does_under_fastapi(
    api: Api, plain: httpx.AsyncClient, photo: bytes
) -> None:
    key = await api.issue(None)
    cases: list[tuple[Mapping[str, str], str]] = [
        ({}, ""),
        (bearer(key["api_key"]), ""),
        (bearer(await api.token(key)), ""),
        (bearer("sdb_cli_wrong"), ""),
        ({"Authorization": "Basic eDp5"}, ""),
        (api.admin, ""),
        ({"Idempotency-Key": ""}, ""),
        ({"Idempotency-Key": "a b"}, ""),
        ({"Idempotency-Key": "a" * 256}, ""),
        ({**bearer("sdb_cli_wrong"), "Idempotency-Key": ""}, ""),
        ({}, "?top_k=0"),
    ]
    seen = set()
    for door in DOORS:
        for path in (door, door.replace("tiny", "none")):
            for headers, query in cases:
                answers = [
                    await client.post(path + query, content=photo, headers=headers) for client in (api.client, plain)
                ]
                assert shown(answers[0]) == shown(answers[1]), (path, headers, query)
                seen.add(answers[0].status_code)
    assert seen >= {200, 400, 401, 403, 404}


async def test_a_door_refuses_other_methods(api: Api) -> None:
    for door in DOORS:
        answer = await api.client.put(door, content=b"")
        assert (answer.status_code, answer.json()["code"]) == (405, "method-not-allowed")


async def test_behind_a_prefix_a_door_answers_as_ever(api: Api, photo: bytes) -> None:
    transport = httpx.ASGITransport(api.app, root_path="/box")
    async with httpx.AsyncClient(transport=transport, base_url="http://box/box") as client:
        for door in ("/v1/models/tiny/predict", "/hf/models/tiny"):
            answer = await client.post(door, content=photo)
            assert answer.status_code == 200, answer.text
            assert (await client.post(door.replace("tiny", "none"), content=photo)).json()["code"] == "unknown-model"


async def without_caller(request: Request, services: ServicesDep, idempotency_key: IdempotencyKey = None) -> None: ...


async def of_any(
    request: Request, caller: AnyCaller, services: ServicesDep, idempotency_key: IdempotencyKey = None
) -> None: ...


async def with_more(
    request: Request, caller: PredictingCaller, services: ServicesDep, more: str, idempotency_key: IdempotencyKey = None
) -> None: ...


@pytest.mark.parametrize("endpoint", [without_caller, of_any, with_more])
def test_an_endpoint_that_does_not_ask_who_calls_or_needs_more_is_no_door(endpoint: Callable[..., Any]) -> None:
    endpoint.__annotations__.pop(
        "request"
    )  # of this file alone: FastAPI knows what a Request is, not what an object is
    router = APIRouter(route_class=Door)
    with pytest.raises(AssertionError, match="/door is no door of predictions"):
        router.post("/door")(endpoint)


def test_a_door_is_asked_by_post_alone() -> None:
    with pytest.raises(AssertionError, match="/door is no door of predictions"):
        APIRouter(route_class=Door).put("/door")(predict.predict)
