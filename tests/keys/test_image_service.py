"""Image keys as admins and requests meet them: issue, list, retire, open."""

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from redis.asyncio import Redis

from keys.errors import ChangeRefused, UndecryptableImage, UnknownKey
from keys.image_keys import DAY_S, ImageKeyGrant, ImageKeyState, ImageScheme, IssuedImageKey, OpenedImageKey
from keys.image_service import MOST_IN_USE, MOST_RETIRED
from keys.image_store import Entry
from keys.material import to_text
from keys.records import Act, Caller, IssuedKey, KeyGrant
from keys.service import KeyService
from tests.keys.conftest import ADMIN, NEXT_MASTER, another_service, embedded, hurried

SEALED = ImageKeyGrant(scheme="sealed")
PIXEL = ImageKeyGrant(scheme="pixel", transform="np", block=8)
IV = bytes(range(12))


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hurried(embedded(tmp_path_factory.mktemp("image-keys"))) as url:
        yield url


@pytest.fixture
def service(client: Redis) -> KeyService:
    return another_service(client)


async def create(service: KeyService, image_key: ImageKeyGrant | None = SEALED) -> tuple[IssuedKey, Caller]:
    """A new key of scope `decrypt`, and its holder."""
    key = await service.lifecycle.create(
        KeyGrant(name="partner", scopes=frozenset({"decrypt"}), image_key=image_key), ADMIN
    )
    return key, await service.authenticate(key.api_key)


async def issue(service: KeyService, key: IssuedKey, grant: ImageKeyGrant = SEALED, overlap_s: int = DAY_S) -> str:
    return (await service.image_keys.issue(key.record.id, grant, overlap_s, ADMIN)).record.kid


async def retire(service: KeyService, key: IssuedKey, kid: str, overlap_s: int = 0) -> None:
    await service.image_keys.retire(key.record.id, kid, overlap_s, ADMIN)


async def states(service: KeyService, key: IssuedKey) -> dict[str, ImageKeyState]:
    """The states of a key's image keys, newest first."""
    return {image_key.kid: image_key.state for image_key in await service.image_keys.of(key.record.id)}


async def secret_of(client: Redis, key: IssuedKey, kid: str) -> str | None:
    text = await client.hget(f"sdb:{{{key.record.id}}}:image-keys", kid)
    return Entry.model_validate_json(str(text)).secret


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
    pixel = await service.image_keys.issue(key.record.id, PIXEL, DAY_S, ADMIN)
    newer = await service.image_keys.issue(key.record.id, SEALED, DAY_S, ADMIN)
    listed = await service.image_keys.of(key.record.id)
    assert [image_key.kid for image_key in listed] == [newer.record.kid, pixel.record.kid, first(key).record.kid]
    assert [image_key.state for image_key in listed] == ["active", "active", "retiring"]
    assert listed[0] == newer.record
    ends_at = listed[2].ends_at
    assert ends_at is not None
    assert abs(ends_at.timestamp() - time.time() - DAY_S) < 10
    assert await service.image_keys.newest([key.record.id]) == [newer.record]
    assert await opens(service, caller, first(key).record.kid)
    await retire(service, key, newer.record.kid)
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


async def test_an_image_key_that_is_refused_is_not_made_and_neither_is_its_key(
    service: KeyService, client: Redis
) -> None:
    plain = await service.lifecycle.create(KeyGrant(name="plain"), ADMIN)
    with pytest.raises(ChangeRefused, match="scope decrypt"):
        await issue(service, plain)
    with pytest.raises(ChangeRefused, match="admin"):
        await service.lifecycle.create(
            KeyGrant(name="a", scopes=frozenset({"decrypt"}), image_key=SEALED), ADMIN, "admin"
        )
    revoked, _ = await create(service, None)
    await service.lifecycle.revoke(revoked.record.id, ADMIN)
    with pytest.raises(ChangeRefused, match="revoked"):
        await issue(service, revoked)
    for call in (
        service.image_keys.issue("key_nobody", SEALED, 0, ADMIN),
        service.image_keys.of("key_nobody"),
        service.image_keys.retire("key_nobody", "img_a", 0, ADMIN),
        service.image_keys.retire(plain.record.id, "img_nobody", 0, ADMIN),
    ):
        with pytest.raises(UnknownKey):
            await call
    assert [name async for name in client.scan_iter(match="*:image-keys")] == []
    assert [key.name for key in (await service.directory.page(None, 9))[0]] == ["partner", "plain"]
    assert {entry.action for entry in (await service.audit.page(None, 9))[0]} == {"key.create", "key.revoke"}


async def test_a_disabled_key_may_be_given_an_image_key(service: KeyService) -> None:
    key, _ = await create(service, None)
    await service.lifecycle.disable(key.record.id, ADMIN)
    kid = await issue(service, key)
    assert await states(service, key) == {kid: "active"}


async def test_an_image_key_opens_until_the_end_of_its_overlap(service: KeyService) -> None:
    key, caller = await create(service)
    kid = first(key).record.kid
    retiring = await service.image_keys.retire(key.record.id, kid, 1, ADMIN)
    assert retiring.state == "retiring"
    assert await opens(service, caller, kid)
    await asyncio.sleep(1.01)
    assert not await opens(service, caller, kid)
    assert await states(service, key) == {kid: "retired"}


async def test_a_new_image_key_lets_the_active_one_of_its_scheme_end(service: KeyService, client: Redis) -> None:
    key, _ = await create(service, PIXEL)
    old, new = await issue(service, key), await issue(service, key)
    pixel = first(key).record.kid
    assert await states(service, key) == {new: "active", old: "retiring", pixel: "active"}
    newest = await issue(service, key, overlap_s=0)
    assert await states(service, key) == {newest: "active", new: "retired", old: "retiring", pixel: "active"}
    assert await secret_of(client, key, new) is None, "it is erased"
    assert await secret_of(client, key, old) is not None


async def test_the_secret_of_one_that_ended_is_erased_when_the_next_is_issued(
    service: KeyService, client: Redis
) -> None:
    key, _ = await create(service)
    old, name = first(key).record.kid, f"sdb:{{{key.record.id}}}:image-keys"
    await issue(service, key, overlap_s=1)
    text = str(await client.hget(name, old))
    await client.hset(name, old, Entry.model_validate_json(text).model_copy(update={"ends_at": 1}).text())
    assert await secret_of(client, key, old) is not None
    await issue(service, key, PIXEL)
    assert await secret_of(client, key, old) is None


async def test_retiring_never_puts_an_end_off(service: KeyService, client: Redis) -> None:
    key, _ = await create(service)
    kid = first(key).record.kid
    ends = []
    for overlap_s in (100, DAY_S, 10):
        ends_at = (await service.image_keys.retire(key.record.id, kid, overlap_s, ADMIN)).ends_at
        assert ends_at is not None
        ends.append(ends_at)
    await issue(service, key)
    assert ends[0] == ends[1] > ends[2] == (await service.image_keys.of(key.record.id))[1].ends_at
    await retire(service, key, kid)
    await retire(service, key, kid, DAY_S)
    assert (await states(service, key))[kid] == "retired"
    assert await secret_of(client, key, kid) is None


async def test_twenty_five_issued_at_once_leave_one_active_and_no_more_in_use_than_allowed(
    service: KeyService, client: Redis
) -> None:
    key, _ = await create(service, None)
    services = [service, another_service(client)]
    outcomes = await asyncio.gather(*(issue(services[n % 2], key) for n in range(25)), return_exceptions=True)
    issued = {outcome for outcome in outcomes if isinstance(outcome, str)}
    assert [type(outcome) for outcome in outcomes].count(ChangeRefused) == 25 - MOST_IN_USE
    found = await states(service, key)
    assert set(found) == issued
    assert list(found.values()) == ["active"] + ["retiring"] * (MOST_IN_USE - 1)


async def test_a_full_key_is_refused_one_more_until_one_is_retired_or_replaced(service: KeyService) -> None:
    key, _ = await create(service)
    kids = [await issue(service, key) for _ in range(MOST_IN_USE - 1)]
    before = await service.image_keys.of(key.record.id)
    with pytest.raises(ChangeRefused, match="retire one first"):
        await issue(service, key)
    assert await service.image_keys.of(key.record.id) == before
    await issue(service, key, overlap_s=0)
    await retire(service, key, kids[3])
    await issue(service, key)


async def test_the_oldest_retired_ones_are_no_longer_listed(service: KeyService) -> None:
    key, _ = await create(service, None)
    kids = [await issue(service, key, overlap_s=0) for _ in range(MOST_RETIRED + 3)]
    assert list(await states(service, key)) == kids[:1:-1]


async def test_asked_for_again_under_one_name_it_is_the_same_image_key(service: KeyService, client: Redis) -> None:
    """Or a retry would retire the image key that the admin has just been shown."""
    key, caller = await create(service, None)
    act = Act("cli", idempotency_key="once")
    made = [
        await one.image_keys.issue(key.record.id, SEALED, 0, act)
        for one in (service, another_service(client), another_service(client))
    ]
    assert made == [made[0]] * 3
    assert {image_key.secret for image_key in made} == {made[0].secret}
    assert await states(service, key) == {made[0].record.kid: "active"}
    assert (await service.image_keys.open(caller, made[0].record.kid, "sealed")).secret == made[0].secret


async def test_one_key_does_not_end_the_image_keys_of_another(service: KeyService) -> None:
    (one, _), (other, _) = await create(service), await create(service)
    kid = first(one).record.kid
    await issue(service, other, overlap_s=0)
    with pytest.raises(UnknownKey):
        await retire(service, other, kid)
    assert await states(service, one) == {kid: "active"}


async def test_only_the_owner_opens_an_image_key_and_only_for_its_scheme(service: KeyService) -> None:
    key, caller = await create(service)
    other, stranger = await create(service)
    pixel = await issue(service, key, PIXEL)
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


async def test_no_record_repr_or_list_shows_a_secret(
    service: KeyService, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key, caller = await create(service)
    image_key = first(key)
    opened = await service.image_keys.open(caller, image_key.record.kid, "sealed")
    await opens(another_service(client, masters=[NEXT_MASTER]), caller, image_key.record.kid)
    shown = "".join(
        [repr(thing) for thing in (key, image_key, opened, await service.image_keys.of(key.record.id))]
        + [image_key.record.model_dump_json(), key.record.model_dump_json(), caplog.text]
    )
    assert image_key.record.kid in shown
    for secret in (repr(image_key.secret)[2:-1], image_key.secret.hex(), to_text(image_key.secret), key.api_key):
        assert secret not in shown


async def test_without_the_master_key_nothing_opens_and_the_operator_is_told(
    service: KeyService, client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    key, caller = await create(service)
    assert not await opens(another_service(client, masters=[NEXT_MASTER]), caller, first(key).record.kid)
    assert first(key).record.kid in caplog.text
    assert "SDB_MASTER_KEY" in caplog.text


async def test_an_entry_that_somebody_changed_in_the_store_does_not_open(service: KeyService, client: Redis) -> None:
    (key, caller), (other, _) = await create(service), await create(service)
    kid, foreign = first(key).record.kid, first(other).record.kid
    second = await issue(service, key)
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
