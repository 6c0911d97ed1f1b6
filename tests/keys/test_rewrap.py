"""After a rotation of the master key every sealed secret is sealed again, and nothing else changes."""

import asyncio
import hashlib
from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from keys import rewrap
from keys.errors import UndecryptableImage
from keys.image_keys import DAY_S, ImageKeyGrant, IssuedImageKey
from keys.material import Keyring, Vault, to_text
from keys.records import Caller, IssuedKey, KeyGrant
from keys.rewrap import Tally
from keys.service import KeyService
from tests.keys.conftest import ADMIN, another_service, embedded, hurried

OLD, NEW, LOST = (hashlib.sha256(name).digest() for name in (b"old", b"new", b"lost"))
SEALED, PIXEL = ImageKeyGrant(scheme="sealed"), ImageKeyGrant(scheme="pixel", transform="shf", block=4)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hurried(embedded(tmp_path_factory.mktemp("rewrap"))) as url:
        yield url


def under(client: Redis, *masters: bytes) -> KeyService:
    """The service with these master keys, newest first."""
    return another_service(client, masters=masters)


async def create(service: KeyService, grant: ImageKeyGrant = SEALED) -> IssuedKey:
    return await service.lifecycle.create(
        KeyGrant(name="partner", scopes=frozenset({"decrypt"}), image_key=grant), ADMIN
    )


def first(key: IssuedKey) -> IssuedImageKey:
    assert key.image_key is not None
    return key.image_key


async def opened(service: KeyService, key: IssuedKey) -> bytes | None:
    """The secret of a key's first image key, if it opens."""
    record = first(key).record
    try:
        return (await service.image_keys.open(Caller(key.record), record.kid, record.scheme)).secret
    except UndecryptableImage:
        return None


async def test_after_it_the_new_master_key_alone_opens_every_image_key(client: Redis) -> None:
    old, both, new = under(client, OLD), under(client, NEW, OLD), under(client, NEW)
    keys = [await create(old, grant) for grant in (SEALED, PIXEL) * 3] + [await create(both)]
    retiring = await old.image_keys.issue(keys[0].record.id, SEALED, DAY_S, ADMIN)
    before = [first(key).secret for key in keys]
    assert [await opened(new, key) for key in keys[:-1]] == [None] * 6
    tally, _ = await both.rewrap()
    assert (tally.resealed, tally.current, tally.unreadable) == (7, 1, [])
    assert [await opened(new, key) for key in keys] == before
    assert await opened(old, keys[0]) is None
    again = (await new.image_keys.open(Caller(keys[0].record), retiring.record.kid, "sealed")).secret
    assert again == retiring.secret


async def test_a_second_run_changes_nothing(client: Redis) -> None:
    key = await create(under(client, OLD))
    both, name = under(client, NEW, OLD), f"sdb:{{{key.record.id}}}:image-keys"
    assert (await both.rewrap())[0] == Tally(1, 0, [])
    stored = await client.hgetall(name)
    assert (await both.rewrap())[0] == (await under(client, NEW).rewrap())[0] == Tally(0, 1, [])
    assert await client.hgetall(name) == stored


async def test_retired_ones_are_left_to_be_erased(client: Redis) -> None:
    old = under(client, OLD)
    key = await create(old)
    await old.image_keys.retire(key.record.id, first(key).record.kid, 0, ADMIN)
    assert (await under(client, NEW, OLD).rewrap())[0] == Tally(0, 0, [])


async def test_what_does_not_open_is_named_and_the_rest_is_sealed_again(client: Redis) -> None:
    lost, good, damaged = [await create(under(client, master)) for master in (LOST, OLD, OLD)]
    kid, name = first(damaged).record.kid, f"sdb:{{{damaged.record.id}}}:image-keys"
    await client.hset(name, kid, str(await client.hget(name, kid)).replace('"secret":"', '"secret":"§'))
    tally, _ = await under(client, NEW, OLD).rewrap()
    assert (tally.resealed, len(tally.unreadable)) == (1, 2)
    assert {context.split("/")[1] for context in tally.unreadable} == {lost.record.id, damaged.record.id}
    assert await opened(under(client, NEW), good) == first(good).secret
    assert await opened(under(client, LOST), lost) == first(lost).secret, "its master key may be found again"


async def test_beside_it_nothing_is_lost_and_nothing_comes_back(client: Redis) -> None:
    old, both, new = under(client, OLD), under(client, NEW, OLD), under(client, NEW)
    keys = [await create(old) for _ in range(12)]
    issues = [both.image_keys.issue(key.record.id, SEALED, DAY_S, ADMIN) for key in keys]
    retirements = [both.image_keys.retire(key.record.id, first(key).record.kid, 0, ADMIN) for key in keys[::2]]
    runs = [both.rewrap() for _ in range(3)]
    issued, *_ = await asyncio.gather(asyncio.gather(*issues), asyncio.gather(*runs), asyncio.gather(*retirements))
    assert (await both.rewrap())[0].unreadable == []
    for number, (key, newer) in enumerate(zip(keys, issued, strict=True)):
        found = await new.image_keys.open(Caller(key.record), newer.record.kid, "sealed")
        assert found.secret == newer.secret
        assert await opened(new, key) == (None if number % 2 == 0 else first(key).secret)


async def test_a_key_waits_until_it_is_presented_and_a_revoked_one_does_not(client: Redis) -> None:
    old, both = under(client, OLD), under(client, NEW, OLD)
    present, absent, revoked = [await create(old) for _ in range(3)]
    newer = await create(both)
    await old.lifecycle.revoke(revoked.record.id, ADMIN)
    assert (await both.rewrap())[1] == [absent.record.id, present.record.id]
    for key in (present, newer):
        await both.authenticate(key.api_key)
    assert (await both.rewrap())[1] == [absent.record.id]
    assert (await under(client, OLD).rewrap())[1] == [newer.record.id, present.record.id], "not their newest"
    assert (await under(client, NEW).authenticate(present.api_key)).key is not None


async def test_a_key_in_its_overlap_waits_until_its_new_api_key_is_presented(client: Redis) -> None:
    """Or the new one would be lost with the old master key because the old one was presented."""
    old, both = under(client, OLD), under(client, NEW, OLD)
    key = await create(old)
    rotated = await old.lifecycle.rotate(key.record.id, 3600, ADMIN)
    await both.authenticate(key.api_key)
    assert (await both.rewrap())[1] == [key.record.id]
    await both.authenticate(rotated.api_key)
    assert (await both.rewrap())[1] == []
    for credential in (key.api_key, rotated.api_key):
        assert (await under(client, NEW).authenticate(credential)).key is not None


async def test_every_page_of_keys_is_visited(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewrap, "PAGE", 4)  # or hundreds of keys would have to be made
    old = under(client, OLD)
    made = [await create(old) for _ in range(9)]
    tally, waiting = await under(client, NEW, OLD).rewrap()
    assert (tally.resealed, len(waiting)) == (9, 9)
    assert set(waiting) == {key.record.id for key in made}


def test_a_tally_counts_each_secret_once() -> None:
    tally, vault = Tally(), Vault(Keyring([NEW, OLD]))
    sealed = Vault(Keyring([OLD])).seal(b"secret", "c")
    new = tally.reseal(vault, sealed, "c")
    assert new is not None
    assert Vault(Keyring([NEW])).unseal(new, "c") == b"secret"
    assert tally.reseal(vault, new, "c") is None
    assert tally.reseal(vault, b"", "d") is None
    assert (tally.current, tally.unreadable) == (1, ["d"])
    assert to_text(b"secret") not in repr(tally)
