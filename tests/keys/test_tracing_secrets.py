"""What marks are derived from is made once, kept for good, sealed, and the same for every server of a store."""

import asyncio
import hashlib
import json
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from keys.errors import StoreUnavailable, UnknownKey
from keys.records import DEFAULT_MARK, KeyPatch
from keys.rewrap import Tally
from keys.service import NOBODY, KeyService
from keys.tracing import FRESH_S
from tests.keys.conftest import ADMIN, MODEL, Clock, another_service, embedded, hurried, issue

OLD, NEW = (hashlib.sha256(name).digest() for name in (b"old", b"new"))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hurried(embedded(tmp_path_factory.mktemp("tracing"))) as url:
        yield url


async def logged(service: KeyService, action: str) -> list[dict[str, object]]:
    """The details of all entries of this action, newest first."""
    entries, _ = await service.audit.page(None, 100)
    return [entry.detail for entry in entries if entry.action == action]


async def test_servers_that_are_first_together_agree_on_one_secret(client: Redis) -> None:
    servers = [another_service(client) for _ in range(4)]
    found = await asyncio.gather(*(server.tracing.newest() for server in servers for _ in range(3)))
    assert len({(generation.number, generation.secret) for generation in found}) == 1
    assert await logged(servers[0], "tracing-secret.make") == [{"generation": 1}]
    assert (await servers[0].audit.verify()).intact


async def test_another_generation_is_heard_of_within_a_minute_and_the_old_one_is_kept(
    client: Redis, clock: Clock
) -> None:
    here, there = another_service(client, clock), another_service(client, clock)
    first = await there.tracing.newest()
    assert await here.tracing.rotate(ADMIN) == 2
    second = await here.tracing.newest()
    assert second.secret != first.secret
    assert await there.tracing.newest() == first
    clock.now += FRESH_S
    assert await there.tracing.newest() == second
    assert await another_service(client, clock).tracing.generations() == ([first, second], [])


async def test_each_model_has_a_secret_of_its_own_and_no_repr_shows_one(client: Redis) -> None:
    generation = await another_service(client).tracing.newest()
    own = {generation.of(model) for model in ("tiny", "tiny2", "cifar10")}
    assert len(own) == 3
    assert {len(secret) for secret in own} == {32}
    assert repr(generation.secret) not in repr(generation)


async def test_what_does_not_open_marks_nothing_and_is_not_replaced_by_itself(client: Redis) -> None:
    first = await another_service(client, masters=[OLD]).tracing.newest()
    new = another_service(client, masters=[NEW])
    with pytest.raises(StoreUnavailable, match="marked"):
        await new.tracing.newest()
    assert await new.tracing.generations() == ([], [1])
    assert await new.tracing.rotate(ADMIN) == 2
    assert (await new.tracing.newest()).number == 2
    assert (await another_service(client, masters=[NEW, OLD]).tracing.generations())[0][0] == first


async def test_after_a_rewrap_the_new_master_key_alone_opens_every_generation(client: Redis) -> None:
    old, both, new = (another_service(client, masters=masters) for masters in ([OLD], [NEW, OLD], [NEW]))
    await old.tracing.newest()
    await old.tracing.rotate(ADMIN)
    found = await old.tracing.generations()
    assert await new.rewrap_tracing() == Tally(0, 0, ["tracing-secret/1", "tracing-secret/2"])
    assert await both.rewrap_tracing() == Tally(2, 0, [])
    assert await both.rewrap_tracing() == await new.rewrap_tracing() == Tally(0, 2, [])
    assert await new.tracing.generations() == found


async def test_a_damaged_generation_is_named_and_the_others_still_open(client: Redis) -> None:
    service = another_service(client)
    await service.tracing.newest()
    await service.tracing.rotate(ADMIN)
    await client.hset("sdb:{tracing}", "1", "{}")
    opened, closed = await service.tracing.generations()
    assert ([generation.number for generation in opened], closed) == ([2], [1])
    assert await service.rewrap_tracing() == Tally(0, 1, ["tracing-secret/1"])


async def test_the_first_answer_under_a_mark_is_logged_once_whoever_gives_it(client: Redis, clock: Clock) -> None:
    here, there = another_service(client, clock), another_service(client, clock)
    key = (await issue(here)).record
    assert await here.tracing.begun(key.id, MODEL, 1) is None
    await asyncio.gather(*(server.tracing.begin(key, MODEL, 1, NOBODY) for server in (here, there) for _ in range(3)))
    clock.now += 2 * 86400  # longer than the store keeps the name of a change
    await another_service(client, clock).tracing.begin(key, MODEL, 1, NOBODY)
    await here.tracing.begin(key, MODEL, 2, NOBODY)
    details = [{"model": MODEL, "generation": number, "strength": DEFAULT_MARK} for number in (2, 1)]
    assert await logged(here, "mark.begin") == details
    assert await there.tracing.begun(key.id, MODEL, 1) is not None
    assert await there.tracing.begun(key.id, "other", 1) is None


async def test_a_mark_that_has_begun_changes_nothing_else_of_its_key(client: Redis) -> None:
    service = another_service(client)
    key = (await issue(service)).record
    await service.tracing.begin(key, MODEL, 1, NOBODY)
    assert await service.directory.show(key.id) == key
    changed = await service.lifecycle.update(key.id, KeyPatch(mark=0.1), ADMIN, expected=key.revision)
    assert (changed.mark, await logged(service, "key.update")) == (0.1, [{"mark": [DEFAULT_MARK, 0.1]}])


async def test_a_key_of_a_store_that_knew_no_marks_has_the_default_one(client: Redis) -> None:
    service = another_service(client)
    key = (await issue(service)).record
    name = f"sdb:{{{key.id}}}"
    record = json.loads(str(await client.hget(name, "record")))
    del record["mark"]
    await client.hset(name, "record", json.dumps(record))
    assert await service.directory.show(key.id) == key


async def test_the_place_of_the_secrets_is_no_key(client: Redis) -> None:
    service = another_service(client)
    await service.tracing.newest()
    with pytest.raises(UnknownKey):
        await service.directory.show("tracing")
    with pytest.raises(UnknownKey):
        await service.lifecycle.revoke("tracing", ADMIN)
    assert await service.directory.page(None, 10) == ([], None)
