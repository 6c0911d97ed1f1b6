"""Admins rotate, disable, enable and revoke keys: at once, and only as far as a key can be brought back."""

import re

import pytest

from tests.app.changing import KEYS, SELF, change, show, status, without_secrets
from tests.conftest import Api, bearer

PREDICT = "/v1/models/tiny/predict"
MONTH_S = 30 * 86400


# --- rotate


async def test_a_rotated_key_has_a_new_secret_and_the_same_id_budget_and_history(api: Api, photo: bytes) -> None:
    key = await api.issue(5, metadata={"contract": "7"})
    token = await api.token(key)
    await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    before = await show(api, key)
    answer = await api.client.post(f"{KEYS}/{key['id']}/rotate", headers=api.admin)
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    rotated = answer.json()
    assert re.fullmatch(r"sdb_cli_[0-9A-Za-z]{38}", rotated["api_key"])
    assert rotated["api_key"] != key["api_key"]
    assert without_secrets(rotated) == before == await show(api, key)
    assert before["budget"]["remaining"] == 4
    assert [await status(api, each) for each in (key["api_key"], token, rotated["api_key"])] == [401, 401, 200]


async def test_with_an_overlap_both_api_keys_are_accepted_and_tokens_still_end(api: Api) -> None:
    key = await api.issue()
    token = await api.token(key)
    rotated = await change(api, key, "rotate", {"overlap_s": 3600})
    assert [await status(api, each) for each in (key["api_key"], token, rotated["api_key"])] == [200, 401, 200]
    again = await change(api, key, "rotate", {"overlap_s": 0})
    seen = [await status(api, each) for each in (rotated["api_key"], again["api_key"])]
    assert seen == [401, 200], "the API key before ends now"


@pytest.mark.parametrize(
    "body", [{"overlap_s": -1}, {"overlap_s": MONTH_S + 1}, {"overlap_s": 1.5}, {"in": 5}, []], ids=str
)
async def test_an_overlap_that_cannot_be_rotates_nothing(api: Api, body: object) -> None:
    key = await api.issue()
    refused = await api.client.post(f"{KEYS}/{key['id']}/rotate", json=body, headers=api.admin)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid-request")
    assert await status(api, key["api_key"]) == 200


async def test_an_admin_key_is_rotated_like_any_other(api: Api) -> None:
    own = (await api.client.get(SELF, headers=api.admin)).json()
    rotated = await change(api, own, "rotate", {"overlap_s": MONTH_S})
    assert rotated["api_key"].startswith("sdb_adm_")
    assert [await status(api, each) for each in (api.admin_key, rotated["api_key"])] == [200, 200]


# --- revoke, disable, enable


async def test_a_revoked_key_stays_revoked_and_stays_listed(api: Api) -> None:
    key, other = await api.issue(), await api.issue()
    for _ in range(2):
        assert await change(api, key, "revoke") == {**without_secrets(key), "state": "revoked"}
        assert await status(api, key["api_key"]) == 401
    listed = (await api.client.get(KEYS, headers=api.admin)).json()["keys"]
    assert {record["id"]: record["state"] for record in listed}[key["id"]] == "revoked"
    assert await status(api, other["api_key"]) == 200


async def test_an_admin_key_ends_like_any_other(api: Api) -> None:
    own = (await api.client.get(SELF, headers=api.admin)).json()
    assert (own["kind"], own["scopes"]) == ("admin", [])
    await change(api, own, "revoke")
    assert (await api.client.get(KEYS, headers=api.admin)).status_code == 401


async def test_a_disabled_key_is_refused_until_it_is_enabled(api: Api) -> None:
    key = await api.issue()
    token = await api.token(key)
    for _ in range(2):
        assert await change(api, key, "disable") == {**without_secrets(key), "state": "disabled"}
        assert [await status(api, each) for each in (key["api_key"], token)] == [401, 401]
    for _ in range(2):
        assert await change(api, key, "enable") == without_secrets(key)
        assert await status(api, key["api_key"]) == 200
    assert await status(api, token) == 401, "a token that was refused once stays refused"


async def test_nothing_brings_a_revoked_key_back(api: Api) -> None:
    key = await api.issue()
    revoked = await change(api, key, "revoke")
    acts: list[tuple[str, str, object]] = [("PATCH", "", {"name": "b"}), ("POST", "/top-up", {"answers": 1})]
    acts += [("POST", f"/{act}", None) for act in ("enable", "disable", "rotate")]
    for method, act, body in acts:
        refused = await api.client.request(method, f"{KEYS}/{key['id']}{act}", json=body, headers=api.admin)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid-request"), act
        assert "revoked" in refused.json()["detail"]
    assert await show(api, key) == revoked
