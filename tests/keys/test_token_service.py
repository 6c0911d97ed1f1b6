"""Access tokens as clients meet them, by a clock that the test sets."""

import pytest
from redis.asyncio import Redis

from keys.errors import InvalidCredential, InvalidGrant
from keys.records import Act, KeyGrant, KeyKind, KeyPatch, KeyRecord, Scope, instant
from keys.service import KeyService
from keys.tokens import TokenMint
from tests.keys.conftest import ADMIN, MASTER, NEXT_MASTER, Clock, another_service

LIFETIME_S = 900


async def make(service: KeyService, kind: KeyKind = "client", **changes: object) -> KeyRecord:
    scopes: tuple[Scope, ...] = ("distill", "unlock") if kind == "client" else ()
    grant = KeyGrant.model_validate({"name": "partner", "scopes": frozenset(scopes), **changes})
    return (await service.lifecycle.create(grant, ADMIN, kind)).record


async def accepts(service: KeyService, token: str) -> bool:
    """Whether a request with this token would be heard, as introspection and authentication both say."""
    admin = await make(service, "admin")
    try:
        caller = await service.authenticate(token)
    except InvalidCredential:
        assert await service.tokens.introspect(admin, token) is None
        return False
    claims = await service.tokens.introspect(admin, token)
    assert claims is not None
    assert claims.scopes == caller.scopes
    return True


async def test_a_token_has_predict_and_what_is_asked_for_or_else_all_that_its_key_has(service: KeyService) -> None:
    key = await make(service)
    all_of_them = ["distill", "predict", "unlock"]
    for asked, given in ((None, all_of_them), ("unlock", ["predict", "unlock"]), ("predict  predict", ["predict"])):
        issued = service.tokens.issue(key, asked)
        assert (issued.lifetime_s, issued.scopes) == (LIFETIME_S, given)
        assert (await service.authenticate(issued.token)).scopes == set(given)


@pytest.mark.parametrize("scope", ["decrypt", "predict decrypt", "PREDICT", "admin", "*", "", " ", "predict,distill"])
async def test_a_scope_that_the_key_does_not_have_is_not_given(service: KeyService, scope: str) -> None:
    key = await make(service)
    with pytest.raises(InvalidGrant) as refusal:
        service.tokens.issue(key, scope)
    assert refusal.value.oauth_error == "invalid_scope"


async def test_an_admin_key_gets_no_token_and_a_forged_one_is_not_good(service: KeyService, mint: TokenMint) -> None:
    admin = await make(service, "admin")
    for scope in (None, "predict"):
        with pytest.raises(InvalidGrant) as refusal:
            service.tokens.issue(admin, scope)
        assert refusal.value.oauth_error == "unauthorized_client"
    assert not await accepts(service, mint.issue(admin.id, admin.epoch, frozenset({"predict"})))


async def test_a_token_is_active_for_its_lifetime_and_not_a_second_longer(service: KeyService, clock: Clock) -> None:
    token = service.tokens.issue(await make(service), None).token
    clock.now += LIFETIME_S - 2
    assert await accepts(service, token)
    clock.now += 3
    assert not await accepts(service, token)


async def test_a_token_of_an_earlier_or_later_epoch_or_of_no_key_is_not_good(
    service: KeyService, mint: TokenMint
) -> None:
    key = await make(service)
    rights = frozenset({"predict"})
    assert await accepts(service, mint.issue(key.id, 0, rights))
    for key_id, epoch in ((key.id, -1), (key.id, 1), ("key_nobody", 0), ("", 0)):
        assert not await accepts(service, mint.issue(key_id, epoch, rights))


async def test_a_token_is_never_wider_than_its_key(service: KeyService, mint: TokenMint) -> None:
    key = await make(service)
    wide = mint.issue(key.id, 0, frozenset({"predict", "decrypt", "unlock", "admin"}))
    assert (await service.authenticate(wide)).scopes == {"predict", "unlock"}
    claims = await service.tokens.introspect(key, wide)
    assert claims is not None
    assert claims.scopes == {"predict", "unlock"}


async def test_a_client_sees_its_own_tokens_only(service: KeyService) -> None:
    key, other, admin = await make(service), await make(service), await make(service, "admin")
    token = service.tokens.issue(key, None).token
    seen = {asker.id: await service.tokens.introspect(asker, token) for asker in (key, other, admin)}
    assert seen[key.id] == seen[admin.id] is not None
    assert seen[other.id] is None


async def test_a_revoked_token_stays_revoked_when_its_expired_key_is_given_more_time(
    service: KeyService, clock: Clock
) -> None:
    key, admin = await make(service, expires_at=instant(clock.now + 100)), await make(service, "admin")
    token, sister = (service.tokens.issue(key, None).token for _ in range(2))
    clock.now += 101
    assert not await accepts(service, token)
    await service.tokens.revoke(admin, token, ADMIN)
    await service.lifecycle.update(key.id, KeyPatch(expires_at=instant(clock.now + 1000)), ADMIN)
    assert not await accepts(service, token)
    assert await accepts(service, sister), "nobody has revoked this one"


async def test_a_revocation_outlives_the_longest_token(service: KeyService, client: Redis) -> None:
    """By the store's own clock, whatever the servers' clocks say."""
    key = await make(service)
    issued = service.tokens.issue(key, None)
    await service.tokens.revoke(key, issued.token, ADMIN)
    (name,) = [name async for name in client.scan_iter("*:buried:*")]
    assert await client.ttl(name) > 24 * 3600


async def test_what_cannot_be_revoked_changes_nothing_and_is_not_logged(service: KeyService, mint: TokenMint) -> None:
    key, other, admin = await make(service), await make(service), await make(service, "admin")
    token = service.tokens.issue(key, None).token
    with pytest.raises(InvalidGrant) as refusal:
        await service.tokens.revoke(other, token, ADMIN)
    assert refusal.value.oauth_error == "invalid_grant"
    for nothing in ("", "a.b.c", token[:-1], mint.issue("key_nobody", 0, frozenset())):
        await service.tokens.revoke(admin, nothing, ADMIN)
    entries, _ = await service.audit.page(None, 50)
    assert "token.revoke" not in {entry.action for entry in entries}
    assert await accepts(service, token)


async def test_a_revocation_is_logged_with_who_asked_and_where_from_once(service: KeyService) -> None:
    key = await make(service)
    issued = service.tokens.issue(key, None)
    for request_id in ("first", "second"):
        act = Act(actor=key.id, request_id=request_id, address="192.0.2.7", idempotency_key="their own")
        await service.tokens.revoke(key, issued.token, act)
    entries, _ = await service.audit.page(None, 50, key.id)
    (entry,) = [entry for entry in entries if entry.action == "token.revoke"]
    assert (entry.actor, entry.target, entry.request_id, entry.address) == (key.id, key.id, "first", "192.0.2.7")
    assert list(entry.detail) == ["jti"]


async def test_a_token_that_was_revoked_under_a_master_key_that_is_gone_may_be_revoked_again(
    service: KeyService, client: Redis, clock: Clock
) -> None:
    key = await make(service)
    issued = service.tokens.issue(key, None)
    await service.tokens.revoke(key, issued.token, ADMIN)
    for masters in ((NEXT_MASTER, MASTER), (NEXT_MASTER,)):
        await another_service(client, clock, masters).tokens.revoke(key, issued.token, ADMIN)


async def test_an_issued_token_is_not_shown(service: KeyService) -> None:
    issued = service.tokens.issue(await make(service), None)
    assert issued.token not in repr(issued)
