"""Keys as callers and admins meet them: issue, authenticate, exchange, revoke, charge."""

import hashlib
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone

import pytest

from keys.connection import connect
from keys.embedded import EmbeddedStore
from keys.errors import InvalidCredential, InvalidGrant, MissingScope, QuotaExceeded, UnknownKey
from keys.material import Keyring, Vault, check_api_key, new_api_key
from keys.records import BudgetGrant, Caller, KeyGrant, KeyKind, KeyRecord, Scope, instant
from keys.service import KeyService
from keys.store import KeyStore
from keys.tokens import Claims, TokenMint

MASTER, NEXT_MASTER, SIGNING = (hashlib.sha256(name).digest() for name in (b"master", b"next", b"signing"))
SCOPES: tuple[Scope, ...] = ("predict", "distill", "decrypt", "unlock")


@dataclass
class Clock:
    """A clock that stands until it is set."""

    now: float

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with EmbeddedStore(tmp_path_factory.mktemp("service")) as store:
        yield store.url


@pytest.fixture
async def store(url: str) -> AsyncIterator[KeyStore]:
    async with connect(url) as client:
        await client.flushall()
        yield KeyStore(client)


@pytest.fixture
def clock() -> Clock:
    return Clock(time.time())


@pytest.fixture
def mint(clock: Clock) -> TokenMint:
    return TokenMint(Keyring([SIGNING]), 900, clock)


@pytest.fixture
def service(store: KeyStore, mint: TokenMint, clock: Clock) -> KeyService:
    return KeyService(store, Vault(Keyring([MASTER])), mint, clock)


def a_grant(*scopes: Scope, **changes: object) -> KeyGrant:
    return KeyGrant.model_validate({"name": "partner", "scopes": frozenset(scopes), **changes})


async def create(service: KeyService, grant: KeyGrant, kind: KeyKind = "client") -> tuple[KeyRecord, str]:
    issued = await service.create(grant, kind)
    return issued.record, issued.api_key


async def token_of(service: KeyService, key: KeyRecord, api_key: str, scope: str | None = None) -> str:
    token, _, _ = await service.token(key.id, api_key, scope)
    return token


async def refuses(service: KeyService, *credentials: str) -> bool:
    """Whether each of the credentials is refused; says which is not."""
    for credential in credentials:
        with pytest.raises(InvalidCredential):
            await service.authenticate(credential)
    return True


# --- making keys


@pytest.mark.parametrize("scopes", [(), ("predict",), ("unlock",), ("distill", "decrypt")])
async def test_a_client_key_has_the_scopes_it_was_granted_and_predict(
    service: KeyService, scopes: tuple[Scope, ...]
) -> None:
    key, api_key = await create(service, a_grant(*scopes))
    assert set(key.scopes) == {*scopes, "predict"}
    assert check_api_key(api_key) == "cli"


async def test_an_admin_key_has_its_own_class_and_no_scope(service: KeyService) -> None:
    assert not await service.has_admin()
    key, api_key = await create(service, a_grant(*SCOPES), "admin")
    assert (key.kind, key.scopes, check_api_key(api_key)) == ("admin", (), "adm")
    assert await service.has_admin()
    caller = await service.authenticate(api_key)
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
    grant = a_grant(
        "distill", expires_at=expires_at, budget=BudgetGrant(limit=7), metadata={"a": "b"}, models=("tiny",)
    )
    key, _ = await create(service, grant)
    assert await service.show(key.id) == key
    assert (key.budget.limit, key.budget.remaining, key.metadata, key.models) == (7, 7, {"a": "b"}, ("tiny",))


async def test_a_key_that_expires_in_the_far_future_works_today(service: KeyService) -> None:
    _, api_key = await create(service, a_grant(expires_at=datetime(9999, 12, 31, tzinfo=UTC)))
    assert (await service.authenticate(api_key)).key is not None


async def test_a_key_is_registered_for_an_api_key_that_exists(service: KeyService) -> None:
    api_key = new_api_key("adm")
    issued = await service.register(a_grant(), "admin", api_key)
    assert (await service.authenticate(api_key)).key == issued.record


async def test_a_record_never_shows_a_secret(service: KeyService) -> None:
    key, api_key = await create(service, a_grant())
    shown = repr(await service.show(key.id)) + key.model_dump_json()
    assert api_key[8:40] not in shown
    assert Vault(Keyring([MASTER])).digests(api_key)[0] not in shown


async def test_pages_hold_each_key_once_and_the_last_has_no_cursor(service: KeyService, clock: Clock) -> None:
    made = []
    for _ in range(5):
        clock.now += 1
        made.append((await create(service, a_grant()))[0])
    newest_first = made[::-1]
    first, cursor = await service.page(None, 2)
    second, cursor_2 = await service.page(cursor, 2)
    third, end = await service.page(cursor_2, 2)
    assert first + second + third == newest_first
    assert end is None
    assert await service.page(None, 5) == (newest_first, None)
    with pytest.raises(UnknownKey):
        await service.page("key_nobody", 2)


# --- authenticating


async def test_an_api_key_and_its_token_authenticate_as_the_key_with_its_scopes(service: KeyService) -> None:
    key, api_key = await create(service, a_grant("distill", "unlock"))
    expected = Caller(key, frozenset({"predict", "distill", "unlock"}))
    assert await service.authenticate(api_key) == expected
    assert await service.authenticate(await token_of(service, key, api_key)) == expected


async def test_revoking_kills_the_api_key_and_its_token_at_once_and_no_other_key(service: KeyService) -> None:
    key, api_key = await create(service, a_grant())
    token = await token_of(service, key, api_key)
    _, other = await create(service, a_grant())
    revoked = await service.revoke(key.id)
    assert (revoked.state, (await service.show(key.id)).state) == ("revoked", "revoked")
    assert await refuses(service, api_key, token)
    with pytest.raises(InvalidCredential):
        await service.token(key.id, api_key, None)
    assert (await service.authenticate(other)).key is not None
    with pytest.raises(UnknownKey):
        await service.revoke("key_nobody")


async def test_a_key_and_its_token_end_with_its_expiry(service: KeyService, clock: Clock) -> None:
    key, api_key = await create(service, a_grant(expires_at=instant(clock.now + 100)))
    token = await token_of(service, key, api_key)
    clock.now += 98
    assert (await service.authenticate(api_key)).key == (await service.authenticate(token)).key == key
    clock.now += 3
    assert await refuses(service, api_key, token)
    with pytest.raises(InvalidCredential):
        await service.token(key.id, api_key, None)


async def test_a_token_of_an_earlier_epoch_is_refused(service: KeyService, mint: TokenMint) -> None:
    key, _ = await create(service, a_grant())
    tokens = {epoch: mint.issue(Claims(key.id, epoch, frozenset({"predict"}))) for epoch in (-1, 0, 1)}
    assert (await service.authenticate(tokens[0])).key == key
    assert await refuses(service, tokens[-1], tokens[1])


async def test_a_key_of_an_older_master_key_is_found_after_rotation_and_ever_after_if_it_was_presented(
    service: KeyService, store: KeyStore, mint: TokenMint, clock: Clock
) -> None:
    key, api_key = await create(service, a_grant())
    _, absent = await create(service, a_grant())
    rotated = KeyService(store, Vault(Keyring([NEXT_MASTER, MASTER])), mint, clock)
    assert (await rotated.authenticate(api_key)).key == key
    assert (await service.authenticate(api_key)).key is not None, "a replica with the old ring still runs"
    _, newer = await create(rotated, a_grant())
    assert await refuses(service, newer)
    without_old = KeyService(store, Vault(Keyring([NEXT_MASTER])), mint, clock)
    assert await refuses(without_old, absent)
    for credential in (api_key, newer):
        assert (await without_old.authenticate(credential)).key is not None


async def test_presenting_a_revoked_key_does_not_file_it_anew(
    service: KeyService, store: KeyStore, mint: TokenMint, clock: Clock
) -> None:
    key, api_key = await create(service, a_grant())
    await service.revoke(key.id)
    vault = Vault(Keyring([NEXT_MASTER, MASTER]))
    assert await refuses(KeyService(store, vault, mint, clock), api_key)
    with pytest.raises(InvalidCredential):
        await store.find(vault.digests(api_key)[:1])


async def test_every_refused_credential_gets_one_text(service: KeyService, mint: TokenMint, clock: Clock) -> None:
    expiring, expired_key = await create(service, a_grant(expires_at=instant(clock.now + 10)))
    expired_token = await token_of(service, expiring, expired_key)
    revoked, revoked_key = await create(service, a_grant())
    revoked_token = await token_of(service, revoked, revoked_key)
    await service.revoke(revoked.id)
    good, good_key = await create(service, a_grant())
    admin, _ = await create(service, a_grant(), "admin")
    clock.now += 20
    credentials = {
        "empty": "",
        "space": " ",
        "malformed": "sdb_",
        "bad checksum": new_api_key("cli")[:-1] + "~",
        "unknown": new_api_key("cli"),
        "unknown admin": new_api_key("adm"),
        "the id": good.id,
        "expired": expired_key,
        "token of an expired key": expired_token,
        "revoked": revoked_key,
        "token of a revoked key": revoked_token,
        "with a space": good_key + " ",
        "not a token": "a.b.c",
        "token of no key": mint.issue(Claims("key_nobody", 0, frozenset({"predict"}))),
        "token of an admin": mint.issue(Claims(admin.id, 0, frozenset({"predict"}))),
        "token of an odd id": mint.issue(Claims("", 0, frozenset({"predict"}))),
    }
    answers: dict[str, str] = {}
    for name, credential in credentials.items():
        with pytest.raises(InvalidCredential) as refusal:
            await service.authenticate(credential)
        answers[name] = f"{refusal.value.code}: {refusal.value}"
    for client_id, secret in ((good.id, new_api_key("cli")), (revoked.id, good_key), ("key_nobody", good_key)):
        with pytest.raises(InvalidCredential) as refusal:
            await service.token(client_id, secret, None)
        answers[client_id] = f"{refusal.value.code}: {refusal.value}"
    assert len(set(answers.values())) == 1, answers


# --- tokens


async def test_a_token_answer_names_its_life_and_scopes(service: KeyService) -> None:
    key, api_key = await create(service, a_grant("unlock", "distill"))
    assert (await service.token(key.id, api_key, None))[1:] == (900, ["distill", "predict", "unlock"])
    assert (await service.token(key.id, api_key, "unlock  predict"))[1:] == (900, ["predict", "unlock"])


async def test_an_admin_key_gets_no_token(service: KeyService) -> None:
    admin, admin_key = await create(service, a_grant(), "admin")
    for scope in (None, "predict"):
        with pytest.raises(InvalidGrant) as refusal:
            await service.token(admin.id, admin_key, scope)
        assert refusal.value.oauth_error == "unauthorized_client"


@pytest.mark.parametrize("scope", ["unlock", "predict unlock", "PREDICT", "admin", "*", "", " ", "predict,distill"])
async def test_a_scope_that_the_key_does_not_have_is_not_given(service: KeyService, scope: str) -> None:
    key, api_key = await create(service, a_grant("distill"))
    with pytest.raises(InvalidGrant) as refusal:
        await service.token(key.id, api_key, scope)
    assert refusal.value.oauth_error == "invalid_scope"


async def test_a_token_is_never_wider_than_its_key(service: KeyService, mint: TokenMint) -> None:
    key, _ = await create(service, a_grant("distill"))
    wide = mint.issue(Claims(key.id, 0, frozenset({*SCOPES, "admin"})))
    assert (await service.authenticate(wide)).scopes == {"predict", "distill"}


async def test_a_narrower_token_holds_only_its_own_scopes(service: KeyService) -> None:
    key, api_key = await create(service, a_grant("distill", "unlock"))
    narrow = await service.authenticate(await token_of(service, key, api_key, "distill"))
    assert {scope for scope in SCOPES if narrow.may(scope, "tiny")} == {"distill"}
    whole = await service.authenticate(api_key)
    assert {scope for scope in SCOPES if whole.may(scope, "tiny")} == {"predict", "distill", "unlock"}


# --- rights


async def test_a_key_for_some_models_has_no_right_on_others(service: KeyService) -> None:
    key, api_key = await create(service, a_grant("distill", models=("tiny", "cifar10")))
    for credential in (api_key, await token_of(service, key, api_key)):
        caller = await service.authenticate(credential)
        rights = {(scope, model) for scope in SCOPES for model in ("tiny", "cifar10", "other", "*", "tin")}
        assert {right for right in rights if caller.may(*right)} == {
            (scope, model) for scope in ("predict", "distill") for model in ("tiny", "cifar10")
        }


async def test_a_key_for_all_models_has_its_rights_on_each(service: KeyService) -> None:
    _, api_key = await create(service, a_grant("distill"))
    caller = await service.authenticate(api_key)
    assert caller.may("distill", "any name")
    assert not caller.may("unlock", "any name")


async def test_the_anonymous_caller_may_predict_and_has_no_budget(service: KeyService) -> None:
    assert {scope for scope in SCOPES if Caller().may(scope, "tiny")} == {"predict"}
    with pytest.raises(MissingScope):
        await service.charge(Caller(), 1)


# --- budgets


async def test_an_api_key_and_its_token_spend_one_budget(service: KeyService) -> None:
    key, api_key = await create(service, a_grant("distill", budget=BudgetGrant(limit=10)))
    by_key = await service.authenticate(api_key)
    by_token = await service.authenticate(await token_of(service, key, api_key))
    settled, released = await service.charge(by_key, 4), await service.charge(by_token, 6)
    with pytest.raises(QuotaExceeded):
        await service.charge(by_key, 1)
    await service.settle(settled)
    await service.release(released)
    assert (await service.show(key.id)).budget.remaining == 6


async def test_a_caller_that_was_authenticated_before_the_revocation_charges_nothing_after_it(
    service: KeyService,
) -> None:
    key, api_key = await create(service, a_grant("distill", budget=BudgetGrant(limit=10)))
    caller = await service.authenticate(api_key)
    await service.revoke(key.id)
    with pytest.raises(InvalidCredential):
        await service.charge(caller, 1)
    assert (await service.show(key.id)).budget.remaining == 10


async def test_a_service_whose_store_answers_is_ready(service: KeyService, store: KeyStore) -> None:
    await service.ready()
    await store.close()
