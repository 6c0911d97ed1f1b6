"""A foreign OAuth 2.0 client speaks to a real server: Authlib on requests, as its manual says, with nothing of ours."""

from typing import Any

import httpx
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session

from tests.conftest import Server

Json = dict[str, Any]


@pytest.fixture(scope="module")
def places(server: Server) -> Json:
    """Where the endpoints are, as the server itself says."""
    found: Json = httpx.get(f"{server.url}/.well-known/oauth-authorization-server").json()
    return found


@pytest.fixture
def key(server: Server) -> Json:
    grant = {"name": "partner", "scopes": ["distill"], "budget": {"limit": 10}}
    issued: Json = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin).json()
    return issued


def client(places: Json, key: Json, method: str = "client_secret_basic", **options: object) -> OAuth2Session:
    return OAuth2Session(
        key["id"],
        key["api_key"],
        token_endpoint_auth_method=method,
        revocation_endpoint_auth_method=method,
        token_endpoint=places["token_endpoint"],
        grant_type="client_credentials",
        **options,
    )


def test_the_server_says_where_its_endpoints_are(server: Server, places: Json) -> None:
    assert places["issuer"] == server.url
    assert places["token_endpoint"] == f"{server.url}/oauth2/token"
    assert places["introspection_endpoint"] == f"{server.url}/oauth2/introspect"
    assert places["revocation_endpoint"] == f"{server.url}/oauth2/revoke"
    assert places["grant_types_supported"] == ["client_credentials"]
    assert places["response_types_supported"] == []
    assert set(places["token_endpoint_auth_methods_supported"]) == {"client_secret_basic", "client_secret_post"}
    assert places["scopes_supported"] == ["predict", "distill", "decrypt", "unlock"]


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_it_fetches_uses_introspects_and_revokes_a_token(
    server: Server, places: Json, key: Json, photo: bytes, method: str
) -> None:
    with client(places, key, method) as session:
        token = session.fetch_token()
        assert token["expires_in"] == 900
        assert not token.is_expired()
        predict = f"{server.url}/v1/models/tiny/predict"
        answer = session.post(predict, data=photo)
        assert answer.status_code == 200, answer.text
        assert answer.json()["tier"] == "distill"
        seen = session.introspect_token(places["introspection_endpoint"], token["access_token"]).json()
        assert (seen["active"], seen["client_id"], seen["scope"]) == (True, key["id"], "distill predict")
        assert seen["exp"] == pytest.approx(token["expires_at"], abs=5)
        hint = {"token_type_hint": "access_token"}
        revoked = session.revoke_token(places["revocation_endpoint"], token["access_token"], **hint)
        assert revoked.status_code == 200
        after = session.introspect_token(places["introspection_endpoint"], token["access_token"])
        assert after.json() == {"active": False}
        assert session.post(predict, data=photo).status_code == 401
        session.fetch_token()
        assert session.post(predict, data=photo).status_code == 200


def test_it_fetches_a_new_token_by_itself_when_its_token_has_expired(server: Server, places: Json, key: Json) -> None:
    fetched: list[Json] = []
    with client(places, key, update_token=lambda token, **_: fetched.append(token)) as session:
        session.token = {**session.fetch_token(), "expires_at": 1}
        assert session.get(f"{server.url}/v1/keys/self").json()["id"] == key["id"]
    assert len(fetched) == 1


def test_it_is_given_the_scope_that_it_asks_for(places: Json, key: Json) -> None:
    with client(places, key, scope="predict") as session:
        assert session.fetch_token()["scope"] == "predict"


def test_it_understands_why_it_is_refused(places: Json, key: Json) -> None:
    wrong = {**key, "api_key": key["api_key"][:-1]}
    for session, expected in (
        (client(places, wrong), "invalid_client"),
        (client(places, wrong, "client_secret_post"), "invalid_client"),
        (client(places, key, scope="unlock"), "invalid_scope"),
    ):
        with session, pytest.raises(OAuthError) as refusal:
            session.fetch_token()
        assert refusal.value.error == expected


def test_an_admin_introspects_with_its_key_id_and_api_key(server: Server, places: Json, key: Json) -> None:
    """As a resource server does that is a client of its own (RFC 7662 §2.1)."""
    own = httpx.get(f"{server.url}/v1/keys/self", headers=server.admin).json()
    api_key = server.admin["Authorization"].removeprefix("Bearer ")
    with client(places, key) as session, client(places, {"id": own["id"], "api_key": api_key}) as admin:
        token = session.fetch_token()["access_token"]
        assert admin.introspect_token(places["introspection_endpoint"], token).json()["client_id"] == key["id"]
