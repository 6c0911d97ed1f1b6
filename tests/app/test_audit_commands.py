"""`sdb audit` reads what REST reads, and says in one line and a status whether anybody changed it."""

import asyncio
import json
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from app.settings import Settings
from keys.connection import connect
from keys.embedded import EmbeddedStore
from tests.app.processes import SDB, Json, Outcome, sdb_here
from tests.conftest import Api

AUDIT, KEYS = "/admin/v1/audit", "/admin/v1/keys"
Command = Callable[..., Awaitable[Outcome]]


async def entries(api: Api) -> list[Json]:
    found: list[Json] = (await api.client.get(AUDIT, headers=api.admin)).json()["entries"]
    return found


@pytest.fixture
def audit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`sdb audit …` in this process, beside the server of `settings`."""
    monkeypatch.setenv("SDB_STATE_DIR", str(settings.state_dir))

    async def run(*arguments: str) -> Outcome:
        return await asyncio.to_thread(sdb_here, "audit", *arguments)

    return run


async def test_tail_shows_the_last_entries_of_all_or_of_one_key(api: Api, audit: Command) -> None:
    key, _ = await api.issue(name="partner"), await api.issue()
    await api.client.post(f"{KEYS}/{key['id']}/top-up", json={"answers": 7}, headers=api.admin)
    whole = (await entries(api))[::-1]
    tail = await audit("tail", "--json")
    assert (tail.status, tail.err, tail.records) == (0, "", whole)
    assert (await audit("tail", "-n", "2", "--json")).records == whole[-2:]
    assert (await audit("tail", "-n", "0", "--json")).records == []
    mine = await audit("tail", "--target", key["id"], "--json")
    assert [entry["action"] for entry in mine.records] == ["key.create", "key.top-up"]
    numbers = [line.split()[0] for line in (await audit("tail")).out.splitlines()[1:] if line[0].isdigit()]
    assert numbers == [str(entry["seq"]) for entry in whole]


async def test_follow_prints_what_is_written_until_it_is_stopped(api: Api, settings: Settings, zoo: Path) -> None:
    environment = {"SDB_STATE_DIR": str(settings.state_dir), "SDB_MODELS_DIR": str(zoo)}
    before = (await entries(api))[0]["seq"]
    follow = await asyncio.create_subprocess_exec(
        SDB, "audit", "tail", "-n", "1", "--follow", "--json", env=environment, stdout=asyncio.subprocess.PIPE
    )
    assert follow.stdout is not None
    seen = [json.loads(await follow.stdout.readline())]
    keys = [await api.issue() for _ in range(2)]
    seen += [json.loads(await follow.stdout.readline()) for _ in keys]
    follow.send_signal(signal.SIGINT)
    assert await follow.wait() == 130
    assert [entry["seq"] for entry in seen] == [before, before + 1, before + 2]
    assert [entry["target"] for entry in seen[1:]] == [key["id"] for key in keys]


async def test_verify_gives_a_head_to_keep_and_recognises_it_later(api: Api, audit: Command) -> None:
    first = await audit("verify", "--json")
    assert (first.status, first.err, first.record["intact"]) == (0, "", True)
    await api.issue()
    later = await audit("verify", "--head", first.record["head"], "--json")
    assert later.status == 0
    assert later.record == (await api.client.get(f"{AUDIT}/verify", headers=api.admin)).json()
    assert later.record["entries"] == first.record["entries"] + 1
    foreign = await audit("verify", "--head", "0" * 64)
    assert foreign.status == 1
    assert foreign.err == f"sdb: the audit log does not go on from {'0' * 64}: it was cut or written anew\n"


def test_verify_of_a_log_that_was_changed_is_one_line_and_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDB_STATE_DIR", str(tmp_path / "var"))

    async def tamper(url: str) -> None:
        async with connect(url) as client:
            stream: Any = await client.xrange("sdb:audit")
            await client.xdel("sdb:audit", stream[0][0])

    for name in "ab":
        assert sdb_here("keys", "create", "--name", name).status == 0
    whole = sdb_here("audit", "verify", "--json")
    assert (whole.status, whole.record["entries"]) == (0, 2)
    with EmbeddedStore(tmp_path / "var" / "store") as store:
        asyncio.run(tamper(store.url))
    broken = sdb_here("audit", "verify", "--json")
    assert (broken.status, broken.record["intact"]) == (1, False)
    assert broken.err.startswith("sdb: the audit log is broken: ")
    assert broken.err.count("\n") == 1
