"""Alive is one thing, ready another; what needs no store goes on without one."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.main import create_app
from app.settings import Settings
from keys.embedded import EmbeddedStore
from tests.conftest import Api, application, bearer

NO_STORE = "redis://127.0.0.1:1"  # nothing listens on port 1


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    """A store that the application does not own."""
    with EmbeddedStore(tmp_path / "outside") as store:
        yield store


@pytest.fixture
async def outside(settings: Settings, store: EmbeddedStore) -> AsyncIterator[Api]:
    """The application on that store."""
    async with application(settings.model_copy(update={"redis_url": type(settings.redis_url)(store.url)})) as api:
        yield api


async def test_a_started_server_is_alive_and_ready(api: Api) -> None:
    assert (await api.client.get("/livez")).status_code == 200
    ready = await api.client.get("/readyz")
    assert ready.status_code == 200
    assert ready.json() == {"status": "ok", "checks": {"model:tiny": True, "store": True}}
    assert ready.headers["cache-control"] == "no-store"
    # Who asks for the health shows no credential, and one that is shown is not looked at.
    for path in ("/livez", "/readyz"):
        assert (await api.client.get(path, headers=bearer("nonsense"))).status_code == 200


async def test_a_server_whose_batcher_has_ended_is_alive_and_not_ready(api: Api, photo: bytes) -> None:
    await api.app.state.services.models["tiny"].batcher.close()
    ready = await api.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["checks"] == {"model:tiny": False, "store": True}
    assert (await api.client.get("/livez")).status_code == 200
    refused = await api.client.post("/v1/models/tiny/predict", content=photo)
    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) > 0


async def test_while_the_store_is_away_privileges_fail_closed_and_public_predictions_go_on(
    outside: Api, store: EmbeddedStore, photo: bytes
) -> None:
    predict = "/v1/models/tiny/predict"
    key = await outside.issue()
    token = await outside.token(key)
    assert (await outside.client.get("/readyz")).status_code == 200

    store.__exit__(None, None, None)
    try:
        ready = await outside.client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]) == (503, {"model:tiny": True, "store": False})
        assert (await outside.client.get("/livez")).status_code == 200
        public = await outside.client.post(predict, content=photo)
        assert (public.status_code, public.json()["tier"]) == (200, "public")
        for credential in (key["api_key"], token):
            refused = await outside.client.post(predict, content=photo, headers=bearer(credential))
            assert (refused.status_code, refused.json()["code"]) == (503, "store-unavailable")
            assert int(refused.headers["retry-after"]) > 0
        refused = await outside.client.get("/admin/v1/keys", headers=outside.admin)
        assert (refused.status_code, refused.json()["code"]) == (503, "store-unavailable")
        forged = await outside.client.post(predict, content=photo, headers=bearer("sdb_cli_forged"))
        assert forged.status_code == 401
    finally:
        store.__enter__()

    assert (await outside.client.get("/readyz")).status_code == 200
    answer = await outside.client.post(predict, content=photo, headers=bearer(key["api_key"]))
    assert (answer.status_code, answer.json()["budget"]["remaining"]) == (200, 99)


async def test_a_server_that_starts_without_its_store_serves_the_public(settings: Settings, photo: bytes) -> None:
    app = create_app(settings.model_copy(update={"redis_url": type(settings.redis_url)(NO_STORE)}))
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://box") as client,
    ):
        assert (await client.get("/readyz")).status_code == 503
        assert (await client.post("/v1/models/tiny/predict", content=photo)).status_code == 200
    assert not (settings.state_dir / "admin.key").exists()
