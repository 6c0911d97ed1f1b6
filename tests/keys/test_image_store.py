"""Image keys in a real store: the embedded Valkey, and redis-server where the machine has one."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis
from redis.crc import key_slot

from keys.connection import SCRIPTS, connect
from keys.errors import ImageKeyRefused, StoreUnavailable, UnknownKey
from keys.image_keys import ImageKeyState, ImageScheme
from keys.image_store import FRESH_S, MOST_IN_USE, MOST_RETIRED, UNTIMED_LIFE_S, Entry, ImageKeyStore
from keys.records import KeyRecord
from keys.store import KeyStore
from tests.keys.conftest import Serve, a_record, digest_of, insert

DAY_S = 24 * 3600
IV = bytes(range(12))


def an_entry(scheme: ImageScheme = "sealed") -> Entry:
    entry = Entry(scheme=scheme, created_at=1_790_000_000, secret=secrets.token_hex(8))
    return entry if scheme == "sealed" else entry.model_copy(update={"transform": "shf", "block": 4})


async def issue(store: KeyStore, key: KeyRecord, scheme: ImageScheme = "sealed", overlap_s: float = DAY_S) -> str:
    kid = f"img_{secrets.token_hex(8)}"
    await store.image_keys.issue(key.id, kid, an_entry(scheme), overlap_s)
    return kid


async def states(store: KeyStore, key: KeyRecord) -> dict[str, ImageKeyState]:
    """The states of a key's image keys, newest first."""
    (entries,), now = await store.image_keys.entries([key.id])
    return {kid: entry.state(now) for kid, entry in entries.items()}


# --- issuing


async def test_an_image_key_is_got_as_it_was_issued(store: KeyStore) -> None:
    key, entry = await insert(store), an_entry("pixel")
    await store.image_keys.issue(key.id, "img_one", entry, 0)
    found, now = await store.image_keys.entry(key.id, "img_one")
    assert found == entry
    assert abs(now / 1000 - time.time()) < 5
    record = found.record("img_one", now)
    assert (record.kid, record.scheme, record.transform, record.block) == ("img_one", "pixel", "shf", 4)
    assert (record.state, record.ends_at, int(record.created_at.timestamp())) == ("active", None, entry.created_at)


async def test_a_key_and_its_first_image_key_are_made_in_one_step(store: KeyStore) -> None:
    key, entry = a_record(), an_entry()
    await store.insert(key, digest_of(key), {"img_first": entry})
    assert (await store.image_keys.entry(key.id, "img_first"))[0] == entry
    newer = await issue(store, key)
    assert await states(store, key) == {newer: "active", "img_first": "retiring"}


async def test_a_new_image_key_lets_the_active_one_of_its_scheme_end_after_the_overlap(store: KeyStore) -> None:
    key = await insert(store)
    pixel, old = await issue(store, key, "pixel"), await issue(store, key)
    new = await issue(store, key, overlap_s=0.3)
    assert await states(store, key) == {new: "active", old: "retiring", pixel: "active"}
    await asyncio.sleep(0.31)
    assert await states(store, key) == {new: "active", old: "retired", pixel: "active"}


async def test_an_image_key_that_is_ending_keeps_its_end(store: KeyStore) -> None:
    key = await insert(store)
    first, _, _ = [await issue(store, key, overlap_s=0.05) for _ in range(3)]
    await issue(store, key, overlap_s=DAY_S)
    await asyncio.sleep(0.06)
    assert (await states(store, key))[first] == "retired"


async def test_without_an_overlap_the_old_one_ends_at_once_and_its_secret_is_erased(store: KeyStore) -> None:
    key = await insert(store)
    old, new = await issue(store, key), await issue(store, key, overlap_s=0)
    assert await states(store, key) == {new: "active", old: "retired"}
    assert (await store.image_keys.entry(key.id, old))[0].secret is None


async def test_the_secret_of_one_that_ended_is_erased_when_the_next_is_issued(store: KeyStore) -> None:
    key = await insert(store)
    old = await issue(store, key)
    await issue(store, key, overlap_s=0.01)
    await asyncio.sleep(0.02)
    assert (await store.image_keys.entry(key.id, old))[0].secret is not None
    await issue(store, key, "pixel")
    assert (await store.image_keys.entry(key.id, old))[0].secret is None


async def test_fifty_issued_at_once_leave_one_active_and_no_more_in_use_than_allowed(url: str) -> None:
    async with connect(url) as one, connect(url) as two:
        stores = [KeyStore(one), KeyStore(two)]
        key = await insert(stores[0])
        outcomes = await asyncio.gather(*(issue(stores[n % 2], key) for n in range(50)), return_exceptions=True)
        issued = {outcome for outcome in outcomes if isinstance(outcome, str)}
        assert [type(outcome) for outcome in outcomes].count(ImageKeyRefused) == 50 - MOST_IN_USE
        found = await states(stores[0], key)
        assert set(found) == issued
        assert list(found.values()) == ["active"] + ["retiring"] * (MOST_IN_USE - 1)
        (entries,), _ = await stores[0].image_keys.entries([key.id])
        assert [entry.number for entry in entries.values()] == list(range(MOST_IN_USE, 0, -1))


async def test_a_refused_one_changes_nothing_and_retiring_makes_room(store: KeyStore) -> None:
    key = await insert(store)
    kids = [await issue(store, key) for _ in range(MOST_IN_USE)]
    before = await store.image_keys.entries([key.id])
    with pytest.raises(ImageKeyRefused, match="retire one first"):
        await issue(store, key, overlap_s=DAY_S)
    assert (await store.image_keys.entries([key.id]))[0] == before[0]
    await store.image_keys.retire(key.id, kids[3], 0)
    await issue(store, key)


async def test_a_full_key_still_replaces_its_active_one_at_once(store: KeyStore) -> None:
    key = await insert(store)
    for _ in range(MOST_IN_USE):
        await issue(store, key)
    new = await issue(store, key, overlap_s=0)
    assert (await states(store, key))[new] == "active"


async def test_the_oldest_retired_ones_are_no_longer_listed(store: KeyStore) -> None:
    key = await insert(store)
    kids = [await issue(store, key, overlap_s=0) for _ in range(MOST_RETIRED + 3)]
    assert list(await states(store, key)) == kids[:1:-1]


async def test_asked_for_again_with_its_kid_nothing_happens(store: KeyStore) -> None:
    """Or a reply that was lost and asked for again would retire the key it just made."""
    key, entry = await insert(store), an_entry()
    for _ in range(3):
        await store.image_keys.issue(key.id, "img_same", entry, 0)
    assert (await store.image_keys.entry(key.id, "img_same"))[0] == entry


async def test_a_key_that_is_revoked_or_unknown_gets_none(store: KeyStore, client: Redis) -> None:
    revoked, disabled = await insert(store, state="revoked"), await insert(store, state="disabled")
    with pytest.raises(ImageKeyRefused, match="revoked"):
        await issue(store, revoked)
    with pytest.raises(UnknownKey):
        await issue(store, a_record())
    assert await client.exists(f"sdb:{{{revoked.id}}}:image-keys") == 0
    assert list(await states(store, revoked)) == []
    assert (await states(store, disabled)) == {} != {await issue(store, disabled): "active"}


async def test_one_key_does_not_see_or_end_the_image_keys_of_another(store: KeyStore) -> None:
    one, other = await insert(store), await insert(store)
    kid = await issue(store, one)
    await issue(store, other, overlap_s=0)
    assert await states(store, one) == {kid: "active"}
    for call in (store.image_keys.entry(other.id, kid), store.image_keys.retire(other.id, kid, 0)):
        with pytest.raises(UnknownKey):
            await call
    assert await states(store, one) == {kid: "active"}


async def test_all_of_a_keys_image_keys_lie_in_its_slot(store: KeyStore, client: Redis) -> None:
    key = await insert(store)
    await store.image_keys.remember(key.id, await issue(store, key), IV, None)
    names = [str(name) async for name in client.scan_iter(match=f"*{key.id}*")]
    assert len(names) == 3
    assert len({key_slot(name.encode()) for name in names}) == 1


# --- retiring


async def test_retiring_ends_an_image_key_now_or_after_an_overlap_and_never_later_than_before(store: KeyStore) -> None:
    key = await insert(store)
    one, two = await issue(store, key, "pixel"), await issue(store, key)
    await store.image_keys.retire(key.id, one, 0)
    assert await states(store, key) == {two: "active", one: "retired"}
    assert (await store.image_keys.entry(key.id, one))[0].secret is None
    for overlap_s in (0.3, DAY_S):
        await store.image_keys.retire(key.id, two, overlap_s)
        assert (await states(store, key))[two] == "retiring"
    await asyncio.sleep(0.31)
    for overlap_s in (DAY_S, 0):
        await store.image_keys.retire(key.id, two, overlap_s)
        assert (await states(store, key))[two] == "retired"


@pytest.mark.parametrize("kid", ["", "img_nobody", "*", "img_\x00\r\n"])
async def test_an_unknown_image_key_is_unknown(store: KeyStore, kid: str) -> None:
    key = await insert(store)
    await issue(store, key)
    for call in (store.image_keys.entry(key.id, kid), store.image_keys.retire(key.id, kid, 0)):
        with pytest.raises(UnknownKey):
            await call
    assert len(await states(store, key)) == 1


# --- sealing again


async def test_a_secret_is_replaced_only_where_it_still_is_what_it_was(store: KeyStore) -> None:
    key = await insert(store)
    kid = await issue(store, key)
    entry, _ = await store.image_keys.entry(key.id, kid)
    old = entry.secret or ""
    assert not await store.image_keys.reseal(key.id, kid, "something else", "new")
    assert not await store.image_keys.reseal(key.id, "img_nobody", old, "new")
    await store.image_keys.retire(key.id, kid, DAY_S)
    assert await store.image_keys.reseal(key.id, kid, old, "new")
    assert not await store.image_keys.reseal(key.id, kid, old, "newer")
    entry, now = await store.image_keys.entry(key.id, kid)
    assert (entry.secret, entry.state(now)) == ("new", "retiring")
    await store.image_keys.retire(key.id, kid, 0)
    assert not await store.image_keys.reseal(key.id, kid, "new", "back again")
    assert (await states(store, key))[kid] == "retired"


# --- sealed images that were opened


async def remember_by_script(client: Redis, name: str, *arguments: str | float) -> bool:
    """What the store sends, with an asker and times of the test's choice."""
    script = client.register_script((SCRIPTS / "remember.lua").read_text())
    return bool(await script(keys=[name], args=list(arguments)))


async def test_of_fifty_who_ask_at_once_one_may_open_a_sealed_image(url: str) -> None:
    async with connect(url) as one, connect(url) as two:
        stores = [ImageKeyStore(one), ImageKeyStore(two)]
        for issued_at in (None, time.time()):
            iv = secrets.token_bytes(12)
            calls = (stores[n % 2].remember("key_a", "img_a", iv, issued_at) for n in range(50))
            assert sorted(await asyncio.gather(*calls)) == [False] * 49 + [True]


async def test_another_iv_image_key_or_owner_is_another_image(store: KeyStore) -> None:
    for key_id, kid, iv in (("a", "x", IV), ("b", "x", IV), ("a", "y", IV), ("a", "x", IV[::-1])):
        assert await store.image_keys.remember(key_id, kid, iv, None)
        assert not await store.image_keys.remember(key_id, kid, iv, None)


async def test_what_was_forgotten_may_come_again_once(store: KeyStore) -> None:
    assert await store.image_keys.remember("a", "x", IV, None)
    await store.image_keys.forget("a", "x", IV)
    await store.image_keys.forget("a", "x", IV)
    assert await store.image_keys.remember("a", "x", IV, None)
    assert not await store.image_keys.remember("a", "x", IV, None)


async def test_an_image_must_be_fresh_by_the_stores_clock(store: KeyStore, client: Redis) -> None:
    seconds, _ = await client.time()
    for off in (-FRESH_S - 1, FRESH_S + 2, -seconds - 5, 1e300, -1e300, -1e9):
        assert not await store.image_keys.remember("a", "x", IV, seconds + off), off
    assert await client.exists(f"sdb:{{a}}:seen:x:{IV.hex()}") == 0
    for number, off in enumerate((-FRESH_S + 5, 0, 0.5, FRESH_S - 5)):
        assert await store.image_keys.remember("a", "x", bytes([number]) * 12, seconds + off), off


async def test_an_image_is_remembered_for_as_long_as_it_could_come_again(store: KeyStore, client: Redis) -> None:
    for issued_at, life_s in ((time.time() + 200, 2 * FRESH_S), (None, UNTIMED_LIFE_S)):
        assert await store.image_keys.remember("a", "x", IV, issued_at)
        left_ms = await client.pttl(f"sdb:{{a}}:seen:x:{IV.hex()}")
        assert 1000 * life_s - 5000 < left_ms <= 1000 * life_s
        await store.image_keys.forget("a", "x", IV)


async def test_a_note_ends_when_its_image_is_stale(client: Redis) -> None:
    issued_at = time.time() + 0.04
    assert await remember_by_script(client, "note", "one", issued_at, 0.05, 60)
    while await client.exists("note"):
        assert not await remember_by_script(client, "note", "two", issued_at, 0.05, 60)
        await asyncio.sleep(0.005)
    assert not await remember_by_script(client, "note", "two", issued_at, 0.05, 60), "stale by now"


async def test_the_same_asker_gets_the_same_answer_again(client: Redis) -> None:
    """Or a reply that was lost would make an image look as if it had come before."""
    assert [await remember_by_script(client, "note", "one", "", 300, 60) for _ in range(3)] == [True] * 3
    assert not await remember_by_script(client, "note", "two", "", 300, 60)


# --- a store that is gone

CALLS: dict[str, Callable[[ImageKeyStore], Awaitable[object]]] = {
    "issue": lambda store: store.issue("a", "x", an_entry(), 0),
    "entries": lambda store: store.entries(["a"]),
    "entry": lambda store: store.entry("a", "x"),
    "retire": lambda store: store.retire("a", "x", 0),
    "reseal": lambda store: store.reseal("a", "x", "old", "new"),
    "remember": lambda store: store.remember("a", "x", IV, None),
    "forget": lambda store: store.forget("a", "x", IV),
}


def test_the_outage_test_calls_every_method() -> None:
    assert {name for name in vars(ImageKeyStore) if not name.startswith("_")} == set(CALLS)


async def test_without_its_server_every_method_says_so(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path) as url:
        gone = url
    async with connect(gone) as client:
        store = ImageKeyStore(client)
        outcomes = await asyncio.gather(*(call(store) for call in CALLS.values()), return_exceptions=True)
    assert {name: type(outcome) for name, outcome in zip(CALLS, outcomes, strict=True)} == dict.fromkeys(
        CALLS, StoreUnavailable
    )
