"""`/oauth2/revoke` as RFC 7009 has it: a token ends before its time, at once, and nothing else does."""

from typing import Any

import httpx
import pytest

from tests.app.test_introspection import INTROSPECT, NOBODY, Who, admin_pair, headers, pair
from tests.conftest import Api, bearer

REVOKE = "/oauth2/revoke"
BASE64URL = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def revoke(api: Api, token: str, who: Who = NOBODY) -> httpx.Response:
    return await api.client.post(REVOKE, data={"token": token}, headers=headers(who))


async def works(api: Api, credential: str) -> bool:
    """Whether the server knows who presents this, as two of its doors see it."""
    own = await api.client.get("/v1/keys/self", headers=bearer(credential))
    if own.status_code == 401:
        assert own.json()["detail"] == "the presented credential is not valid"
    return own.status_code == 200


async def active(api: Api, token: str) -> bool:
    answer = await api.client.post(INTROSPECT, data={"token": token}, headers=api.admin)
    assert answer.json()["active"] or answer.content == b'{"active":false}'
    return bool(answer.json()["active"])


async def test_a_revoked_token_is_dead_and_its_key_and_sisters_live(api: Api) -> None:
    key = await api.issue()
    token, sister = await api.token(key), await api.token(key)
    assert await works(api, token)
    answer = await revoke(api, token, pair(key))
    assert (answer.status_code, answer.content) == (200, b"{}")
    assert not await works(api, token)
    assert not await active(api, token)
    assert await works(api, sister)
    assert await active(api, sister)
    assert await works(api, key["api_key"])
    assert await works(api, await api.token(key))


async def test_a_revoked_token_gets_no_privileged_answer(api: Api, photo: bytes) -> None:
    key = await api.issue(limit=10)
    token = await api.token(key)
    predict = "/v1/models/tiny/predict"
    assert (await api.client.post(predict, content=photo, headers=bearer(token))).json()["tier"] == "distill"
    await revoke(api, token, pair(key))
    refused = await api.client.post(predict, content=photo, headers=bearer(token))
    assert (refused.status_code, refused.json()["code"]) == (401, "invalid-credential")
    own = await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))
    assert own.json()["budget"]["remaining"] == 9


async def test_an_admin_revokes_any_token_by_each_way_to_present_a_key(api: Api) -> None:
    key = await api.issue()
    name, secret = await admin_pair(api)
    by_bearer, by_basic, by_form = [await api.token(key) for _ in range(3)]
    form = {"token": by_form, "client_id": name, "client_secret": secret}
    answers = [
        await revoke(api, by_bearer, api.admin),
        await revoke(api, by_basic, (name, secret)),
        await api.client.post(REVOKE, data=form),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert [await works(api, token) for token in (by_bearer, by_basic, by_form)] == [False] * 3


async def test_nobody_revokes_another_clients_token_and_is_told_so(api: Api) -> None:
    """RFC 7009 §2.1: a client that believed it revoked would rely on it."""
    key, other = await api.issue(), await api.issue()
    token = await api.token(key)
    answer = await revoke(api, token, pair(other))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert await works(api, token)


async def test_what_is_no_longer_or_never_was_valid_is_as_good_as_revoked(api: Api) -> None:
    key = await api.issue()
    token = await api.token(key)
    for dead in (token, token, "unknown", "a.b.c", token[:-2], "é", "\x00", "." * 60_000, key["id"], "sdb_cli_x"):
        answer = await revoke(api, dead, pair(key))
        assert (answer.status_code, answer.content) == (200, b"{}"), dead[:100]


async def test_an_api_key_is_not_revoked_as_a_token_and_the_client_is_told_so(api: Api) -> None:
    key = await api.issue()
    for auth in (pair(key), await admin_pair(api)):
        answer = await revoke(api, key["api_key"], auth)
        assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_token_type")
    assert await works(api, key["api_key"])


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense", ""])
async def test_a_hint_changes_nothing(api: Api, hint: str) -> None:
    key = await api.issue()
    token = await api.token(key)
    form = {"token": token, "token_type_hint": hint}
    assert (await api.client.post(REVOKE, data=form, auth=pair(key))).status_code == 200
    assert not await works(api, token)


async def test_a_client_that_does_not_authenticate_revokes_nothing(api: Api) -> None:
    key, other = await api.issue(), await api.issue()
    token = await api.token(key)
    refused = [
        await revoke(api, token),
        await revoke(api, token, (key["id"], other["api_key"])),
        await revoke(api, token, (key["id"], token)),
        await api.client.post(REVOKE, data={"token": token, "client_id": key["id"], "client_secret": "wrong"}),
        await revoke(api, token, bearer("a.b.c")),
    ]
    assert {(answer.status_code, answer.json()["error"]) for answer in refused} == {(401, "invalid_client")}
    for credential in (key["api_key"], token):  # a right to present elsewhere
        assert (await revoke(api, token, bearer(credential))).status_code == 403
    assert await works(api, token)


async def test_a_request_without_exactly_one_token_is_an_invalid_request(api: Api) -> None:
    key = await api.issue()
    token = await api.token(key)
    requests: list[dict[str, Any]] = [
        {},
        {"data": {"token": [token, token]}},
        {"json": {"token": token}},
        {"params": {"token": token}},
    ]
    for request in requests:
        answer = await api.client.post(REVOKE, auth=pair(key), **request)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), request
    assert await works(api, token)


async def test_a_revoked_token_stays_dead_however_it_is_written(api: Api) -> None:
    """The last character of a signature has two bits to spare: four texts are one token."""
    key = await api.issue()
    token = await api.token(key)
    first = BASE64URL.index(token[-1]) & ~3
    texts = [token[:-1] + BASE64URL[first + spare] for spare in range(4)]
    await revoke(api, texts[0], pair(key))
    assert [await works(api, text) for text in texts] == [False] * 4
    assert [await active(api, text) for text in texts] == [False] * 4


async def test_a_revocation_is_audited_once_and_without_the_token(api: Api) -> None:
    key = await api.issue()
    token = await api.token(key)
    jti = (await api.client.post(INTROSPECT, data={"token": token}, headers=api.admin)).json()["jti"]
    audit = api.app.state.services.keys.audit
    for _ in range(3):
        answer = await revoke(api, token, pair(key))
    entries, _ = await audit.page(None, 50, key["id"])
    (entry,) = [entry for entry in entries if entry.action == "token.revoke"]
    assert (entry.actor, entry.target, entry.detail) == (key["id"], key["id"], {"jti": jti})
    assert entry.request_id != answer.headers["x-request-id"]
    assert (await audit.verify()).intact
    assert not any(part in str(entry) for part in token.split(".")[1:])
