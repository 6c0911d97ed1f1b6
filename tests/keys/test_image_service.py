"""Image keys as admins and requests meet them: issue, list, retire, open, and each sealed image once."""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from keys.connection import connect
from keys.errors import ImageKeyRefused, UndecryptableImage, UnknownKey
from keys.image_keys import DAY_S, ImageKeyGrant, ImageScheme, IssuedImageKey, OpenedImageKey
from keys.image_store import Entry
from keys.material import Keyring, Vault, to_text
from keys.records import Caller, IssuedKey, KeyGrant
from keys.service import KeyService
from keys.store import KeyStore
from keys.tokens import TokenMint

RING = Keyring([hashlib.sha256(b"master").digest()])
SEALED = ImageKeyGrant(scheme="sealed")
PIXEL = ImageKeyGrant(scheme="pixel", transform="np", block=8)
IV = bytes(range(12))


@pytest.fixture
async def client(store_url: str) -> AsyncIterator[Redis]:
    async with connect(store_url) as client:
        yield client


@pytest.fixture
def service(client: Redis) -> KeyService:
    return over(client, RING)


def over(client: Redis, ring: Keyring) -> KeyService:
    return KeyService(KeyStore(client), Vault(ring), TokenMint(RING, 900, time.time), time.time)


async def create(service: KeyService, image_key: ImageKeyGrant | None = SEALED) -> tuple[IssuedKey, Caller]:
    """A new key of scope `decrypt`, and its holder."""
    key = await service.create(KeyGrant(name="partner", scopes=frozenset({"decrypt"}), image_key=image_key))
    return key, await service.authenticate(key.api_key)


def first(key: IssuedKey) -> IssuedImageKey:
    assert key.image_key is not None
    return key.image_key


async def opens(service: KeyService, caller: Caller, kid: str, scheme: ImageScheme = "sealed") -> bool:
    """Whether it opens; a refusal has one text, whatever the reason."""
    try:
        await service.image_keys.open(caller, kid, scheme)
    except UndecryptableImage as refusal:
        if str(refusal) == "the image cannot be decrypted":
            return False
        raise
    return True


# --- grants


@pytest.mark.parametrize(
    "fields",
    [
        {"scheme": "sealed", "block": 4},
        {"scheme": "sealed", "transform": "shf"},
        {"scheme": "pixel"},
        {"scheme": "pixel", "transform": "shf"},
        {"scheme": "pixel", "block": 4},
        {"scheme": "pixel", "transform": "shf", "block": 3},
        {"scheme": "pixel", "transform": "shf", "block": 32},
        {"scheme": "pixel", "transform": "shf", "block": "4"},
        {"scheme": "pixel", "transform": "scramble", "block": 4},
        {"scheme": "pixel", "transform": "shf+np", "block": 4},
        {"scheme": "rot13"},
        {"scheme": "sealed", "secret": "mine"},
        {},
    ],
)
def test_an_image_key_that_cannot_be_is_not_granted(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageKeyGrant.model_validate(fields)


def test_an_image_key_comes_only_with_the_scope() -> None:
    with pytest.raises(ValidationError, match="needs the scope decrypt"):
        KeyGrant(name="a", scopes=frozenset({"predict", "distill"}), image_key=SEALED)


# --- issuing and opening


@pytest.mark.parametrize("grant", [SEALED, PIXEL], ids=["sealed", "pixel"])
async def test_the_secret_that_was_shown_is_the_secret_that_opens(service: KeyService, grant: ImageKeyGrant) -> None:
    key, caller = await create(service, grant)
    issued = first(key)
    assert len(issued.secret) == 32
    assert len(issued.record.kid) >= 4 + 22, "128 bits"
    opened = await service.image_keys.open(caller, issued.record.kid, grant.scheme)
    assert opened == OpenedImageKey(issued.record.kid, grant.scheme, grant.transform, grant.block, issued.secret)


async def test_what_is_issued_later_is_listed_first_and_the_newest_active_one_is_shown(service: KeyService) -> None:
    key, caller = await create(service)
    pixel = await service.image_keys.issue(key.record.id, PIXEL, DAY_S)
    newer = await service.image_keys.issue(key.record.id, SEALED, DAY_S)
    listed = await service.image_keys.of(key.record.id)
    assert [image_key.kid for image_key in listed] == [newer.record.kid, pixel.record.kid, first(key).record.kid]
    assert [image_key.state for image_key in listed] == ["active", "active", "retiring"]
    assert listed[0] == newer.record
    ends_at = listed[2].ends_at
    assert ends_at is not None
    assert abs(ends_at.timestamp() - time.time() - DAY_S) < 10
    assert await service.image_keys.newest([key.record.id]) == [newer.record]
    assert await opens(service, caller, first(key).record.kid)
    await service.image_keys.retire(key.record.id, newer.record.kid, 0)
    assert await service.image_keys.newest([key.record.id]) == [pixel.record]


async def test_a_key_without_image_keys_shows_none(service: KeyService) -> None:
    without, _ = await create(service, None)
    key, _ = await create(service)
    assert await service.image_keys.newest([without.record.id, key.record.id]) == [None, first(key).record]
    assert await service.image_keys.newest([]) == []
    assert await service.image_keys.of(without.record.id) == []


async def test_no_two_image_keys_share_a_name_or_a_secret(service: KeyService) -> None:
    made = [first((await create(service))[0]) for _ in range(20)]
    assert len({image_key.record.kid for image_key in made}) == len({image_key.secret for image_key in made}) == 20


async def test_an_image_key_that_is_refused_is_not_made_and_neither_is_its_key(service: KeyService) -> None:
    plain = await service.create(KeyGrant(name="plain"))
    with pytest.raises(ImageKeyRefused, match="scope decrypt"):
        await service.image_keys.issue(plain.record.id, SEALED, 0)
    newest = (await service.page(None, 1))[0]
    with pytest.raises(ImageKeyRefused, match="admin"):
        await service.create(KeyGrant(name="a", scopes=frozenset({"decrypt"}), image_key=SEALED), "admin")
    assert (await service.page(None, 1))[0] == newest
    for call in (service.image_keys.issue("key_nobody", SEALED, 0), service.image_keys.of("key_nobody")):
        with pytest.raises(UnknownKey):
            await call


async def test_an_image_key_opens_until_the_end_of_its_overlap(service: KeyService) -> None:
    key, caller = await create(service)
    kid = first(key).record.kid
    retiring = await service.image_keys.retire(key.record.id, kid, 1)
    assert retiring.state == "retiring"
    assert await opens(service, caller, kid)
    await asyncio.sleep(1.01)
    assert not await opens(service, caller, kid)
    assert [image_key.state for image_key in await service.image_keys.of(key.record.id)] == ["retired"]


async def test_only_the_owner_opens_an_image_key_and_only_for_its_scheme(service: KeyService) -> None:
    key, caller = await create(service)
    other, stranger = await create(service)
    pixel = (await service.image_keys.issue(key.record.id, PIXEL, 0)).record.kid
    kid = first(key).record.kid
    assert await opens(service, caller, kid)
    assert await opens(service, caller, pixel, "pixel")
    refused: list[tuple[Caller, str, ImageScheme]] = [
        (stranger, kid, "sealed"),
        (caller, first(other).record.kid, "sealed"),
        (Caller(), kid, "sealed"),
        (caller, kid, "pixel"),
        (caller, pixel, "sealed"),
    ]
    refused += [(caller, odd, "sealed") for odd in ("", "*", kid.lower(), kid + " ", "img_nobody", "\x00", "é" * 100)]
    assert [case for case in refused if await opens(service, *case)] == []


# --- secrets stay secret


async def test_no_record_repr_or_list_shows_a_secret(service: KeyService, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    key, caller = await create(service)
    image_key = first(key)
    opened = await service.image_keys.open(caller, image_key.record.kid, "sealed")
    await opens(over_another_master(service), caller, image_key.record.kid)
    shown = "".join(
        [repr(thing) for thing in (key, image_key, opened, await service.image_keys.of(key.record.id))]
        + [image_key.record.model_dump_json(), key.record.model_dump_json(), caplog.text]
    )
    assert image_key.record.kid in shown
    for secret in (repr(image_key.secret)[2:-1], image_key.secret.hex(), to_text(image_key.secret), key.api_key):
        assert secret not in shown


def over_another_master(service: KeyService) -> KeyService:
    store, vault = service._store, Vault(Keyring([hashlib.sha256(b"another").digest()]))
    return KeyService(store, vault, TokenMint(RING, 900, time.time), time.time)


async def test_without_the_master_key_nothing_opens_and_the_operator_is_told(
    service: KeyService, caplog: pytest.LogCaptureFixture
) -> None:
    key, caller = await create(service)
    assert not await opens(over_another_master(service), caller, first(key).record.kid)
    assert first(key).record.kid in caplog.text
    assert "SDB_MASTER_KEY" in caplog.text


async def test_an_entry_that_somebody_changed_in_the_store_does_not_open(service: KeyService, client: Redis) -> None:
    (key, caller), (other, _) = await create(service), await create(service)
    kid, foreign = first(key).record.kid, first(other).record.kid
    second = (await service.image_keys.issue(key.record.id, SEALED, DAY_S)).record.kid
    own = f"sdb:{{{key.record.id}}}:image-keys"
    mine = Entry.model_validate_json(str(await client.hget(own, kid)))
    theirs = Entry.model_validate_json(str(await client.hget(f"sdb:{{{other.record.id}}}:image-keys", foreign)))
    sibling = Entry.model_validate_json(str(await client.hget(own, second)))
    secret = mine.secret or ""
    assert await opens(service, caller, kid)
    changed: dict[str, str] = {
        "another owner's": theirs.text(),
        "another of the same owner": sibling.text(),
        "another scheme": mine.model_copy(update={"scheme": "pixel"}).text(),
        "one character": mine.model_copy(
            update={"secret": secret[:40] + chr(ord(secret[40]) ^ 1) + secret[41:]}
        ).text(),
        "cut off": mine.model_copy(update={"secret": secret[:-4]}).text(),
        "empty": mine.model_copy(update={"secret": ""}).text(),
        "not base64": mine.model_copy(update={"secret": "§"}).text(),
        "no secret": mine.model_copy(update={"secret": None}).text(),
        "no JSON": "{",
        "another document": "[]",
        "more in it": mine.text()[:-1] + ', "more": 1}',
    }
    opening = []
    for what, entry in changed.items():
        await client.hset(own, kid, entry)
        opening += [what for scheme in ("sealed", "pixel") if await opens(service, caller, kid, scheme)]
    assert opening == []
    await client.hset(own, kid, mine.text())
    assert await opens(service, caller, kid)


# --- once


async def test_a_sealed_image_is_opened_once_until_it_is_forgotten(service: KeyService) -> None:
    _, caller = await create(service)
    _, stranger = await create(service)
    await service.image_keys.once(caller, "img_a", IV, None)
    for issued_at in (None, time.time()):
        with pytest.raises(UndecryptableImage):
            await service.image_keys.once(caller, "img_a", IV, issued_at)
    await service.image_keys.once(stranger, "img_a", IV, None)
    await service.image_keys.once(caller, "img_b", IV, None)
    await service.image_keys.forget(caller, "img_a", IV)
    await service.image_keys.once(caller, "img_a", IV, time.time())


async def test_a_stale_image_and_one_from_the_future_are_refused_like_any_other(service: KeyService) -> None:
    _, caller = await create(service)
    for issued_at in (time.time() - 305, time.time() + 305, 0, -1, 1e18):
        with pytest.raises(UndecryptableImage) as refusal:
            await service.image_keys.once(caller, "img_a", IV, issued_at)
        assert str(refusal.value) == str(UndecryptableImage())
    await service.image_keys.once(caller, "img_a", IV, time.time() - 290)


async def test_who_has_no_key_opens_nothing(service: KeyService) -> None:
    for call in (
        service.image_keys.once(Caller(), "img_a", IV, None),
        service.image_keys.forget(Caller(), "img_a", IV),
    ):
        with pytest.raises(UndecryptableImage):
            await call
