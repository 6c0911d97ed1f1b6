"""Image keys in a real store: the embedded Valkey, and redis-server where the machine has one.

How they are issued and retired is in test_image_service.py.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from redis.asyncio import Redis

from keys.connection import connect
from keys.errors import StoreUnavailable, UnknownKey
from keys.image_keys import ImageKeyState, ImageScheme
from keys.image_store import Entry, ImageKeyStore
from keys.records import KeyRecord
from keys.store import KeyStore
from tests.keys.conftest import Serve, insert

IV = bytes(range(12))
NOW = 1_795_000_000_000


def an_entry(scheme: ImageScheme = "sealed", **changes: object) -> Entry:
    entry = Entry(scheme=scheme, created_at=1_790_000_000, secret=secrets.token_hex(8))
    pixels = {"transform": "shf", "block": 4} if scheme == "pixel" else {}
    return entry.model_copy(update={**pixels, **changes})


async def states(store: KeyStore, key: KeyRecord) -> dict[str, ImageKeyState]:
    """The states of a key's image keys, newest first."""
    (entries,), now = await store.image_keys.entries([key.id])
    return {kid: entry.state(now) for kid, entry in entries.items()}


# --- entries


async def test_an_image_key_is_got_as_it_was_written(store: KeyStore) -> None:
    entry = an_entry("pixel")
    key = await insert(store, entries={"img_one": entry})
    found, now = await store.image_keys.entry(key.id, "img_one")
    assert found == entry
    assert abs(now / 1000 - time.time()) < 5
    record = found.record("img_one", now)
    assert (record.kid, record.scheme, record.transform, record.block) == ("img_one", "pixel", "shf", 4)
    assert (record.state, record.ends_at, int(record.created_at.timestamp())) == ("active", None, entry.created_at)


async def test_the_image_keys_of_each_key_are_listed_newest_first(store: KeyStore) -> None:
    one = await insert(store, entries={f"img_{n}": an_entry(number=n) for n in (2, 10, 1)})
    other, none = await insert(store, entries={"img_a": an_entry()}), await insert(store)
    owned, _ = await store.image_keys.entries([none.id, one.id, "key_nobody", other.id])
    assert [list(entries) for entries in owned] == [[], ["img_10", "img_2", "img_1"], [], ["img_a"]]
    assert (await store.image_keys.entries([]))[0] == []


async def test_a_key_does_not_have_the_image_keys_of_another(store: KeyStore) -> None:
    await insert(store, entries={"img_a": an_entry()})
    other = await insert(store, entries={"img_b": an_entry()})
    with pytest.raises(UnknownKey):
        await store.image_keys.entry(other.id, "img_a")


@pytest.mark.parametrize("kid", ["", "img_nobody", "*", "img_\x00\r\n"])
async def test_an_unknown_image_key_is_unknown(store: KeyStore, kid: str) -> None:
    key = await insert(store, entries={"img_a": an_entry()})
    with pytest.raises(UnknownKey):
        await store.image_keys.entry(key.id, kid)


@pytest.mark.parametrize(
    ("ends_at", "state"),
    [(None, "active"), (NOW + 1, "retiring"), (NOW, "retired"), (NOW - 1, "retired")],
    ids=["no end", "later", "now", "before"],
)
def test_an_image_key_is_in_the_state_of_its_end(ends_at: int | None, state: str) -> None:
    entry = an_entry().ended(ends_at, NOW)
    assert entry.state(NOW) == state
    assert (entry.secret is None) == (state == "retired"), "the secret of one that has ended is erased"


def test_an_end_is_never_put_off() -> None:
    soon = an_entry().ended(NOW + 10, NOW)
    assert soon.ended(NOW + 20, NOW).ends_at == soon.ended(None, NOW).ends_at == NOW + 10
    assert soon.ended(NOW + 5, NOW).ends_at == NOW + 5
    gone = soon.ended(NOW + 20, NOW + 10)
    assert (gone.ends_at, gone.secret, gone.state(0)) == (NOW + 10, None, "retired")


# --- sealing again


async def test_a_secret_is_replaced_only_where_it_still_is_what_it_was(store: KeyStore, client: Redis) -> None:
    entry = an_entry(ends_at=int(1000 * time.time()) + 60_000)
    key = await insert(store, entries={"img_a": entry})
    old, name = entry.secret or "", f"sdb:{{{key.id}}}:image-keys"
    assert not await store.image_keys.reseal(key.id, "img_a", "something else", "new")
    assert not await store.image_keys.reseal(key.id, "img_nobody", old, "new")
    assert (await store.get(key.id)).revision == 0, "nothing has changed"
    assert await store.image_keys.reseal(key.id, "img_a", old, "new")
    assert not await store.image_keys.reseal(key.id, "img_a", old, "newer")
    assert (await store.image_keys.entry(key.id, "img_a"))[0] == entry.model_copy(update={"secret": "new"})
    assert await states(store, key) == {"img_a": "retiring"}
    await client.hset(name, "img_a", entry.ended(1, NOW).text())
    assert not await store.image_keys.reseal(key.id, "img_a", "new", "back again")
    assert await states(store, key) == {"img_a": "retired"}


async def test_a_change_that_has_read_the_secret_before_it_was_sealed_again_is_planned_anew(store: KeyStore) -> None:
    """Or it would write back what the next master key cannot open."""
    entry = an_entry()
    key = await insert(store, entries={"img_a": entry})
    assert await store.image_keys.reseal(key.id, "img_a", entry.secret or "", "new")
    assert (await store.get(key.id)).revision == key.revision + 1


# --- a store that is gone

CALLS: dict[str, Callable[[ImageKeyStore], Awaitable[object]]] = {
    "entries": lambda store: store.entries(["a"]),
    "entry": lambda store: store.entry("a", "x"),
    "reseal": lambda store: store.reseal("a", "x", "old", "new"),
}


def test_the_outage_test_calls_every_method() -> None:
    assert {name for name in vars(ImageKeyStore) if not name.startswith("_")} == set(CALLS)


async def test_without_its_server_every_method_says_so(serve: Serve, tmp_path: Path) -> None:
    with serve(tmp_path) as url:
        gone = url
    async with connect(gone) as client:
        store = KeyStore(client).image_keys
        outcomes = await asyncio.gather(*(call(store) for call in CALLS.values()), return_exceptions=True)
    assert {name: type(outcome) for name, outcome in zip(CALLS, outcomes, strict=True)} == dict.fromkeys(
        CALLS, StoreUnavailable
    )
