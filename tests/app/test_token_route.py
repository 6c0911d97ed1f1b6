"""`/oauth2/token` as RFC 6749 has it: the client credentials grant, its answers and its errors."""

import base64
import json
import time
from typing import Any

import httpx
import pytest

from tests.conftest import Api, bearer

TOKEN = "/oauth2/token"
GRANT = {"grant_type": "client_credentials"}
Json = dict[str, Any]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


def basic(text: str) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(text.encode()).decode()}"}


def parts(token: str) -> list[Json]:
    """Header and payload of a token."""
    return [json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in token.split(".")[:2]]


def assert_error(response: httpx.Response, status: int, error: str) -> None:
    """RFC 6749 §5.2, in the shape of every refusal of this server."""
    assert (response.status_code, response.json().get("error")) == (status, error), response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert response.headers["cache-control"] == "no-store"
    assert response.json()["request_id"] == response.headers["x-request-id"]


async def test_key_id_and_api_key_become_a_token_by_either_way(api: Api) -> None:
    key = await api.issue()
    form = {**GRANT, "client_id": key["id"], "client_secret": key["api_key"]}
    answers = [
        await api.client.post(TOKEN, data=GRANT, auth=(key["id"], key["api_key"])),
        await api.client.post(TOKEN, data={**GRANT, "client_id": key["id"]}, auth=(key["id"], key["api_key"])),
        await api.client.post(TOKEN, data=form),
        await api.client.post(TOKEN, files={name: (None, value) for name, value in form.items()}),
    ]
    seen = set()
    for answer in answers:
        assert answer.status_code == 200, answer.text
        assert answer.headers["cache-control"] == "no-store"
        body = answer.json()
        token = body.pop("access_token")
        assert body == {"token_type": "Bearer", "expires_in": 900, "scope": "distill predict"}
        own = await api.client.get("/v1/keys/self", headers=bearer(token))
        assert own.json()["id"] == key["id"]
        header, payload = parts(token)
        assert set(header) == {"alg", "typ", "kid"}
        assert (header["alg"], header["typ"]) == ("HS256", "at+jwt")
        assert set(payload) == {"iss", "aud", "sub", "scope", "iat", "exp", "jti", "epoch"}
        assert (payload["sub"], payload["scope"]) == (key["id"], "distill predict")
        assert payload["exp"] - payload["iat"] == 900
        assert abs(payload["iat"] - time.time()) < 10
        seen.add(payload["jti"])
    assert len(seen) == len(answers)


async def test_a_token_may_have_fewer_scopes_than_its_key_and_never_more(api: Api) -> None:
    """`predict`, which everybody has, is always among them."""
    key = await api.issue(scopes=["distill", "unlock"])
    auth = (key["id"], key["api_key"])
    for asked, given in (
        ("predict", "predict"),
        ("unlock  distill", "distill predict unlock"),
        ("predict predict", "predict"),
    ):
        answer = await api.client.post(TOKEN, data={**GRANT, "scope": asked}, auth=auth)
        assert answer.json()["scope"] == given
    for asked in ("decrypt", "predict decrypt", "admin", "", "   ", "Predict"):
        assert_error(await api.client.post(TOKEN, data={**GRANT, "scope": asked}, auth=auth), 400, "invalid_scope")


async def test_id_and_secret_must_be_those_of_one_good_client_key(api: Api) -> None:
    key, other, revoked = await api.issue(), await api.issue(), await api.issue()
    expired = await api.issue(expires_at="2020-01-01T00:00:00Z")
    token = await api.token(key)
    await api.client.post(f"/admin/v1/keys/{revoked['id']}/revoke", headers=api.admin)
    pairs = [
        (key["id"], other["api_key"]),
        (other["id"], key["api_key"]),
        (key["id"], key["api_key"][:-1]),
        (key["id"].upper(), key["api_key"]),
        (key["id"], ""),
        ("", key["api_key"]),
        ("", ""),
        (key["id"], token),
        (key["id"], key["id"]),
        (revoked["id"], revoked["api_key"]),
        (expired["id"], expired["api_key"]),
        ("key_none", "sdb_cli_" + "0" * 38),
    ]
    details = set()
    for client_id, secret in pairs:
        by_form = {**GRANT, "client_id": client_id, "client_secret": secret}
        for response in (
            await api.client.post(TOKEN, data=GRANT, auth=(client_id, secret)),
            await api.client.post(TOKEN, data=by_form),
        ):
            assert_error(response, 401, "invalid_client")
            details.add(response.json()["detail"])
    assert len(details) == 1
    assert_error(await api.client.post(TOKEN, data=GRANT), 401, "invalid_client")


async def test_a_client_that_fails_by_basic_is_asked_for_basic(api: Api) -> None:
    """RFC 6749 §5.2: the challenge names the scheme that the client used."""
    response = await api.client.post(TOKEN, data=GRANT, auth=("key_none", "wrong"))
    assert_error(response, 401, "invalid_client")
    assert response.headers["www-authenticate"].startswith("Basic")


async def test_a_malformed_authorization_is_an_invalid_client(api: Api) -> None:
    key = await api.issue()
    pair = f"{key['id']}:{key['api_key']}"
    encoded = base64.b64encode(pair.encode()).decode()
    bad: list[dict[str, str]] = [
        bearer(key["api_key"]),
        bearer(encoded),
        basic(pair.replace(":", "")),
        basic(f"{key['id']}:é"),
        basic(f"{pair}:"),
        {"Authorization": "Basic"},
        {"Authorization": "Basic "},
        {"Authorization": f"Basic {pair}"},
        {"Authorization": f"Basic {encoded[:-3]}"},
        {"Authorization": f"Basic {encoded} {encoded}"},
        {"Authorization": encoded},
    ]
    for headers in bad:
        assert_error(await api.client.post(TOKEN, data=GRANT, headers=headers), 401, "invalid_client")
    for headers in (basic(pair), {"Authorization": f"bAsIc {encoded}"}):
        assert (await api.client.post(TOKEN, data=GRANT, headers=headers)).status_code == 200


async def test_two_authorization_headers_are_never_half_believed(api: Api) -> None:
    key = await api.issue()
    good = basic(f"{key['id']}:{key['api_key']}")["Authorization"]
    for headers in ([("Authorization", good), ("Authorization", "Basic eA==")], [("Authorization", good)] * 2):
        assert_error(await api.client.post(TOKEN, data=GRANT, headers=headers), 401, "invalid_client")


async def test_only_the_client_credentials_grant_is_known(api: Api) -> None:
    key = await api.issue()
    auth = (key["id"], key["api_key"])
    for grant_type in ("password", "authorization_code", "refresh_token", "Client_Credentials"):
        response = await api.client.post(TOKEN, data={"grant_type": grant_type}, auth=auth)
        assert_error(response, 400, "unsupported_grant_type")


async def test_a_request_that_is_malformed_is_an_invalid_request(api: Api) -> None:
    key = await api.issue()
    auth = (key["id"], key["api_key"])
    form = "application/x-www-form-urlencoded"
    twice = b"grant_type=client_credentials&grant_type=client_credentials"
    requests: list[dict[str, Any]] = [
        {},
        {"data": {"scope": "predict"}},
        {"json": GRANT},
        {"content": twice, "headers": {"Content-Type": form}},
        {"data": {**GRANT, "scope": ["predict", "distill"]}},
        {"data": {**GRANT, "client_id": key["id"], "client_secret": key["api_key"]}},
        {"data": {**GRANT, "client_secret": key["api_key"]}},
        {"data": GRANT, "headers": {"Content-Type": "multipart/form-data"}},
        {"data": {str(number): "" for number in range(30)}},
        {"data": GRANT, "files": {"image": ("name", b"file")}},
    ]
    wrong = []
    for request in requests:
        response = await api.client.post(TOKEN, auth=auth, **request)
        if (response.status_code, response.json().get("error")) != (400, "invalid_request"):
            wrong.append((request, response.status_code, response.json().get("error")))
    assert wrong == []


async def test_no_declared_character_set_breaks_the_form(api: Api) -> None:
    key = await api.issue()
    content = b'--cut\r\nContent-Disposition: form-data; name="grant_type"\r\n\r\nclient_credentials\r\n--cut--\r\n'
    for charset in ("undefined", "idna", "utf-16", "base64", "none"):
        for kind in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=cut"):
            headers = {"Content-Type": f"{kind}; charset={charset}"}
            auth = (key["id"], key["api_key"])
            response = await api.client.post(TOKEN, content=content, headers=headers, auth=auth)
            assert response.status_code in {200, 400}, (kind, charset, response.text)


async def test_admin_keys_get_no_tokens(api: Api) -> None:
    own = (await api.client.get("/v1/keys/self", headers=api.admin)).json()
    response = await api.client.post(TOKEN, data=GRANT, auth=(own["id"], api.admin_key))
    assert_error(response, 400, "unauthorized_client")
