"""Scripts: known to the store or not, they run once; what must not be lost has been heard of by replicas."""

import time
from collections.abc import Awaitable, Callable

import pytest
from redis.asyncio import Redis

from keys.errors import StoreUnavailable
from keys.layout import hash_of
from keys.scripting import FOLDER, PRELUDE, Scripts
from keys.store import KeyStore
from tests.keys.conftest import insert

PASS = (["sdb:window:a"], [100, 60_000, 1])


async def single(scripts: Scripts) -> list[int]:
    return [int((await scripts.run("pass", *PASS))[0])]


async def durable(scripts: Scripts) -> list[int]:
    return [int((await scripts.run_durably("pass", *PASS))[0])]


async def many(scripts: Scripts) -> list[int]:
    return [int(answer[0]) for answer in await scripts.run_many("pass", [PASS, PASS])]


@pytest.mark.parametrize("run", [single, durable, many])
async def test_a_script_that_the_store_has_forgotten_runs_once_all_the_same(
    client: Redis, run: Callable[[Scripts], Awaitable[list[int]]]
) -> None:
    scripts, answers = Scripts(client), list[int]()
    for _ in range(3):
        await client.script_flush()
        answers += await run(scripts)
        answers += await run(scripts)
    assert answers == [99 - number for number in range(len(answers))]


async def test_a_script_that_is_known_is_not_sent_again(client: Redis) -> None:
    scripts = Scripts(client)
    await client.script_flush()
    await scripts.run("pass", *PASS)
    assert await client.script_exists(scripts._digests["pass"]) == [True]
    before = (await client.info("commandstats"))["cmdstat_eval"]["calls"]
    await single(scripts)
    await many(scripts)
    assert (await client.info("commandstats"))["cmdstat_eval"]["calls"] == before


async def test_many_calls_of_nothing_ask_nothing(client: Redis) -> None:
    assert await Scripts(client).run_many("read", []) == []


@pytest.mark.parametrize("known", [True, False])
async def test_without_the_replicas_that_are_asked_for_a_change_is_not_acknowledged(client: Redis, known: bool) -> None:
    scripts = Scripts(client, replicas=1)
    await scripts.run("pass", *PASS)
    if not known:
        await client.script_flush()
    begun = time.monotonic()
    with pytest.raises(StoreUnavailable, match="replicas"):
        await scripts.run_durably("pass", *PASS)
    assert time.monotonic() - begun < 3


async def test_what_need_not_be_heard_of_is_answered_without_replicas(client: Redis) -> None:
    record = await insert(KeyStore(client))
    assert (await KeyStore(client, replicas=1).get(record.id)) == record
    assert await single(Scripts(client, replicas=1)) == [99]


async def test_a_script_that_fails_is_a_store_that_is_away(client: Redis) -> None:
    await client.set(hash_of("key_a"), "no hash")
    for scripts in (Scripts(client), Scripts(client, replicas=1)):
        with pytest.raises(StoreUnavailable):
            await scripts.run_durably("read", [hash_of("key_a")], [])
    with pytest.raises(StoreUnavailable):
        await Scripts(client).run_many("read", [([hash_of("key_a")], [])])


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem != PRELUDE))
async def test_a_script_is_known_by_the_digest_that_the_store_gives_it(client: Redis, name: str) -> None:
    text = (FOLDER / f"{PRELUDE}.lua").read_text() + (FOLDER / f"{name}.lua").read_text()
    assert await client.script_load(text) == Scripts(client)._digests[name]
