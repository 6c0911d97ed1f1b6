"""Keys as callers and admins meet them: issue, find, authenticate, admit, refuse.

How keys are changed is in test_changes.py, what a server remembers of its callers in test_recall.py.
"""

import asyncio
import time
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone

import pytest
from redis import Redis as PlainRedis
from redis.asyncio import Redis

from keys import directory
from keys.budget_store import Ask
from keys.errors import InvalidCredential, MissingScope, QuotaExceeded, RateLimited, StoreUnavailable, UnknownKey
from keys.material import Keyring, Vault, base62, check_api_key, new_api_key
from keys.records import BudgetGrant, Caller, IssuedKey, KeyGrant, KeyRecord, Origin, Proof, RateLimit, Scope, instant
from keys.service import KeyService
from keys.store import KeyStore
from keys.tokens import TokenMint
from tests.keys.conftest import ADMIN, MASTER, NEXT_MASTER, Clock, another_service, embedded, hurried, issue

SCOPES: tuple[Scope, ...] = ("predict", "distill", "decrypt", "unlock")
FROM = Origin("request-7", "192.0.2.7")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hurried(embedded(tmp_path_factory.mktemp("service"))) as url:
        yield url


def a_grant(*scopes: Scope, **changes: object) -> KeyGrant:
    return KeyGrant.model_validate({"name": "partner", "scopes": frozenset(scopes), **changes})


async def an_admin(service: KeyService) -> IssuedKey:
    return await service.lifecycle.create(a_grant(*SCOPES), ADMIN, "admin")


def token_of(service: KeyService, key: KeyRecord, scope: str | None = None) -> str:
    return service.tokens.issue(key, scope).token


async def refuses(service: KeyService, *credentials: str) -> bool:
    """Whether each of the credentials is refused; says which is not."""
    for credential in credentials:
        with pytest.raises(InvalidCredential):
            await service.authenticate(credential)
    return True


async def noted(service: KeyService) -> None:
    """Return when what was refused is written down, which the refusal does not wait for."""
    await asyncio.gather(*service._notes)


async def counted(service: KeyService, key: KeyRecord) -> dict[str, int]:
    return {bucket.outcome: bucket.images for bucket in await service.directory.usage(key.id, "day")}


async def logged(service: KeyService) -> list[tuple[str, object]]:
    """The refusals in the audit log: whose, and why; newest first."""
    entries, _ = await service.audit.page(None, 1000)
    return [(entry.target, entry.detail["code"]) for entry in entries if entry.action == "refusal"]


# --- making keys


@pytest.mark.parametrize("scopes", [(), ("predict",), ("unlock",), ("distill", "decrypt")])
async def test_a_client_key_has_the_scopes_it_was_granted_and_predict(
    service: KeyService, scopes: tuple[Scope, ...]
) -> None:
    issued = await service.lifecycle.create(a_grant(*scopes), ADMIN)
    assert set(issued.record.scopes) == {*scopes, "predict"}
    assert check_api_key(issued.api_key) == "cli"


async def test_an_admin_key_has_its_own_class_and_no_scope(service: KeyService) -> None:
    assert not await service.has_admin()
    issued = await an_admin(service)
    assert (issued.record.kind, issued.record.scopes, check_api_key(issued.api_key)) == ("admin", (), "adm")
    assert await service.has_admin()
    caller = await service.authenticate(issued.api_key)
    assert not any(caller.may(scope, "tiny") for scope in SCOPES)


@pytest.mark.parametrize(
    "expires_at",
    [
        None,
        datetime(2100, 1, 1, tzinfo=UTC),
        datetime(2100, 1, 1, 12, 30, 15, 999_999, tzinfo=timezone(timedelta(hours=2))),
        datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC),
    ],
    ids=["never", "whole-second", "fraction", "far"],
)
async def test_what_create_answers_is_what_show_says_ever_after(
    service: KeyService, expires_at: datetime | None
) -> None:
    rates = (RateLimit(name="burst", limit=3, window_s=1), RateLimit(name="day", limit=9, window_s=86_400))
    budget = BudgetGrant(limit=7, refill="monthly")
    key = (
        await issue(
            service, expires_at=expires_at, budget=budget, metadata={"a": "ß\n"}, models=("tiny",), rate_limits=rates
        )
    ).record
    assert await service.directory.show(key.id) == key
    assert (key.budget.limit, key.budget.remaining, key.budget.refill) == (7, 7, "monthly")
    assert (key.metadata, key.models, key.rate_limits, key.last_used_at) == ({"a": "ß\n"}, ("tiny",), rates, None)


async def test_a_key_that_expires_in_the_far_future_works_today(service: KeyService) -> None:
    issued = await issue(service, expires_at=datetime(9999, 12, 31, tzinfo=UTC))
    assert (await service.authenticate(issued.api_key)).key is not None


async def test_a_key_is_registered_for_an_api_key_that_exists(service: KeyService) -> None:
    api_key = new_api_key("adm")
    issued = await service.lifecycle.register(a_grant(), ADMIN, "admin", api_key)
    assert (await service.authenticate(api_key)).key == issued.record


async def test_a_record_never_shows_a_secret(service: KeyService) -> None:
    issued = await issue(service)
    shown = repr(issued) + repr(await service.directory.show(issued.record.id)) + issued.record.model_dump_json()
    shown += repr(await service.authenticate(issued.api_key, FROM))
    assert issued.api_key[8:40] not in shown


# --- finding keys


async def test_pages_hold_each_key_once_and_the_last_has_no_cursor(service: KeyService) -> None:
    newest_first = [(await issue(service)).record for _ in range(5)][::-1]
    first, cursor = await service.directory.page(None, 2)
    second, cursor_2 = await service.directory.page(cursor, 2)
    third, end = await service.directory.page(cursor_2, 2)
    assert first + second + third == newest_first
    assert end is None
    assert await service.directory.page(None, 5) == (newest_first, None)
    with pytest.raises(UnknownKey):
        await service.directory.page("key_nobody", 2)


async def test_a_search_finds_part_of_a_name_an_id_or_a_metadata_value_in_any_case(service: KeyService) -> None:
    named = (await issue(service, name="Straße & Söhne")).record
    described = (await issue(service, metadata={"owner": "A. Turing", "k": "v"})).record
    other = (await issue(service, name="other")).record
    expected = {
        "STRASSE": [named],
        "söhne": [named],
        "turing": [described],
        "owner": [],
        described.id[8:].upper(): [described],
        "key_": [other, described, named],
        "": [other, described, named],
        "*": [],
        "nobody": [],
    }
    assert {search: (await service.directory.page(None, 9, search))[0] for search in expected} == expected


async def test_pages_of_a_search_hold_each_match_once(service: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_PAGE", 4)  # or hundreds of keys would have to be made
    made = [(await issue(service, name=f"{'even' if n % 2 == 0 else 'odd'} {n}")).record for n in range(15)]
    for size in (1, 2, 3, 7, 8, 9):
        seen: list[KeyRecord] = []
        cursor: str | None = None
        for _ in range(10):
            found, cursor = await service.directory.page(cursor, size, "EVEN")
            assert len(found) == size or cursor is None
            seen += found
            if cursor is None:
                break
        assert seen == made[::-2]


async def test_a_search_that_takes_long_gives_what_it_has_and_a_cursor(
    service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "MAX_PAGE", 4)
    monkeypatch.setattr(directory, "MOST_SEARCHED", 8)
    needle = (await issue(service, name="needle")).record
    for _ in range(10):
        await issue(service, name="hay")
    found, cursor = await service.directory.page(None, 5, "needle")
    assert found == []
    assert await service.directory.page(cursor, 5, "needle") == ([needle], None)


async def test_the_usage_of_a_key_that_does_not_exist_is_unknown(service: KeyService) -> None:
    with pytest.raises(UnknownKey):
        await service.directory.usage("key_nobody", "day")


# --- authenticating


async def test_an_api_key_and_its_token_authenticate_as_the_key_with_its_scopes(service: KeyService) -> None:
    issued = await issue(service, scopes={"distill", "unlock"})
    for credential in (issued.api_key, token_of(service, issued.record)):
        caller = await service.authenticate(credential, FROM)
        assert (caller.key, caller.origin, caller.recalled) == (issued.record, FROM, False)
        assert caller.scopes == {"predict", "distill", "unlock"}


async def test_revoking_kills_the_api_key_and_its_token_at_once_and_no_other_key(service: KeyService) -> None:
    issued, other = await issue(service), await issue(service)
    token = token_of(service, issued.record)
    revoked = await service.lifecycle.revoke(issued.record.id, ADMIN)
    assert (revoked.state, (await service.directory.show(issued.record.id)).state) == ("revoked", "revoked")
    assert await refuses(service, issued.api_key, token)
    with pytest.raises(InvalidCredential):
        await service.client(issued.record.id, issued.api_key)
    assert (await service.authenticate(other.api_key)).key is not None


async def test_a_key_and_its_token_end_with_its_expiry(service: KeyService, clock: Clock) -> None:
    issued = await issue(service, expires_at=instant(clock.now + 100))
    token = token_of(service, issued.record)
    clock.now += 98
    assert (await service.authenticate(issued.api_key)).key == (await service.authenticate(token)).key == issued.record
    clock.now += 3
    assert await refuses(service, issued.api_key, token)
    with pytest.raises(InvalidCredential):
        await service.client(issued.record.id, issued.api_key)


async def test_a_client_is_known_by_its_id_and_its_api_key(service: KeyService) -> None:
    one, other = await issue(service), await issue(service)
    assert await service.client(one.record.id, one.api_key) == one.record
    for client_id, secret in ((one.record.id, other.api_key), ("", one.api_key), (one.record.id, "")):
        with pytest.raises(InvalidCredential):
            await service.client(client_id, secret)


async def test_a_token_of_another_epoch_is_refused(service: KeyService, mint: TokenMint) -> None:
    key = (await issue(service)).record
    tokens = {epoch: mint.issue(key.id, epoch, frozenset({"predict"})) for epoch in (-1, 0, 1)}
    assert (await service.authenticate(tokens[0])).key == key
    assert await refuses(service, tokens[-1], tokens[1])


async def test_a_key_of_an_older_master_key_is_found_after_rotation_and_ever_after_if_it_was_presented(
    service: KeyService, client: Redis, clock: Clock
) -> None:
    issued, absent = await issue(service), await issue(service)
    rotated = another_service(client, clock, [NEXT_MASTER, MASTER])
    caller = await rotated.authenticate(issued.api_key)
    assert caller.key is not None
    assert caller.key.id == issued.record.id
    await rotated.admit(caller, Ask(1, 1, "tiny"))
    assert (await service.authenticate(issued.api_key)).key is not None, "a replica with the old ring still runs"
    newer = await issue(rotated)
    assert await refuses(service, newer.api_key)
    without_old = another_service(client, clock, [NEXT_MASTER])
    assert await refuses(without_old, absent.api_key)
    for credential in (issued.api_key, newer.api_key):
        assert (await without_old.authenticate(credential)).key is not None


async def test_presenting_a_revoked_key_does_not_file_it_anew(service: KeyService, client: Redis, clock: Clock) -> None:
    issued = await issue(service)
    await service.lifecycle.revoke(issued.record.id, ADMIN)
    assert await refuses(another_service(client, clock, [NEXT_MASTER, MASTER]), issued.api_key)
    with pytest.raises(InvalidCredential):
        await KeyStore(client).find(Vault(Keyring([NEXT_MASTER])).digests(issued.api_key))


async def test_every_refused_credential_gets_one_text(service: KeyService, mint: TokenMint, clock: Clock) -> None:
    expiring = await issue(service, expires_at=instant(clock.now + 10))
    expired_token = token_of(service, expiring.record)
    revoked, disabled, rotated = await issue(service), await issue(service), await issue(service)
    revoked_token, rotated_token = token_of(service, revoked.record), token_of(service, rotated.record)
    await service.lifecycle.revoke(revoked.record.id, ADMIN)
    await service.lifecycle.disable(disabled.record.id, ADMIN)
    await service.lifecycle.rotate(rotated.record.id, 0, ADMIN)
    good, admin = await issue(service), await an_admin(service)
    buried = token_of(service, good.record)
    await service.tokens.revoke(good.record, buried, ADMIN)
    clock.now += 20
    scopes = frozenset({"predict"})
    credentials = {
        "empty": "",
        "space": " ",
        "malformed": "sdb_",
        "bad checksum": new_api_key("cli")[:-1] + "~",
        "unknown": new_api_key("cli"),
        "unknown admin": new_api_key("adm"),
        "the id": good.record.id,
        "expired": expiring.api_key,
        "token of an expired key": expired_token,
        "revoked": revoked.api_key,
        "token of a revoked key": revoked_token,
        "disabled": disabled.api_key,
        "replaced": rotated.api_key,
        "token of a rotated key": rotated_token,
        "revoked token": buried,
        "with a space": good.api_key + " ",
        "not a token": "a.b.c",
        "token of no key": mint.issue("key_nobody", 0, scopes),
        "token of an admin": mint.issue(admin.record.id, 0, scopes),
        "token of an odd id": mint.issue("", 0, scopes),
    }
    answers: dict[str, str] = {}
    for name, credential in credentials.items():
        with pytest.raises(InvalidCredential) as refusal:
            await service.authenticate(credential)
        answers[name] = f"{refusal.value.code}: {refusal.value}"
    for client_id, secret in (
        (good.record.id, new_api_key("cli")),
        (revoked.record.id, good.api_key),
        ("key_nobody", good.api_key),
    ):
        with pytest.raises(InvalidCredential) as refusal:
            await service.client(client_id, secret)
        answers[client_id] = f"{refusal.value.code}: {refusal.value}"
    assert len(set(answers.values())) == 1, answers


class CountingVault(Vault):
    """A vault that counts what it has made digests of."""

    digested = 0

    def digests(self, api_key: str) -> list[str]:
        self.digested += 1
        return super().digests(api_key)


async def test_every_refused_api_key_costs_the_same(url: str, client: Redis, mint: TokenMint, clock: Clock) -> None:
    """Or a stranger could tell by the time it takes which one was good once."""
    vault = CountingVault(Keyring([NEXT_MASTER, MASTER]))
    service = KeyService(KeyStore(client), vault, mint, clock)
    expired, older = await issue(service, expires_at=instant(clock.now + 10)), another_service(client, clock)
    revoked, disabled, replaced, filed_before = [await issue(maker) for maker in (service, service, service, older)]
    for ended in (revoked, filed_before):
        await service.lifecycle.revoke(ended.record.id, ADMIN)
    await service.lifecycle.disable(disabled.record.id, ADMIN)
    await service.lifecycle.rotate(replaced.record.id, 0, ADMIN)
    clock.now += 20
    malformed = "sdb_xyz_" + new_api_key("cli")[8:-6]
    known = [ended.api_key for ended in (expired, revoked, disabled, replaced, filed_before)]
    costs = []
    with PlainRedis.from_url(url) as observer:
        for _ in range(2):
            for credential in (*known, new_api_key("cli"), malformed + base62(zlib.crc32(malformed.encode()), 6)):
                trips, digested = _trips(observer), vault.digested
                assert await refuses(service, credential)
                costs.append((_trips(observer) - trips, vault.digested - digested))
                await noted(service)
    assert len(set(costs)) == 1, costs
    assert costs[0][1] == 1


def _trips(observer: PlainRedis) -> int:
    """How often the store has read from its connections; no task goes on meanwhile."""
    return int(observer.info("stats")["total_reads_processed"])


# --- rights


async def test_a_narrower_token_holds_only_its_own_scopes(service: KeyService) -> None:
    issued = await issue(service, scopes={"distill", "unlock"})
    narrow = await service.authenticate(token_of(service, issued.record, "distill"))
    assert {scope for scope in SCOPES if narrow.may(scope, "tiny")} == {"predict", "distill"}
    whole = await service.authenticate(issued.api_key)
    assert {scope for scope in SCOPES if whole.may(scope, "tiny")} == {"predict", "distill", "unlock"}


async def test_a_key_for_some_models_has_no_right_on_others(service: KeyService) -> None:
    issued = await issue(service, models=("tiny", "cifar10"))
    for credential in (issued.api_key, token_of(service, issued.record)):
        caller = await service.authenticate(credential)
        rights = {(scope, model) for scope in SCOPES for model in ("tiny", "cifar10", "other", "*", "tin")}
        assert {right for right in rights if caller.may(*right)} == {
            (scope, model) for scope in ("predict", "distill") for model in ("tiny", "cifar10")
        }


async def test_a_key_for_all_models_has_its_rights_on_each(service: KeyService) -> None:
    caller = await service.authenticate((await issue(service)).api_key)
    assert caller.may("distill", "any name")
    assert not caller.may("unlock", "any name")


async def test_the_anonymous_caller_may_predict_and_has_no_budget(service: KeyService) -> None:
    assert {scope for scope in SCOPES if Caller().may(scope, "tiny")} == {"predict"}
    with pytest.raises(MissingScope):
        await service.admit(Caller(), Ask(1, 1, "tiny"))
    assert await service.renewed(Caller()) == Caller()


# --- requests


async def test_an_api_key_and_its_token_spend_one_budget(service: KeyService) -> None:
    issued = await issue(service, 10)
    by_key = await service.authenticate(issued.api_key)
    by_token = await service.authenticate(token_of(service, issued.record))
    settled = await service.admit(by_key, Ask(4, 4, "tiny"))
    released = await service.admit(by_token, Ask(6, 6, "tiny"))
    with pytest.raises(QuotaExceeded):
        await service.admit(by_key, Ask(1, 1, "tiny"))
    await service.settle(settled)
    await service.release(released)
    assert (await service.directory.show(issued.record.id)).budget.remaining == 6


async def test_a_caller_without_a_key_is_counted_by_its_network(service: KeyService) -> None:
    rate = RateLimit(name="anonymous", limit=3, window_s=60)
    assert (await service.pass_window("192.0.2.1", rate, 2)).remaining == 1
    with pytest.raises(RateLimited):
        await service.pass_window("192.0.2.1", rate, 2)
    assert (await service.pass_window("2001:db8::/64", rate, 2)).remaining == 1


async def test_a_service_whose_store_answers_is_reachable_and_ready_when_there_was_a_key(service: KeyService) -> None:
    await service.reachable()
    with pytest.raises(StoreUnavailable, match="empty"):
        await service.ready()
    await issue(service)
    await service.ready()


async def test_a_service_is_not_ready_for_another_store_than_the_one_that_it_knows(
    service: KeyService, client: Redis
) -> None:
    key = await issue(service)
    await service.ready()
    await issue(service)
    await service.lifecycle.revoke(key.record.id, ADMIN)
    await service.ready()
    await client.rename("sdb:keys", "elsewhere")
    await client.zadd("sdb:keys", {"key_of_somebody_else": 1})
    with pytest.raises(StoreUnavailable, match="another"):
        await service.ready()
    await client.rename("elsewhere", "sdb:keys")
    await service.ready()


# --- refusals


async def test_a_refusal_is_counted_each_time_and_logged_once_a_minute(service: KeyService, client: Redis) -> None:
    day = RateLimit(name="day", limit=5, window_s=86_400)
    issued = await issue(service, 2, rate_limits=(day,))
    caller = await service.authenticate(issued.api_key, FROM)
    for ask, error in ((Ask(3, 3, "tiny"), QuotaExceeded), (Ask(6, 0, "tiny"), RateLimited)):
        for _ in range(3):
            with pytest.raises(error):
                await service.admit(caller, ask)
    for _ in range(3):
        await service.refused(issued.record.id, "tiny", MissingScope.code, FROM, 4)
    assert await counted(service, issued.record) == {"quota-exceeded": 9, "rate-limited": 18, "missing-scope": 12}
    codes = ["missing-scope", "rate-limited", "quota-exceeded"]
    assert await logged(service) == [(issued.record.id, code) for code in codes]
    (entry, *_), _ = await service.audit.page(None, 1)
    assert (entry.actor, entry.request_id, entry.address) == (issued.record.id, "request-7", "192.0.2.7")
    assert entry.detail == {"code": "missing-scope", "model": "tiny"}
    await client.delete(f"sdb:{{{issued.record.id}}}:refused:missing-scope")
    await service.refused(issued.record.id, "tiny", MissingScope.code, FROM, 4)
    assert len(await logged(service)) == 4
    assert (await service.audit.verify()).intact


async def test_a_dead_credential_of_a_key_is_counted_and_logged_and_an_unknown_one_is_not(
    service: KeyService, clock: Clock
) -> None:
    expired = await issue(service, expires_at=instant(clock.now + 10))
    revoked = await issue(service)
    token = token_of(service, revoked.record)
    caller = await service.authenticate(revoked.api_key)
    await service.lifecycle.revoke(revoked.record.id, ADMIN)
    clock.now += 11
    before = await logged(service)
    assert await refuses(service, expired.api_key, token, revoked.api_key, new_api_key("cli"), "a.b.c")
    with pytest.raises(InvalidCredential):
        await service.admit(caller, Ask(5, 5, "tiny"))
    assert before == []
    await noted(service)
    assert await logged(service) == [(key.record.id, "invalid-credential") for key in (revoked, expired)]
    assert await counted(service, expired.record) == {}, "no image was looked at"
    assert (await service.directory.usage(revoked.record.id, "day"))[-1].images == 5


async def test_who_was_authenticated_before_the_key_was_changed_charges_nothing_after_it(service: KeyService) -> None:
    issued = await issue(service, 10)
    caller = await service.authenticate(issued.api_key)
    assert caller.proof == Proof(Vault(Keyring([MASTER])).digests(issued.api_key)[0])
    await service.lifecycle.revoke(issued.record.id, ADMIN)
    with pytest.raises(InvalidCredential):
        await service.admit(caller, Ask(1, 1, "tiny"))
    assert (await service.directory.show(issued.record.id)).budget.remaining == 10


async def test_a_request_is_used_when_it_is_made(service: KeyService) -> None:
    issued = await issue(service)
    await service.admit(await service.authenticate(issued.api_key), Ask(1, 0, "tiny"))
    used = (await service.directory.show(issued.record.id)).last_used_at
    assert used is not None
    assert abs(used.timestamp() - time.time()) < 5
