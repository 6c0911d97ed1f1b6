"""Admins change what a key may do; the key's next request is judged by it, and its tokens' too."""

import pytest

from tests.app.changing import KEYS, SELF, Json, change, patch, show, without_secrets
from tests.conftest import Api, bearer

PREDICT = "/v1/models/tiny/predict"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


# --- patch


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"name": "Ναυσικᾶ"}, {}),
        ({"scopes": ["decrypt"]}, {"scopes": ["decrypt", "predict"]}),
        ({"models": ["tiny", "other"]}, {}),
        ({"expires_at": "2098-01-01T02:00:00+02:00"}, {"expires_at": "2098-01-01T00:00:00Z"}),
        ({"expires_at": None}, {}),
        ({"budget": {"limit": 3}}, {"budget": {"limit": 3, "remaining": 3}}),
        ({"budget": {"limit": None}}, {"budget": {"limit": None, "remaining": None}}),
        ({"rate_limits": [{"name": "burst", "limit": 5, "window_s": 1}]}, {}),
        ({"rate_limits": []}, {}),
        ({"metadata": {"team": "audio"}}, {}),
        ({"metadata": {}}, {}),
        ({"mark": 0}, {}),
        ({"mark": 0.75}, {}),
        ({"name": "b", "models": ["*"], "metadata": {"a": "b"}}, {}),
        ({}, {}),
    ],
    ids=str,
)
async def test_a_patch_changes_what_it_names_and_nothing_else(api: Api, fields: Json, expected: Json) -> None:
    before = await api.issue(
        expires_at="2099-01-01T00:00:00Z",
        rate_limits=[{"name": "day", "limit": 500, "window_s": 86400}],
        metadata={"team": "vision", "floor": "3"},
    )
    after = await patch(api, before, **fields)
    wanted = {**without_secrets(before), **fields, **expected}
    wanted["budget"] = {"granted": 0, "refill": "none", "resets_at": None, **wanted["budget"]}
    assert after == await show(api, before) == wanted
    assert (await api.client.get(SELF, headers=bearer(before["api_key"]))).json() == wanted


@pytest.mark.parametrize(
    "body",
    [
        {"name": ""},
        {"name": None},
        {"scopes": ["root"]},
        {"scopes": None},
        {"models": []},
        {"models": None},
        {"expires_at": "2099-01-01T00:00:00"},
        {"budget": None},
        {"budget": {"limit": -1}},
        {"budget": {"refill": "daily"}},
        {"budget": {"limit": 5, "refill": "hourly"}},
        {"budget": {"limit": 5, "remaining": 5}},
        {"rate_limits": None},
        {"rate_limits": [{"name": "a", "limit": 1, "window_s": 1}] * 2},
        {"metadata": None},
        {"metadata": {"a": 1}},
        {"mark": -0.1},
        {"mark": 1.5},
        {"mark": None},
        {"mark": "strong"},
        {"state": "active"},
        {"kind": "admin"},
        {"id": "key_mine"},
        {"image_key": {"scheme": "sealed"}},
        {"name": "b", "unknown": 1},
        [],
        "name",
    ],
    ids=str,
)
async def test_a_patch_that_is_not_valid_changes_nothing(api: Api, body: object) -> None:
    key = await api.issue(rate_limits=[{"name": "day", "limit": 500, "window_s": 86400}])
    refused = await api.client.patch(f"{KEYS}/{key['id']}", json=body, headers=api.admin)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid-request")
    assert await show(api, key) == without_secrets(key)


async def test_rights_that_are_taken_are_gone_on_the_next_request_for_its_tokens_too(api: Api, photo: bytes) -> None:
    key = await api.issue()
    credentials = (key["api_key"], await api.token(key))

    async def answers() -> list[tuple[int, str]]:
        found = [await api.client.post(PREDICT, content=photo, headers=bearer(each)) for each in credentials]
        return [(answer.status_code, answer.json().get("tier", "")) for answer in found]

    assert await answers() == [(200, "distill")] * 2
    await patch(api, key, scopes=["predict"])
    assert await answers() == [(200, "public")] * 2
    await patch(api, key, scopes=["distill"], models=["other"])
    assert await answers() == [(403, "")] * 2
    await patch(api, key, models=["*"], expires_at="2020-01-01T00:00:00Z")
    assert await answers() == [(401, "")] * 2
    await patch(api, key, expires_at=None)
    assert await answers() == [(200, "distill")] * 2


async def test_a_budget_that_is_changed_counts_what_was_used_before(api: Api, photo: bytes) -> None:
    key = await api.issue(2)
    for limit, expected in ((2, 200), (2, 200), (2, 429), (3, 200), (3, 429), (1, 429), (None, 200), (6, 200)):
        await patch(api, key, budget={"limit": limit})
        answer = await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
        assert answer.status_code == expected, (limit, answer.text)


# --- top-up


async def test_a_top_up_is_given_once_on_top_of_the_limit(api: Api, photo: bytes) -> None:
    key = await api.issue(1)
    for granted, remaining in ((2, 3), (4, 5)):
        budget = (await change(api, key, "top-up", {"answers": 2}))["budget"]
        assert (budget["limit"], budget["granted"], budget["remaining"]) == (1, granted, remaining)
    seen = []
    for _ in range(6):
        answer = await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
        seen.append((answer.status_code, answer.json().get("budget", {}).get("remaining")))
    assert seen == [*((200, remaining) for remaining in (4, 3, 2, 1, 0)), (429, None)]
    assert (await change(api, key, "top-up", {"answers": 1}))["budget"]["remaining"] == 1
    answer = await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    assert answer.json()["budget"]["remaining"] == 0


@pytest.mark.parametrize(
    "body", [None, {}, {"answers": 0}, {"answers": -5}, {"answers": 0.5}, {"answers": 2**53}, {"limit": 5}, []], ids=str
)
async def test_a_top_up_that_cannot_be_gives_nothing(api: Api, body: object) -> None:
    key = await api.issue(5)
    refused = await api.client.post(f"{KEYS}/{key['id']}/top-up", json=body, headers=api.admin)
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid-request")
    assert await show(api, key) == without_secrets(key)


async def test_an_unlimited_budget_takes_no_top_up_and_a_full_one_no_more(api: Api) -> None:
    unlimited, full = await api.issue(None), await api.issue(1)
    topped = await change(api, full, "top-up", {"answers": 2**53 - 2})
    for key, answers, before in ((unlimited, 1, without_secrets(unlimited)), (full, 2**53 - 2, topped)):
        refused = await api.client.post(f"{KEYS}/{key['id']}/top-up", json={"answers": answers}, headers=api.admin)
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid-request")
        assert await show(api, key) == before
