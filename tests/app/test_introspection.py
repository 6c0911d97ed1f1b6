"""`/oauth2/introspect` as RFC 7662 has it: what a token may do now, told to its client and to admins alone."""

from typing import Any

import httpx
import pytest

from app.state import State
from keys.records import Act, KeyPatch
from tests.app.test_token_route import basic
from tests.conftest import Api, bearer
from tests.forgery import ATTACKS, Forger

INTROSPECT = "/oauth2/introspect"
INACTIVE = b'{"active":false}'
Auth = tuple[str, str]
Who = Auth | dict[str, str]
NOBODY: Who = {}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def ask(api: Api, token: str, who: Who = NOBODY) -> httpx.Response:
    return await api.client.post(INTROSPECT, data={"token": token}, headers=headers(who))


def headers(who: Who) -> dict[str, str]:
    """The Authorization header of a client that uses HTTP Basic, or the header that is given."""
    return basic(":".join(who)) if isinstance(who, tuple) else who


def pair(key: dict[str, str]) -> Auth:
    """Client id and secret."""
    return key["id"], key["api_key"]


async def admin_pair(api: Api) -> Auth:
    own = (await api.client.get("/v1/keys/self", headers=api.admin)).json()
    return own["id"], api.admin_key


async def test_a_client_learns_what_its_token_may_do(api: Api) -> None:
    key = await api.issue()
    token = await api.token(key)
    form = {"token": token, "client_id": key["id"], "client_secret": key["api_key"]}
    for answer in (await ask(api, token, pair(key)), await api.client.post(INTROSPECT, data=form)):
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        body = answer.json()
        assert body.pop("exp") - body.pop("iat") == 900
        assert len(body.pop("jti")) >= 16
        assert body == {
            "active": True,
            "scope": "distill predict",
            "client_id": key["id"],
            "token_type": "Bearer",
            "sub": key["id"],
            "aud": "sdb",
            "iss": "safe-distillation-box",
        }


async def test_an_admin_learns_it_of_every_token_by_each_way_to_present_a_key(api: Api) -> None:
    key = await api.issue()
    token = await api.token(key)
    name, secret = await admin_pair(api)
    answers = [
        await ask(api, token, api.admin),
        await ask(api, token, (name, secret)),
        await api.client.post(INTROSPECT, data={"token": token, "client_id": name, "client_secret": secret}),
    ]
    assert {answer.json()["client_id"] for answer in answers} == {key["id"]}
    assert len({answer.content for answer in answers}) == 1


async def test_the_scopes_are_those_that_the_token_has_now(api: Api) -> None:
    key = await api.issue(scopes=["distill", "unlock"])
    form = {"grant_type": "client_credentials", "scope": "distill predict"}
    token = (await api.client.post("/oauth2/token", data=form, auth=pair(key))).json()["access_token"]
    assert (await ask(api, token, pair(key))).json()["scope"] == "distill predict"
    patch = KeyPatch(scopes=frozenset({"unlock"}))
    await api.app.state.services.keys.lifecycle.update(key["id"], patch, Act(actor="test"))
    assert (await ask(api, token, pair(key))).json()["scope"] == "predict"


async def test_another_clients_token_is_as_unknown_as_one_that_never_was(api: Api) -> None:
    key, other = await api.issue(), await api.issue()
    for token in (await api.token(key), "unknown", "a.b.c", key["api_key"], key["id"]):
        answer = await ask(api, token, pair(other))
        assert (answer.status_code, answer.content) == (200, INACTIVE), token


@pytest.mark.parametrize("end", ["revoke", "disable", "rotate"])
async def test_a_token_is_inactive_as_soon_as_its_key_is_changed(api: Api, end: str) -> None:
    key = await api.issue()
    token = await api.token(key)
    service, act = api.app.state.services.keys, Act(actor="test")
    await (
        service.lifecycle.rotate(key["id"], 60, act)
        if end == "rotate"
        else getattr(service.lifecycle, end)(key["id"], act)
    )
    assert (await ask(api, token, api.admin)).content == INACTIVE


async def test_an_api_key_is_no_token(api: Api) -> None:
    """It is the secret that asks for tokens; who could try it here would have a second place to try guesses at."""
    key = await api.issue()
    for api_key in (key["api_key"], api.admin_key):
        assert (await ask(api, api_key, pair(key))).content == INACTIVE
        assert (await ask(api, api_key, api.admin)).content == INACTIVE


async def test_no_forged_token_is_active_not_even_to_an_admin(api: Api) -> None:
    key = await api.issue()
    (secret,) = State(api.app.state.services.settings).token_keys
    forger = Forger(secret, bytes(32), key["id"], epoch=0)
    assert (await ask(api, forger.signed(), api.admin)).json()["active"], "what is not changed is right"
    tokens = {name: attack(forger).encode(errors="surrogatepass") for name, attack in ATTACKS.items()}
    asked = {name: token for name, token in tokens.items() if 0 < len(token) < 100_000}
    answers = {
        name: (await api.client.post(INTROSPECT, content=urlencoded(token), headers=FORM | api.admin)).content
        for name, token in asked.items()
    }
    assert {name: answer for name, answer in answers.items() if answer != INACTIVE} == {}
    assert len(asked) > 100


FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def urlencoded(token: bytes) -> bytes:
    return b"token=" + b"".join(b"%%%02X" % byte for byte in token)


async def test_only_a_client_with_its_secret_or_an_admin_may_ask(api: Api) -> None:
    key, other = await api.issue(), await api.issue()
    token = await api.token(key)
    pairs = [
        (key["id"], other["api_key"]),
        (key["id"], token),
        (key["id"], ""),
        ("", ""),
        (key["id"], api.admin_key),
    ]
    for name, secret in pairs:
        form = {"token": token, "client_id": name, "client_secret": secret}
        for answer in (await ask(api, token, (name, secret)), await api.client.post(INTROSPECT, data=form)):
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), (name, secret)
            assert "www-authenticate" in answer.headers
    assert (await ask(api, token)).status_code == 401
    for credential, status in ((key["api_key"], 403), (token, 403), ("a.b.c", 401), ("sdb_adm_forged", 401), ("", 401)):
        assert (await ask(api, token, bearer(credential))).status_code == status, credential


async def test_a_question_without_exactly_one_token_is_an_invalid_request(api: Api) -> None:
    key = await api.issue()
    requests: list[dict[str, Any]] = [
        {},
        {"data": {"token": ""}},
        {"data": {"token": ["a", "b"]}},
        {"json": {"token": "a"}},
        {"params": {"token": "a"}},
        {"data": {"token": "a", "client_secret": key["api_key"]}},
    ]
    for request in requests:
        for who in (pair(key), api.admin):
            answer = await api.client.post(INTROSPECT, headers=headers(who), **request)
            assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request"), request


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense", ""])
async def test_a_hint_changes_nothing(api: Api, hint: str) -> None:
    key = await api.issue()
    form = {"token": await api.token(key), "token_type_hint": hint}
    assert (await api.client.post(INTROSPECT, data=form, auth=pair(key))).json()["active"]


async def test_a_token_is_never_taken_from_an_address(api: Api) -> None:
    """Addresses are logged (RFC 7662 §4)."""
    token = await api.token(await api.issue())
    answer = await api.client.get(INTROSPECT, params={"token": token}, headers=api.admin)
    assert answer.status_code == 405
