"""Admins see what a key was answered, by hour or day, model and outcome."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.conftest import Api, bearer

KEYS, PREDICT = "/admin/v1/keys", "/v1/models/tiny/predict"
Json = dict[str, Any]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def usage(api: Api, key: Json, **query: str) -> Json:
    answer = await api.client.get(f"{KEYS}/{key['id']}/usage", params=query, headers=api.admin)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def test_every_image_is_counted_once_by_what_became_of_it(api: Api, photo: bytes) -> None:
    key = await api.issue(3)
    began = datetime.now(UTC)
    for count in (1, 2, 1):
        files = [("image", ("photo.png", photo))] * count
        await api.client.post(PREDICT, files=files, headers=bearer(key["api_key"]))
    limit = {"rate_limits": [{"name": "burst", "limit": 1, "window_s": 3600}], "budget": {"limit": None}}
    await api.client.patch(f"{KEYS}/{key['id']}", json=limit, headers=api.admin)
    for _ in range(2):
        await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    for bucket, length in (("hour", timedelta(hours=1)), ("day", timedelta(days=1))):
        found = await usage(api, key, bucket=bucket)
        assert found["bucket"] == bucket
        counted = {(row["model"], row["outcome"]): row["images"] for row in found["usage"]}
        assert counted == {("tiny", "served"): 4, ("tiny", "quota-exceeded"): 1, ("tiny", "rate-limited"): 1}
        for row in found["usage"]:
            start = datetime.fromisoformat(row["start"])
            assert start - length <= began < start + length + timedelta(seconds=60)
            assert (start.minute, start.second) == (0, 0)
    assert await usage(api, key) == await usage(api, key, bucket="day")


async def test_a_key_that_was_never_used_has_no_usage(api: Api) -> None:
    key, busy = await api.issue(), await api.issue()
    await api.client.post(PREDICT, content=b"no image", headers=bearer(busy["api_key"]))
    assert await usage(api, key) == {"bucket": "day", "usage": []}


async def test_usage_outlives_rotation_and_revocation(api: Api, photo: bytes) -> None:
    key = await api.issue()
    await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    before = await usage(api, key)
    for act in ("rotate", "revoke"):
        await api.client.post(f"{KEYS}/{key['id']}/{act}", headers=api.admin)
    assert [row for row in (await usage(api, key))["usage"] if row["outcome"] == "served"] == before["usage"]


async def test_the_last_use_is_shown(api: Api, photo: bytes) -> None:
    key: Json = await api.issue()
    assert key["last_used_at"] is None
    await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    shown = (await api.client.get(f"{KEYS}/{key['id']}", headers=api.admin)).json()
    assert abs(datetime.now(UTC) - datetime.fromisoformat(shown["last_used_at"])) < timedelta(seconds=10)


@pytest.mark.parametrize("bucket", ["", "week", "hour,day"])
async def test_a_bucket_that_cannot_be_is_refused(api: Api, bucket: str) -> None:
    key = await api.issue()
    answer = await api.client.get(f"{KEYS}/{key['id']}/usage", params={"bucket": bucket}, headers=api.admin)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
