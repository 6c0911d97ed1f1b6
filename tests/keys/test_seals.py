"""A sealed image is opened once: its admission takes note of it, and forgets it only if the charge is given back."""

import asyncio
import secrets
import time

import pytest
from redis.asyncio import Redis

from keys.budget_store import Ask
from keys.connection import connect
from keys.errors import UndecryptableImage
from keys.layout import hash_of
from keys.records import Admission, Idempotency, KeyRecord, Proof, Seal
from keys.store import KeyStore
from tests.keys.conftest import MODEL, digest_of, insert, let_lapse

IV = bytes(range(12))
FRESH_S, UNTIMED_LIFE_S = 300, 24 * 3600


async def opened(store: KeyStore, key: KeyRecord, *seals: Seal, named: Idempotency | None = None) -> Admission:
    return await store.budgets.admit(
        key, Proof(digest_of(key)), Ask(len(seals), len(seals), MODEL, named, tuple(seals))
    )


async def opens(store: KeyStore, key: KeyRecord, *seals: Seal) -> bool:
    try:
        await opened(store, key, *seals)
    except UndecryptableImage:
        return False
    return True


def note(key: KeyRecord, seal: Seal) -> str:
    return f"{hash_of(key.id)}:seen:{seal.name}"


async def test_of_fifty_who_ask_at_once_one_may_open_a_sealed_image(url: str) -> None:
    async with connect(url) as one, connect(url) as two:
        stores = [KeyStore(one), KeyStore(two)]
        key = await insert(stores[0])
        for issued_at in (None, time.time()):
            seal = Seal("img_a", secrets.token_bytes(12), issued_at)
            answers = await asyncio.gather(*(opens(stores[n % 2], key, seal) for n in range(50)))
            assert sorted(answers) == [False] * 49 + [True]
        assert (await stores[0].get(key.id)).budget.remaining == 98, "who may not open is not charged"


async def test_another_iv_image_key_or_owner_is_another_image(store: KeyStore) -> None:
    one, other = await insert(store), await insert(store)
    for key, kid, iv in ((one, "x", IV), (other, "x", IV), (one, "y", IV), (one, "x", IV[::-1])):
        assert await opens(store, key, Seal(kid, iv, None))
        assert not await opens(store, key, Seal(kid, iv, time.time()))


async def test_one_that_came_before_refuses_the_whole_request_and_nothing_of_it_is_noted(store: KeyStore) -> None:
    key = await insert(store)
    old, new = Seal("x", IV, None), Seal("x", IV[::-1], None)
    assert await opens(store, key, old)
    assert not await opens(store, key, new, old)
    assert not await opens(store, key, new, new), "nor twice in one request"
    assert await opens(store, key, new)


async def test_what_was_given_back_may_come_again_once(store: KeyStore) -> None:
    key, seal = await insert(store), Seal("x", IV, None)
    admission = await opened(store, key, seal)
    await store.budgets.release(admission)
    await store.budgets.release(admission)
    assert await opens(store, key, seal)
    assert not await opens(store, key, seal)


async def test_what_was_answered_never_comes_again(store: KeyStore, client: Redis) -> None:
    key, seal = await insert(store), Seal("x", IV, None)
    admission = await opened(store, key, seal)
    await store.budgets.settle(admission)
    await store.budgets.release(admission)
    assert not await opens(store, key, seal)
    await let_lapse(client, admission)
    assert not await opens(store, key, seal)


async def test_a_request_that_is_repeated_under_its_name_opens_its_images_again(store: KeyStore) -> None:
    key, seal, named = await insert(store), Seal("x", IV, None), Idempotency("name", "abc")
    await store.budgets.settle(await opened(store, key, seal, named=named))
    assert (await opened(store, key, seal, named=named)).replayed
    assert not await opens(store, key, seal)


async def test_an_image_must_be_fresh_by_the_stores_clock(store: KeyStore, client: Redis) -> None:
    key = await insert(store)
    seconds, _ = await client.time()
    for off in (-FRESH_S - 1, FRESH_S + 2, -seconds - 5, 1e300, -1e300, -1e9):
        assert not await opens(store, key, Seal("x", IV, seconds + off)), off
    assert await client.exists(note(key, Seal("x", IV, None))) == 0
    for number, off in enumerate((-FRESH_S + 5, 0, 0.5, FRESH_S - 5)):
        assert await opens(store, key, Seal("x", bytes([number]) * 12, seconds + off)), off


@pytest.mark.parametrize("ahead_s", [200, None])
async def test_an_image_is_remembered_for_as_long_as_it_could_come_again(
    store: KeyStore, client: Redis, ahead_s: float | None
) -> None:
    key = await insert(store)
    seal = Seal("x", IV, None if ahead_s is None else time.time() + ahead_s)
    await opened(store, key, seal)
    life_s = UNTIMED_LIFE_S if ahead_s is None else 2 * FRESH_S
    assert life_s - 5 < await client.ttl(note(key, seal)) <= life_s
