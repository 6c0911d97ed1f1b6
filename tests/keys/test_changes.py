"""Changes by admins: made once, in force with the next request, written down; beside others nothing is lost."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from redis.asyncio import Redis

from keys.budget_store import Ask
from keys.errors import ChangeRefused, IdempotencyMismatch, InvalidCredential, KeyChanged, QuotaExceeded, UnknownKey
from keys.image_keys import ImageKeyGrant
from keys.layout import hash_of
from keys.material import check_api_key
from keys.records import MAX_BUDGET, Act, Admission, Budget, BudgetGrant, KeyGrant, KeyPatch, KeyRecord, RateLimit
from keys.service import KeyService
from tests.keys.conftest import ADMIN, MASTER, NEXT_MASTER, Clock, another_service, embedded, hurried, issue
from tests.keys.services import admitted

ONE = Ask(1, 1, "tiny")
OTHER_ADMIN = "key_another"
Make = Callable[[KeyService, KeyRecord, Act], Awaitable[Any]]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hurried(embedded(tmp_path_factory.mktemp("changes"))) as url:
        yield url


@pytest.fixture
def other(client: Redis, clock: Clock) -> KeyService:
    """The same keys as another server has them."""
    return another_service(client, clock)


async def works(service: KeyService, *credentials: str) -> list[bool]:
    """Whether a request with each of the credentials is answered."""
    outcomes = await asyncio.gather(
        *(admitted(service, credential, ONE) for credential in credentials), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} <= {Admission, InvalidCredential}
    return [isinstance(outcome, Admission) for outcome in outcomes]


async def actions(service: KeyService) -> list[str]:
    """What the audit log says was done, oldest first."""
    entries, _ = await service.audit.page(None, 1000)
    return [entry.action for entry in reversed(entries)]


# --- made once

KEY = KeyGrant(name="partner", scopes=frozenset({"distill", "decrypt"}), image_key=ImageKeyGrant(scheme="sealed"))
CHANGES: dict[str, Make] = {
    "key.create": lambda service, _, act: service.lifecycle.create(KEY, act),
    "key.update": lambda service, key, act: service.lifecycle.update(key.id, KeyPatch(name="new"), act),
    "key.rotate": lambda service, key, act: service.lifecycle.rotate(key.id, 60, act),
    "key.revoke": lambda service, key, act: service.lifecycle.revoke(key.id, act),
    "key.disable": lambda service, key, act: service.lifecycle.disable(key.id, act),
    "key.enable": lambda service, key, act: service.lifecycle.enable(key.id, act),
    "key.top-up": lambda service, key, act: service.lifecycle.top_up(key.id, 5, act),
    "image-key.issue": lambda service, key, act: service.image_keys.issue(
        key.id, ImageKeyGrant(scheme="sealed"), 60, act
    ),
}
OTHERS: dict[str, Make] = {
    "another name": lambda service, _, act: service.lifecycle.create(KEY.model_copy(update={"name": "else"}), act),
    "another kind": lambda service, _, act: service.lifecycle.create(KeyGrant(name="partner"), act, "admin"),
    "another patch": lambda service, key, act: service.lifecycle.update(key.id, KeyPatch(name="newer"), act),
    "an empty patch": lambda service, key, act: service.lifecycle.update(key.id, KeyPatch(), act),
    "another overlap": lambda service, key, act: service.lifecycle.rotate(key.id, 61, act),
    "more answers": lambda service, key, act: service.lifecycle.top_up(key.id, 6, act),
    "another key": lambda service, _, act: service.lifecycle.revoke("key_another", act),
    "another overlap of an image key": lambda service, key, act: service.image_keys.issue(
        key.id, ImageKeyGrant(scheme="sealed"), 61, act
    ),
    "another scheme": lambda service, key, act: service.image_keys.issue(
        key.id, ImageKeyGrant(scheme="pixel", transform="np", block=4), 60, act
    ),
    "a retirement": lambda service, key, act: service.image_keys.retire(key.id, "img_a", 60, act),
}


@pytest.mark.parametrize("action", CHANGES)
async def test_a_change_of_one_name_is_made_once_and_told_the_same_on_every_server(
    service: KeyService, other: KeyService, action: str
) -> None:
    key = (await issue(service, scopes={"distill", "decrypt"})).record
    act = Act("cli", idempotency_key="once")
    made = [await CHANGES[action](one, key, act) for one in (service, other, service)]
    made += await asyncio.gather(*(CHANGES[action](one, key, act) for one in (service, other) * 3))
    assert made == [made[0]] * 9, "with the same secrets"
    assert (await actions(service)).count(action) == (2 if action == "key.create" else 1)
    assert len((await service.directory.page(None, 10))[0]) == (2 if action == "key.create" else 1)
    assert (await service.directory.show(key.id)).budget.granted == (5 if action == "key.top-up" else 0)


@pytest.mark.parametrize("action", CHANGES)
async def test_a_change_of_one_name_that_comes_ten_times_at_once_is_made_once(
    service: KeyService, other: KeyService, action: str
) -> None:
    key = (await issue(service, scopes={"distill", "decrypt"})).record
    act = Act("cli", idempotency_key="once")
    made = await asyncio.gather(*(CHANGES[action](one, key, act) for one in (service, other) * 5))
    assert made == [made[0]] * 10
    assert (await actions(service)).count(action) == (2 if action == "key.create" else 1)


@pytest.mark.parametrize("action", CHANGES)
async def test_a_name_that_came_with_another_change_is_refused_and_nothing_is_done(
    service: KeyService, action: str
) -> None:
    key = (await issue(service, scopes={"distill", "decrypt"})).record
    act = Act("cli", idempotency_key="once")
    await CHANGES[action](service, key, act)
    before = await service.audit.verify()
    for make in [*OTHERS.values(), *(CHANGES[name] for name in CHANGES if name != action)]:
        with pytest.raises(IdempotencyMismatch):
            await make(service, key, act)
    assert await service.audit.verify() == before


async def test_the_same_name_means_different_changes_of_different_admins(service: KeyService) -> None:
    keys = [await service.lifecycle.create(KEY, Act(actor, idempotency_key="once")) for actor in ("cli", OTHER_ADMIN)]
    assert keys[0].record.id != keys[1].record.id
    assert keys[0].api_key != keys[1].api_key


async def test_changes_without_a_name_are_changes_each(service: KeyService) -> None:
    key = (await issue(service)).record
    for _ in range(2):
        await service.lifecycle.top_up(key.id, 5, ADMIN)
    assert (await service.directory.show(key.id)).budget.granted == 10
    assert await actions(service) == ["key.create", "key.top-up", "key.top-up"]


async def test_a_change_that_was_refused_leaves_its_name_free(service: KeyService) -> None:
    act = Act("cli", idempotency_key="once")
    with pytest.raises(UnknownKey):
        await service.lifecycle.top_up("key_nobody", 5, act)
    key = (await issue(service)).record
    await service.lifecycle.top_up(key.id, 5, act)
    assert (await service.directory.show(key.id)).budget.granted == 5


async def test_a_retry_is_known_for_a_day_and_what_was_told_is_told_under_a_new_master_key_too(
    service: KeyService, client: Redis, clock: Clock
) -> None:
    act = Act("cli", idempotency_key="once")
    issued = await service.lifecycle.create(KEY, act)
    assert await another_service(client, clock, [NEXT_MASTER, MASTER]).lifecycle.create(KEY, act) == issued
    with pytest.raises(IdempotencyMismatch):
        await another_service(client, clock, [NEXT_MASTER]).lifecycle.create(KEY, act)
    (name,) = [str(name) async for name in client.scan_iter(match="sdb:change:*")]
    assert 86_395 < await client.ttl(name) <= 86_400


# --- beside others


async def test_twenty_top_ups_at_once_all_count(service: KeyService, other: KeyService) -> None:
    key = (await issue(service, 0)).record
    calls = (one.lifecycle.top_up(key.id, number + 1, ADMIN) for number, one in enumerate([service, other] * 10))
    await asyncio.gather(*calls)
    assert (await service.directory.show(key.id)).budget == Budget(limit=0, remaining=210, granted=210)
    assert len({entry.seq for entry in (await service.audit.page(None, 100))[0]}) == 21
    assert (await service.audit.verify()).intact


async def test_changes_of_different_fields_at_once_are_all_made(service: KeyService, other: KeyService) -> None:
    key = (await issue(service)).record
    patches = [
        KeyPatch(name="new"),
        KeyPatch(models=("tiny",)),
        KeyPatch(metadata={"a": "b"}),
        KeyPatch(budget=BudgetGrant(limit=7)),
        KeyPatch(rate_limits=(RateLimit(name="day", limit=9, window_s=86_400),)),
        KeyPatch(scopes=frozenset({"unlock"})),
    ]
    calls = (
        one.lifecycle.update(key.id, patch, ADMIN) for one, patch in zip([service, other] * 3, patches, strict=True)
    )
    await asyncio.gather(*calls)
    found = await service.directory.show(key.id)
    assert (found.name, found.models, found.metadata, found.budget.limit) == ("new", ("tiny",), {"a": "b"}, 7)
    assert (found.rate_limits[0].limit, found.scopes, found.revision) == (9, ("predict", "unlock"), 6)


async def test_updates_beside_charges_lose_no_charge(service: KeyService, other: KeyService) -> None:
    issued = await issue(service, 100)

    async def charged() -> int:
        answered = 0
        while answered < 40:
            try:
                await service.settle(await admitted(service, issued.api_key, ONE))
                answered += 1
            except KeyChanged:  # once more between reading the key and asking again
                continue
        return answered

    async def updated() -> None:
        for limit in range(101, 121):
            await other.lifecycle.update(issued.record.id, KeyPatch(budget=BudgetGrant(limit=limit)), ADMIN)

    answered, *_ = await asyncio.gather(charged(), updated())
    assert (await service.directory.show(issued.record.id)).budget == Budget(limit=120, remaining=120 - answered)


# --- what is changed


async def test_only_what_a_patch_names_is_changed(service: KeyService) -> None:
    rates = (RateLimit(name="day", limit=9, window_s=86_400),)
    key = (await issue(service, 7, metadata={"a": "b"}, models=("tiny",), rate_limits=rates)).record
    assert (await service.lifecycle.update(key.id, KeyPatch(), ADMIN)) == key.model_copy(update={"revision": 1})
    found = await service.lifecycle.update(key.id, KeyPatch(name="new", expires_at=None), ADMIN)
    assert found == key.model_copy(update={"revision": 2, "name": "new"})
    emptied = await service.lifecycle.update(key.id, KeyPatch(scopes=frozenset(), rate_limits=(), metadata={}), ADMIN)
    assert (emptied.scopes, emptied.rate_limits, emptied.metadata) == (("predict",), (), {})


async def test_a_top_up_is_refused_where_it_means_nothing_or_could_not_be_counted(service: KeyService) -> None:
    unlimited, full = (await issue(service, None)).record, (await issue(service, 0)).record
    with pytest.raises(ChangeRefused, match="unlimited"):
        await service.lifecycle.top_up(unlimited.id, 1, ADMIN)
    await service.lifecycle.top_up(full.id, MAX_BUDGET, ADMIN)
    for key in (full, (await issue(service, MAX_BUDGET)).record):
        with pytest.raises(ChangeRefused, match="more than"):
            await service.lifecycle.top_up(key.id, 1, ADMIN)
    with pytest.raises(ChangeRefused, match="more than"):
        await service.lifecycle.update(full.id, KeyPatch(budget=BudgetGrant(limit=1)), ADMIN)
    assert (await service.directory.show(full.id)).budget == Budget(limit=0, remaining=MAX_BUDGET, granted=MAX_BUDGET)


@pytest.mark.parametrize("patch", [{"scopes": ["distill"]}, {"models": ["a"]}, {"budget": {}}, {"rate_limits": []}])
async def test_an_admin_has_a_name_an_expiry_and_metadata_to_change(
    service: KeyService, patch: dict[str, object]
) -> None:
    admin = (await service.lifecycle.create(KeyGrant(name="admin"), ADMIN, "admin")).record
    with pytest.raises(ChangeRefused, match="admin key"):
        await service.lifecycle.update(admin.id, KeyPatch.model_validate({"name": "new", **patch}), ADMIN)
    found = await service.lifecycle.update(admin.id, KeyPatch(name="new", metadata={"a": "b"}), ADMIN)
    assert (found.name, found.metadata, found.scopes) == ("new", {"a": "b"}, ())


@pytest.mark.parametrize("action", [name for name in CHANGES if name.startswith("key.") and name != "key.create"])
async def test_a_key_that_does_not_exist_is_unknown_to_every_change(service: KeyService, action: str) -> None:
    nobody = (await issue(service)).record.model_copy(update={"id": "key_nobody"})
    with pytest.raises(UnknownKey):
        await CHANGES[action](service, nobody, ADMIN)
    assert await actions(service) == ["key.create"]


@pytest.mark.parametrize("action", ["key.update", "key.rotate", "key.disable", "key.enable", "key.top-up"])
async def test_a_revoked_key_is_revoked_for_good(service: KeyService, action: str) -> None:
    issued = await issue(service)
    revoked = await service.lifecycle.revoke(issued.record.id, ADMIN)
    with pytest.raises(ChangeRefused, match="revoked"):
        await CHANGES[action](service, revoked, ADMIN)
    assert await service.directory.show(revoked.id) == revoked
    assert (await service.lifecycle.revoke(revoked.id, ADMIN)).state == "revoked"
    assert await works(service, issued.api_key) == [False]


# --- states


async def test_a_disabled_key_does_nothing_until_it_is_enabled_and_its_tokens_never_again(
    service: KeyService, other: KeyService
) -> None:
    issued = await issue(service)
    token = service.tokens.issue(issued.record, None).token
    assert await works(other, issued.api_key, token) == [True, True]
    assert (await service.lifecycle.disable(issued.record.id, ADMIN)).state == "disabled"
    assert await works(other, issued.api_key, token) == [False, False]
    assert (await service.lifecycle.enable(issued.record.id, ADMIN)).state == "active"
    assert await works(other, issued.api_key, token) == [True, False]
    assert (await service.directory.show(issued.record.id)).budget.remaining == 97


async def test_enabling_what_is_active_ends_no_token(service: KeyService) -> None:
    issued = await issue(service)
    token = service.tokens.issue(issued.record, None).token
    await service.lifecycle.enable(issued.record.id, ADMIN)
    assert await works(service, token) == [True]


async def test_a_charge_that_was_held_when_its_key_ended_is_settled_or_given_back(service: KeyService) -> None:
    issued = await issue(service, 10)
    settled, released = [await admitted(service, issued.api_key, Ask(n, n, "tiny")) for n in (2, 3)]
    await service.lifecycle.revoke(issued.record.id, ADMIN)
    await service.settle(settled)
    await service.release(released)
    assert (await service.directory.show(issued.record.id)).budget.remaining == 8


# --- rotation


async def ends(client: Redis, key: KeyRecord) -> dict[str, float]:
    """When each API key that was replaced ends (seconds since 1970), by its field."""
    fields: Any = await client.hgetall(hash_of(key.id))
    return {name: float(until) / 1000 for name, until in fields.items() if name.startswith("digest:") and until}


async def let_the_overlap_end(client: Redis, key: KeyRecord) -> None:
    """As if the time of every API key that was replaced were over."""
    for name in await ends(client, key):
        await client.hset(hash_of(key.id), name, str(int(1000 * time.time())))


async def test_both_api_keys_work_during_the_overlap_and_only_the_new_one_after_it(
    service: KeyService, other: KeyService, client: Redis
) -> None:
    issued = await issue(service)
    assert await works(other, issued.api_key) == [True]
    rotated = await service.lifecycle.rotate(issued.record.id, 3600, ADMIN)
    assert (rotated.record.id, check_api_key(rotated.api_key), rotated.image_key) == (issued.record.id, "cli", None)
    for one in (service, other):
        assert await works(one, issued.api_key, rotated.api_key) == [True, True]
    await let_the_overlap_end(client, issued.record)
    for one in (service, other):
        assert await works(one, issued.api_key, rotated.api_key) == [False, True]
        with pytest.raises(InvalidCredential):
            await one.authenticate(issued.api_key)


async def test_without_an_overlap_the_old_api_key_ends_at_once(service: KeyService, other: KeyService) -> None:
    issued = await issue(service)
    assert await works(other, issued.api_key) == [True]
    rotated = await service.lifecycle.rotate(issued.record.id, 0, ADMIN)
    for one in (service, other):
        assert await works(one, issued.api_key, rotated.api_key) == [False, True]


async def test_the_tokens_of_a_rotated_key_end_at_once_and_new_ones_are_good(
    service: KeyService, other: KeyService
) -> None:
    issued = await issue(service)
    token = service.tokens.issue(issued.record, None).token
    assert await works(other, token) == [True]
    rotated = await service.lifecycle.rotate(issued.record.id, 3600, ADMIN)
    newer = service.tokens.issue(rotated.record, None).token
    for one in (service, other):
        assert await works(one, token, newer) == [False, True]


async def test_a_rotated_key_keeps_its_id_rights_budget_and_history(service: KeyService) -> None:
    issued = await issue(service, 10, metadata={"a": "b"})
    await service.settle(await admitted(service, issued.api_key, Ask(4, 4, "tiny")))
    before = await service.directory.show(issued.record.id)
    rotated = await service.lifecycle.rotate(issued.record.id, 0, ADMIN)
    assert rotated.record == before.model_copy(update={"epoch": 1, "revision": 1})
    with pytest.raises(QuotaExceeded):
        await admitted(service, rotated.api_key, Ask(7, 7, "tiny"))
    assert (
        sum(bucket.images for bucket in await service.directory.usage(before.id, "day") if bucket.outcome == "served")
        == 4
    )


async def test_two_rotations_within_one_overlap_leave_all_three_api_keys_and_prolong_none(
    service: KeyService, client: Redis
) -> None:
    issued = await issue(service)
    second = await service.lifecycle.rotate(issued.record.id, 600, ADMIN)
    third = await service.lifecycle.rotate(issued.record.id, 3600, ADMIN)
    assert await works(service, issued.api_key, second.api_key, third.api_key) == [True] * 3
    now = time.time()
    assert sorted(round(end - now, -1) for end in (await ends(client, issued.record)).values()) == [600, 3600]
    await service.lifecycle.rotate(issued.record.id, 300, ADMIN)
    assert [round(end - now, -1) for end in (await ends(client, issued.record)).values()] == [300] * 3
    await let_the_overlap_end(client, issued.record)
    last = await service.lifecycle.rotate(issued.record.id, 3600, ADMIN)
    assert await works(service, issued.api_key, second.api_key, third.api_key, last.api_key) == [False] * 3 + [True]
    names = [str(name) async for name in client.scan_iter(match="sdb:digest:*")]
    assert len(names) == 2, "what is over is forgotten with the next rotation"


async def test_an_admin_rotates_its_own_key_to_one_of_its_class(service: KeyService) -> None:
    admin = await service.lifecycle.create(KeyGrant(name="admin"), ADMIN, "admin")
    rotated = await service.lifecycle.rotate(admin.record.id, 0, Act(admin.record.id))
    assert check_api_key(rotated.api_key) == "adm"
    assert (await service.authenticate(rotated.api_key)).key == rotated.record


async def test_a_key_is_rotated_while_the_master_key_is_too(service: KeyService, client: Redis, clock: Clock) -> None:
    both, new = (another_service(client, clock, masters) for masters in ([NEXT_MASTER, MASTER], [NEXT_MASTER]))
    issued = await issue(service)
    rotated = await both.lifecycle.rotate(issued.record.id, 3600, ADMIN)
    assert rotated.record.master != issued.record.master
    assert await works(both, issued.api_key, rotated.api_key) == [True, True]
    assert await works(service, issued.api_key, rotated.api_key) == [True, False]
    assert await works(new, issued.api_key, rotated.api_key) == [True, True], "the old one was presented, and filed"
    await let_the_overlap_end(client, issued.record)
    assert await works(new, issued.api_key, rotated.api_key) == [False, True]
    assert await works(service, issued.api_key) == [False]
