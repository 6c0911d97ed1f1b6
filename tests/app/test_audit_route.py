"""What was changed, by whom and from where, is there to read; and that nobody changed it there."""

import json
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from redis.asyncio import Redis

from app.settings import Settings
from keys.connection import connect
from keys.embedded import EmbeddedStore
from tests.conftest import Api, bearer

KEYS, AUDIT, SELF = "/admin/v1/keys", "/admin/v1/audit", "/v1/keys/self"
FIELDS = {
    "seq",
    "at",
    "action",
    "actor",
    "target",
    "request_id",
    "address",
    "detail",
    "previous",
    "hash",
    "master",
    "seal",
}
LOG = "sdb:audit"
Json = dict[str, Any]


async def page(api: Api, **query: str) -> Json:
    answer = await api.client.get(AUDIT, params=query, headers=api.admin)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def entries(api: Api, target: Json) -> list[Json]:
    """What was done to a key, oldest first."""
    found: list[Json] = (await page(api, target=target["id"]))["entries"]
    return found[::-1]


async def verdict(api: Api) -> Json:
    answer = await api.client.get(f"{AUDIT}/verify", headers=api.admin)
    assert answer.status_code == 200, answer.text
    found: Json = answer.json()
    return found


async def change(api: Api, key: Json, what: str, body: object = None) -> Json:
    answer = await api.client.post(f"{KEYS}/{key['id']}/{what}", json=body, headers=api.admin)
    assert answer.status_code in {200, 201}, answer.text
    told: Json = answer.json()
    return told


async def test_every_change_leaves_one_entry_that_says_who_from_where_and_what(api: Api) -> None:
    admin = (await api.client.get(SELF, headers=api.admin)).json()["id"]
    key = await api.issue(scopes=["decrypt"])
    image_key = await change(api, key, "image-keys", {"scheme": "sealed"})
    where = f"{KEYS}/{key['id']}"
    await api.client.delete(f"{where}/image-keys/{image_key['kid']}", headers=api.admin)
    asked = {**api.admin, "X-Request-ID": "req-7"}
    await api.client.patch(where, json={"name": "Ναυσικᾶ"}, headers=asked)
    for what, body in (("top-up", {"answers": 7}), ("rotate", {"overlap_s": 60}), ("disable", None), ("enable", None)):
        await change(api, key, what, body)
    await change(api, key, "revoke")
    found = await entries(api, key)
    assert [entry["action"] for entry in found] == [
        "key.create",
        "image-key.issue",
        "image-key.retire",
        "key.update",
        "key.top-up",
        "key.rotate",
        "key.disable",
        "key.enable",
        "key.revoke",
    ]
    for entry in found:
        assert set(entry) == FIELDS
        assert (entry["actor"], entry["target"], entry["address"]) == (admin, key["id"], "127.0.0.1")
        assert abs(datetime.fromisoformat(entry["at"]) - datetime.now(UTC)) < timedelta(seconds=30)
    update, top_up = found[3], found[4]
    assert (update["request_id"], update["detail"]["name"]) == ("req-7", ["partner", "Ναυσικᾶ"])
    assert top_up["detail"] == {"answers": 7}


async def test_what_is_refused_or_only_read_leaves_no_entry(api: Api) -> None:
    key = await api.issue()
    await api.client.post(f"{KEYS}/{key['id']}/top-up", json={"answers": 0}, headers=api.admin)
    await api.client.get(f"{KEYS}/{key['id']}", headers=api.admin)
    await api.client.post(f"{KEYS}/{key['id']}/revoke", headers=bearer(key["api_key"]))
    assert [entry["action"] for entry in await entries(api, key) if entry["action"] != "refusal"] == ["key.create"]


async def test_the_log_holds_no_secret(api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key: Json = await api.issue(scopes=["decrypt"], image_key={"scheme": "sealed"})
    rotated = await change(api, key, "rotate")
    image_key = await change(api, key, "image-keys", {"scheme": "sealed"})
    secrets = [key["api_key"], key["image_key"]["secret"], rotated["api_key"], image_key["secret"], api.admin_key]
    text = json.dumps(await page(api)) + caplog.text
    assert [secret for secret in secrets if secret in text or secret[8:40] in text] == []


async def test_pages_list_every_entry_once_newest_first_and_each_goes_on_from_the_one_before(api: Api) -> None:
    for _ in range(6):
        await api.issue()
    whole = (await page(api))["entries"]
    assert [entry["seq"] for entry in whole] == list(range(len(whole), 0, -1))
    assert all(later["previous"] == earlier["hash"] for later, earlier in pairwise(whole))
    for limit in ("1", "2", "5", "200"):
        read: list[Json] = []
        query = {"limit": limit}
        while True:
            found = await page(api, **query)
            read += found["entries"]
            if found["next"] is None:
                break
            query["cursor"] = found["next"]
        assert read == whole, limit
    assert await entries(api, {"id": "key_nobody"}) == []


async def test_a_page_that_cannot_be_is_refused(api: Api) -> None:
    bad = [{"limit": "0"}, {"limit": "201"}, {"cursor": "newest"}, {"cursor": "x" * 65}, {"target": "x" * 65}]
    for query in bad:
        answer = await api.client.get(AUDIT, params=query, headers=api.admin)
        assert answer.status_code in {400, 404}, query
        assert answer.json()["code"] in {"invalid-request", "unknown-key"}


async def test_an_untouched_log_is_whole_and_its_head_is_the_last_hash(api: Api) -> None:
    await api.issue()
    last = (await page(api))["entries"][0]
    expected = {"entries": last["seq"], "head": last["hash"], "intact": True, "problem": None, "unsealed": 0}
    assert await verdict(api) == expected


@pytest.fixture
async def redis(api: Api, settings: Settings) -> AsyncIterator[Redis]:
    """What somebody has who can write the store of `api`."""
    assert api.admin_key
    async with connect(EmbeddedStore(settings.state_dir / "store").url) as client:
        yield client


async def forged(redis: Redis, number: int, **changes: object) -> None:
    """Put a changed entry in the place of entry `number`, as a stream's owner can: by writing the stream anew."""
    stream: Any = await redis.xrange(LOG)
    whole = [(name, json.loads(fields["entry"])) for name, fields in stream]
    body = {**json.loads(whole[number - 1][1]["body"]), **changes}
    whole[number - 1][1]["body"] = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    await redis.delete(LOG)
    for name, entry in whole:
        await redis.xadd(LOG, {"entry": json.dumps(entry)}, id=name)


async def test_an_entry_that_was_changed_in_the_store_is_found(api: Api, redis: Redis) -> None:
    for _ in range(3):
        await api.issue()
    await forged(redis, 2, actor="key_somebody_else")
    found = await verdict(api)
    assert (found["intact"], found["entries"]) == (False, 1)
    assert "2" in found["problem"]


@pytest.mark.parametrize("number", [0, 1, -1], ids=["first", "middle", "last"])
async def test_an_entry_that_was_removed_from_the_store_is_found(api: Api, redis: Redis, number: int) -> None:
    for _ in range(3):
        await api.issue()
    stream: Any = await redis.xrange(LOG)
    names = [name for name, _ in stream]
    await redis.xdel(LOG, names[number])
    found = await verdict(api)
    assert (found["intact"], found["entries"] < len(names)) == (False, True)
    assert found["problem"]
