"""What a server remembers of its callers: bounded, forgotten in time, and never believed over the store."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from redis.asyncio import Redis

from keys.budget_store import Ask
from keys.errors import InvalidCredential, KeyChanged, QuotaExceeded, RateLimited
from keys.recall import KEPT, Recall
from keys.records import Admission, BudgetGrant, Caller, KeyPatch, Origin, Proof, RateLimit
from keys.service import NOBODY, KeyService
from tests.keys.conftest import ADMIN, Clock, a_record, another_service, embedded, hurried, issue

HERE, THERE = Origin("1", "192.0.2.1"), Origin("2", "192.0.2.2")
ONE = Ask(1, 1, "tiny")


# --- the memory itself


def test_a_caller_is_recalled_by_what_it_presented_and_with_where_it_comes_from_now() -> None:
    recall, key = Recall(), a_record()
    recall.keep("secret", Caller(key, Proof("digest"), HERE))
    assert recall.find("secret", THERE, 0) == Caller(key, Proof("digest"), THERE, recalled=True)
    for other in ("", "secret ", "Secret", "digest", key.id):
        assert recall.find(other, THERE, 0) is None


def test_a_caller_with_an_end_is_not_recalled_from_then_on() -> None:
    recall = Recall()
    recall.keep("token", Caller(a_record()), until=100)
    assert recall.find("token", HERE, 99.9) is not None
    assert recall.find("token", HERE, 100) is None


def test_what_is_kept_again_is_what_is_recalled() -> None:
    recall, key = Recall(), a_record()
    recall.keep("secret", Caller(a_record()), until=100)
    recall.keep("secret", Caller(key))
    found = recall.find("secret", HERE, 200)
    assert found is not None
    assert found.key == key


def test_a_key_is_forgotten_with_all_that_was_presented_of_it_and_no_other_is() -> None:
    recall, key, other = Recall(), a_record(), a_record()
    for credential, owner in (("api key", key), ("token", key), ("other", other)):
        recall.keep(credential, Caller(owner))
    recall.forget(key.id)
    recall.forget("key_nobody")
    assert [recall.find(credential, HERE, 0) is None for credential in ("api key", "token", "other")] == [
        True,
        True,
        False,
    ]


def test_the_memory_holds_those_who_came_last() -> None:
    recall, key = Recall(), a_record()
    for number in range(KEPT):
        recall.keep(f"{number}", Caller(key))
    assert recall.find("0", HERE, 0) is not None, "who comes again has come last"
    for number in range(KEPT, KEPT + 10):
        recall.keep(f"{number}", Caller(key))
    found = [recall.find(f"{number}", HERE, 0) is not None for number in range(KEPT + 10)]
    assert found == [True] + [False] * 10 + [True] * (KEPT - 1)


def test_no_memory_holds_a_secret() -> None:
    recall = Recall()
    recall.keep("sdb_cli_secret", Caller(a_record()))
    assert "sdb_cli_secret" not in repr(vars(recall))


# --- two servers on one store


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hurried(embedded(tmp_path_factory.mktemp("recall"))) as url:
        yield url


@pytest.fixture
def other(client: Redis, clock: Clock) -> KeyService:
    """The server that remembers what it has seen; `service` is the one where the changes are made."""
    return another_service(client, clock)


async def rights(server: KeyService, credential: str, ask: Ask = ONE) -> tuple[Caller, Admission]:
    """Of a request: by whose rights it is answered in the end, and its admission."""
    caller = await server.recall(credential, HERE)
    try:
        return caller, await server.admit(caller, ask)
    except KeyChanged:
        caller = await server.renewed(caller)
        return caller, await server.admit(caller, ask)


async def test_a_caller_is_recalled_without_asking_the_store(
    service: KeyService, other: KeyService, client: Redis
) -> None:
    issued = await issue(service)
    for credential in (issued.api_key, service.tokens.issue(issued.record, "distill").token):
        first = await other.recall(credential, HERE)
        assert not first.recalled
        before = (await client.info("commandstats")).get("cmdstat_evalsha", {}).get("calls")
        second = await other.recall(credential, THERE)
        assert (second.recalled, second.origin) == (True, THERE)
        assert (second.key, second.proof) == (first.key, first.proof)
        assert (await client.info("commandstats")).get("cmdstat_evalsha", {}).get("calls") == before


PATCHES = {
    "name": KeyPatch(name="new"),
    "scopes": KeyPatch(scopes=frozenset({"unlock"})),
    "models": KeyPatch(models=("other",)),
    "expires_at": KeyPatch(expires_at=datetime(2100, 1, 1, tzinfo=UTC)),
    "budget": KeyPatch(budget=BudgetGrant(limit=50)),
    "rate_limits": KeyPatch(rate_limits=(RateLimit(name="day", limit=5, window_s=86_400),)),
    "metadata": KeyPatch(metadata={"new": "value"}),
    "mark": KeyPatch(mark=0.25),
}


def test_every_field_of_a_patch_is_tried() -> None:
    assert set(PATCHES) == set(KeyPatch.model_fields)


@pytest.mark.parametrize("field", PATCHES)
@pytest.mark.parametrize("presented", ["api key", "token"])
async def test_a_patch_is_in_force_with_the_next_request_on_every_server(
    service: KeyService, other: KeyService, field: str, presented: str
) -> None:
    issued = await issue(service)
    credential = issued.api_key if presented == "api key" else service.tokens.issue(issued.record, None).token
    await rights(other, credential)
    patched = await service.lifecycle.update(issued.record.id, PATCHES[field], ADMIN)
    caller, admission = await rights(other, credential)
    assert caller.key is not None
    assert getattr(caller.key, field) == getattr(patched, field) != getattr(issued.record, field)
    assert caller.may("distill", "tiny") == (field not in {"scopes", "models"})
    assert admission.budget.remaining == (48 if field == "budget" else 98)
    assert [standing.remaining for standing in admission.standings] == ([4] if field == "rate_limits" else [])


async def test_less_is_in_force_with_the_next_request_on_every_server(service: KeyService, other: KeyService) -> None:
    issued = await issue(service)
    await rights(other, issued.api_key)
    await service.lifecycle.update(issued.record.id, KeyPatch(budget=BudgetGrant(limit=1)), ADMIN)
    with pytest.raises(QuotaExceeded):
        await rights(other, issued.api_key)
    rates = (RateLimit(name="day", limit=1, window_s=86_400),)
    await service.lifecycle.update(issued.record.id, KeyPatch(budget=BudgetGrant(limit=None), rate_limits=rates), ADMIN)
    await rights(other, issued.api_key)
    with pytest.raises(RateLimited):
        await rights(other, issued.api_key)
    await service.lifecycle.update(issued.record.id, KeyPatch(expires_at=datetime(2020, 1, 1, tzinfo=UTC)), ADMIN)
    with pytest.raises(InvalidCredential):
        await rights(other, issued.api_key)


async def test_a_top_up_is_in_force_with_the_next_request_on_every_server(
    service: KeyService, other: KeyService
) -> None:
    issued = await issue(service, 1)
    await rights(other, issued.api_key)
    with pytest.raises(QuotaExceeded):
        await rights(other, issued.api_key)
    await service.lifecycle.top_up(issued.record.id, 1, ADMIN)
    assert (await rights(other, issued.api_key))[1].budget.remaining == 0


@pytest.mark.parametrize("end", ["revoke", "disable", "rotate", "revoke the token"])
async def test_what_ends_a_credential_ends_it_on_a_server_that_recalls_it(
    service: KeyService, other: KeyService, end: str
) -> None:
    issued = await issue(service)
    token = service.tokens.issue(issued.record, None).token
    for credential in (issued.api_key, token):
        await rights(other, credential)
    match end:
        case "revoke":
            await service.lifecycle.revoke(issued.record.id, ADMIN)
        case "disable":
            await service.lifecycle.disable(issued.record.id, ADMIN)
        case "rotate":
            await service.lifecycle.rotate(issued.record.id, 0, ADMIN)
        case _:
            await service.tokens.revoke(issued.record, token, ADMIN)
    for credential in (issued.api_key, token):
        if credential == issued.api_key and end == "revoke the token":
            assert (await rights(other, credential))[0].key is not None
            continue
        for _ in range(2):
            with pytest.raises(InvalidCredential):
                await rights(other, credential)


async def test_an_expired_token_is_not_recalled(service: KeyService, clock: Clock) -> None:
    issued = await issue(service)
    token = service.tokens.issue(issued.record, None).token
    await rights(service, token)
    clock.now += 899
    await rights(service, token)
    clock.now += 1
    with pytest.raises(InvalidCredential):
        await rights(service, token)


async def test_a_key_that_expires_is_not_answered_because_it_is_recalled(service: KeyService, client: Redis) -> None:
    issued = await issue(service)
    await rights(service, issued.api_key)
    await client.hset(f"sdb:{{{issued.record.id}}}", "expires_at", "1")
    assert (await service.recall(issued.api_key, NOBODY)).recalled
    with pytest.raises(InvalidCredential):
        await rights(service, issued.api_key)


async def test_the_second_request_after_a_change_is_not_judged_twice(service: KeyService, other: KeyService) -> None:
    issued = await issue(service)
    await rights(other, issued.api_key)
    await service.lifecycle.update(issued.record.id, KeyPatch(name="new"), ADMIN)
    with pytest.raises(KeyChanged):
        await other.admit(await other.recall(issued.api_key, HERE), ONE)
    caller = await other.renewed(await other.recall(issued.api_key, HERE))
    assert (caller.key is not None and caller.key.name, caller.recalled) == ("new", True)
    await other.admit(caller, ONE)
    await other.admit(await other.recall(issued.api_key, HERE), ONE)


async def test_changes_beside_many_requests_are_believed_by_all_that_begin_after_them(
    service: KeyService, other: KeyService
) -> None:
    issued = await issue(service, 1000)
    for _ in range(5):
        before, *_ = await asyncio.gather(
            asyncio.gather(*(rights(other, issued.api_key) for _ in range(10)), return_exceptions=True),
            service.lifecycle.revoke(issued.record.id, ADMIN),
        )
        assert {type(outcome) for outcome in before} <= {tuple, InvalidCredential, KeyChanged}
        with pytest.raises(InvalidCredential):
            await rights(other, issued.api_key)
        issued = await issue(service, 1000)
