"""An admin who settles a dispute sees every change of a key's budget, over REST and on the command line."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from app.settings import Settings
from tests.app.changing import KEYS, Json, change
from tests.app.processes import sdb_here
from tests.conftest import Api, bearer

PREDICT = "/v1/models/tiny/predict"


async def ledger(api: Api, key: Json, **query: int) -> list[Json]:
    answer = await api.client.get(f"{KEYS}/{key['id']}/ledger", params=query, headers=api.admin)
    assert answer.status_code == 200, answer.text
    lines: list[Json] = answer.json()["ledger"]
    return lines


async def spent(api: Api, photo: bytes) -> Json:
    """A key with two answers, of which one was sent, and one more granted."""
    key: Json = await api.issue(2)
    await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    await change(api, key, "top-up", {"answers": 1})
    return key


async def test_every_change_of_a_budget_is_told_with_its_time_oldest_first(api: Api, photo: bytes) -> None:
    key = await spent(api, photo)
    lines = await ledger(api, key)
    assert [(line["kind"], line["count"], line["used"], line["granted"]) for line in lines] == [
        ("charge", 1, 1, 0),
        ("top-up", 1, 1, 1),
    ]
    for line in lines:
        assert abs(datetime.fromisoformat(line["at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    assert [line["kind"] for line in await ledger(api, key, limit=1)] == ["top-up"]
    assert await ledger(api, await api.issue()) == []


@pytest.mark.parametrize(("path", "status"), [("key_none/ledger", 404), ("{id}/ledger?limit=0", 400)])
async def test_what_cannot_be_told_is_refused(api: Api, path: str, status: int) -> None:
    key = await api.issue()
    assert (await api.client.get(f"{KEYS}/{path.format(id=key['id'])}", headers=api.admin)).status_code == status


async def test_the_ledger_is_for_admins(api: Api) -> None:
    key = await api.issue()
    answer = await api.client.get(f"{KEYS}/{key['id']}/ledger", headers=bearer(key["api_key"]))
    assert answer.status_code == 403


async def test_the_command_line_tells_the_same(
    api: Api, settings: Settings, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDB_STATE_DIR", str(settings.state_dir))
    key = await spent(api, photo)
    told = await asyncio.to_thread(sdb_here, "keys", "ledger", key["id"], "--json")
    assert told.record == {"ledger": await ledger(api, key)}
    last = (await asyncio.to_thread(sdb_here, "keys", "ledger", key["id"], "-n", "1")).out
    assert last.split()[-4:-2] == ["top-up", "+1"]
