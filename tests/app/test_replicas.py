"""Two servers on one store are one: what an admin changes at one is in force at the other with the next request."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.settings import Settings
from keys.embedded import EmbeddedStore
from tests.app.changing import change, patch, show
from tests.conftest import Api, application, bearer

PREDICT = "/v1/models/tiny/predict"


@pytest.fixture
async def replicas(settings: Settings, tmp_path: Path) -> AsyncIterator[tuple[Api, Api]]:
    """Two servers with the same secrets on one store."""
    with EmbeddedStore(tmp_path / "shared") as store:
        shared = settings.model_copy(update={"redis_url": SecretStr(store.url)})
        async with application(shared) as one, application(shared) as other:
            yield one, other


async def test_every_change_is_in_force_on_the_next_request_of_another_replica(
    replicas: tuple[Api, Api], photo: bytes
) -> None:
    here, there = replicas
    key = await here.issue(1)

    async def seen(credential: str) -> tuple[int, str]:
        answer = await there.client.post(PREDICT, content=photo, headers=bearer(credential))
        return answer.status_code, answer.json().get("tier", "")

    assert await seen(key["api_key"]) == (200, "distill")
    assert await seen(key["api_key"]) == (429, "")
    await change(here, key, "top-up", {"answers": 1})
    assert await seen(key["api_key"]) == (200, "distill")
    await patch(here, key, scopes=["predict"])
    assert await seen(key["api_key"]) == (200, "public")
    await patch(here, key, rate_limits=[{"name": "burst", "limit": 1, "window_s": 3600}])
    assert [await seen(key["api_key"]), await seen(key["api_key"])] == [(200, "public"), (429, "")]
    await patch(here, key, rate_limits=[], scopes=["distill"], budget={"limit": None})
    token = await there.token(key)
    assert [await seen(key["api_key"]), await seen(token)] == [(200, "distill")] * 2
    await change(here, key, "disable")
    assert [await seen(key["api_key"]), await seen(token)] == [(401, "")] * 2
    await change(here, key, "enable")
    rotated = await change(here, key, "rotate")
    assert [await seen(key["api_key"]), await seen(rotated["api_key"])] == [(401, ""), (200, "distill")]
    await change(here, key, "revoke")
    assert await seen(rotated["api_key"]) == (401, "")
    assert (await show(there, key))["state"] == "revoked"
