"""Admins issue, list, search and show client keys."""

import re
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any

import pytest

from keys.records import DEFAULT_MARK
from tests.conftest import Api, bearer

KEYS = "/admin/v1/keys"
Json = dict[str, Any]
FIELDS = {
    "id",
    "kind",
    "name",
    "scopes",
    "models",
    "state",
    "created_at",
    "expires_at",
    "last_used_at",
    "budget",
    "rate_limits",
    "metadata",
    "mark",
    "image_key",
}


async def test_a_new_key_is_its_grant_with_a_secret_that_is_shown_once(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    grant = {
        "name": "Müller & Söhne",
        "scopes": ["distill"],
        "models": ["tiny", "other"],
        "budget": {"limit": 7, "refill": "none"},
        "rate_limits": [
            {"name": "burst", "limit": 60, "window_s": 60},
            {"name": "month", "limit": 2**53 - 1, "window_s": 31 * 86400},
        ],
        "metadata": {"team": "vision"},
        "expires_at": "2099-12-31T12:00:00Z",
    }
    created = await api.client.post(KEYS, json=grant, headers=api.admin)
    assert created.status_code == 201
    assert created.headers["cache-control"] == "no-store"
    key = created.json()
    assert created.headers["location"] == f"{KEYS}/{key['id']}"
    api_key = key.pop("api_key")
    assert re.fullmatch(r"sdb_cli_[0-9A-Za-z]{38}", api_key)
    assert set(key) == FIELDS
    assert abs((datetime.now(UTC) - datetime.fromisoformat(key["created_at"])).total_seconds()) < 10
    assert {field: key[field] for field in FIELDS - {"id", "created_at"}} == {
        **grant,
        "kind": "client",
        "scopes": ["distill", "predict"],
        "state": "active",
        "last_used_at": None,
        "mark": DEFAULT_MARK,
        "budget": {"limit": 7, "remaining": 7, "granted": 0, "refill": "none", "resets_at": None},
        "image_key": None,
    }

    shown = await api.client.get(f"{KEYS}/{key['id']}", headers=api.admin)
    listed = await api.client.get(KEYS, headers=api.admin)
    own = await api.client.get("/v1/keys/self", headers=bearer(api_key))
    assert shown.json() == own.json() == key
    assert key in listed.json()["keys"]
    assert own.headers["cache-control"] == "no-store"
    for text in (shown.text, listed.text, own.text, caplog.text):
        assert api_key not in text
        assert api.admin_key not in text


async def test_a_name_is_enough_and_gives_only_what_everybody_has(api: Api) -> None:
    key = (await api.client.post(KEYS, json={"name": "a"}, headers=api.admin)).json()
    assert (key["scopes"], key["models"], key["expires_at"], key["metadata"]) == (["predict"], ["*"], None, {})
    assert key["budget"] == {"limit": None, "remaining": None, "granted": 0, "refill": "none", "resets_at": None}
    assert key["rate_limits"] == []


def next_midnight(now: datetime) -> datetime:
    return now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)


def next_month(now: datetime) -> datetime:
    return next_midnight((now.replace(day=1) + timedelta(days=32)).replace(day=1)) - timedelta(days=1)


async def test_a_budget_with_refill_says_when_it_is_given_anew(api: Api) -> None:
    for refill, expected in (("daily", next_midnight), ("monthly", next_month)):
        before = datetime.now(UTC)
        key: Json = await api.issue(budget={"limit": 5, "refill": refill})
        resets_at = datetime.fromisoformat(key["budget"]["resets_at"])
        assert resets_at in {expected(before), expected(datetime.now(UTC))}


async def test_no_two_keys_share_an_id_or_a_secret(api: Api) -> None:
    keys = [await api.issue() for _ in range(5)]
    assert len({key["id"] for key in keys}) == len({key["api_key"] for key in keys}) == 5


async def test_a_grant_that_is_not_valid_makes_no_key(api: Api) -> None:
    bad: list[dict[str, object]] = [
        {},
        {"name": ""},
        {"name": "x" * 201},
        {"name": "two\nlines"},
        {"name": None},
        {"name": 5},
        {"name": "a", "scopes": ["root"]},
        {"name": "a", "scopes": "predict"},
        {"name": "a", "models": []},
        {"name": "a", "models": ["x" * 65]},
        {"name": "a", "budget": {"limit": -1}},
        {"name": "a", "budget": {"limit": 1.5}},
        {"name": "a", "budget": {"limit": 2**53}},
        {"name": "a", "budget": {"limit": 10**400}},
        {"name": "a", "budget": {"limit": 5, "refill": "hourly"}},
        {"name": "a", "budget": 5},
        {"name": "a", "expires_at": "tomorrow"},
        {"name": "a", "expires_at": "2099-01-01T00:00:00"},  # in whose time zone?
        {"name": "a", "metadata": {"x": {"y": "z"}}},
        {"name": "a", "metadata": {str(number): "" for number in range(51)}},
        {"name": "a", "budget": {"limit": None, "refill": "daily"}},
        {"name": "a", "budget": {"refill": "monthly"}},
        {"name": "a", "rate_limits": {"name": "burst", "limit": 1, "window_s": 1}},
        {"name": "a", "rate_limits": [{"name": "burst", "limit": 1}]},
        {"name": "a", "rate_limits": [{"name": "burst", "limit": 0, "window_s": 1}]},
        {"name": "a", "rate_limits": [{"name": "burst", "limit": 1, "window_s": 0}]},
        {"name": "a", "rate_limits": [{"name": "burst", "limit": 1, "window_s": 31 * 86400 + 1}]},
        {"name": "a", "rate_limits": [{"name": "Burst 1", "limit": 1, "window_s": 1}]},
        {"name": "a", "rate_limits": [{"name": "budget", "limit": 1, "window_s": 1}]},
        {"name": "a", "rate_limits": [{"name": "burst", "limit": 1, "window_s": 1}] * 2},
        {"name": "a", "rate_limits": [{"name": f"r{number}", "limit": 1, "window_s": 1} for number in range(11)]},
        {"name": "a", "image_key": {"scheme": "sealed"}},  # without the scope
        {"name": "a", "scopes": ["predict", "distill", "unlock"], "image_key": {"scheme": "sealed"}},
        {"name": "a", "scopes": ["decrypt"], "image_key": {}},
        {"name": "a", "scopes": ["decrypt"], "image_key": "sealed"},
        {"name": "a", "scopes": ["decrypt"], "image_key": {"scheme": "sealed", "block": 4}},
        {"name": "a", "scopes": ["decrypt"], "image_key": {"scheme": "pixel"}},
        {"name": "a", "scopes": ["decrypt"], "image_key": {"scheme": "pixel", "transform": "shf", "block": 5}},
        {"name": "a", "scopes": ["decrypt"], "image_key": {"scheme": "sealed", "secret": "mine"}},
        {"name": "a", "kind": "admin"},
        {"name": "a", "api_key": "sdb_cli_mine"},
    ]
    for grant in bad:
        response = await api.client.post(KEYS, json=grant, headers=api.admin)
        assert (response.status_code, response.json()["code"]) == (400, "invalid-request"), grant
        assert response.headers["content-type"] == "application/problem+json"
    for content in (b"", b"{", b"\xff", b"[]", b"null", b"[" * 60_000, b'{"name": "\\ud800"}'):
        headers = {**api.admin, "Content-Type": "application/json"}
        response = await api.client.post(KEYS, content=content, headers=headers)
        assert (response.status_code, response.json()["code"]) == (400, "invalid-request"), content[:20]
    assert [key["name"] for key in (await api.client.get(KEYS, headers=api.admin)).json()["keys"]] == ["first admin"]


async def test_an_expiry_reads_back_as_the_instant_that_was_given(api: Api) -> None:
    instants = {
        "2099-01-01T00:00:00Z": "2099-01-01T00:00:00Z",
        "2099-01-01T02:00:00+02:00": "2099-01-01T00:00:00Z",
        "2099-01-01T00:00:00.75Z": "2099-01-01T00:00:00Z",  # all times of the API are whole seconds
        "3000-01-01T00:00:00Z": "3000-01-01T00:00:00Z",
        "9999-12-31T23:59:59Z": "9999-12-31T23:59:59Z",
    }
    wrong = []
    for given, expected in instants.items():
        key = await api.issue(expires_at=given)
        own = await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))
        seen = (key["expires_at"], own.json().get("expires_at", f"status {own.status_code}"))
        if seen != (expected, expected):
            wrong.append((given, seen))
    assert wrong == []


async def test_no_expiry_breaks_the_server(api: Api) -> None:
    answers = []
    for given in ("0001-01-01T00:00:00", "9999-12-31T23:59:59", "9999-12-31T23:59:59-12:00", -1, 1e18):
        response = await api.client.post(KEYS, json={"name": "a", "expires_at": given}, headers=api.admin)
        listed = await api.client.get(KEYS, headers=api.admin)
        answers.append((given, response.status_code in {201, 400}, listed.status_code))
    assert answers == [(given, True, 200) for given, _, _ in answers]


async def test_pages_list_every_key_once_and_newest_first(api: Api) -> None:
    names = [f"key {number}" for number in range(7)]
    for name in names:
        await api.issue(name=name)
    expected = [*reversed(names), "first admin"]

    async def follow(limit: int) -> list[list[str]]:
        pages, query = [], {"limit": str(limit)}
        while True:
            page = (await api.client.get(KEYS, params=query, headers=api.admin)).json()
            pages.append([key["name"] for key in page["keys"]])
            if page["next"] is None:
                return pages
            query["cursor"] = page["next"]

    for limit, sizes in ((3, [3, 3, 2]), (4, [4, 4]), (8, [8]), (200, [8])):
        pages = await follow(limit)
        assert [len(page) for page in pages] == sizes
        assert sorted(chain.from_iterable(pages)) == sorted(expected)
    assert list(chain.from_iterable(await follow(3))) == expected


async def test_a_search_finds_a_part_of_a_name_an_id_or_a_metadata_value_whatever_its_case(api: Api) -> None:
    clinic = await api.issue(name="Müller Clinic", metadata={"contract": "7/2026"})
    lab = await api.issue(name="lab", metadata={"owner": "Clinique"})
    other = await api.issue(name="100% [a-z]* \\d")

    async def found(search: str, **query: str) -> list[str]:
        answer = await api.client.get(KEYS, params={"search": search, **query}, headers=api.admin)
        return [key["id"] for key in answer.json()["keys"]]

    assert await found("clin") == [lab["id"], clinic["id"]]
    assert await found("MÜLLER") == await found("7/2026") == [clinic["id"]]
    assert await found(lab["id"]) == await found(lab["id"][4:].lower()) == [lab["id"]]
    assert await found("contract") == await found("nothing such") == [], "the names of metadata are not searched"
    assert await found("100% [a-z]* \\d") == await found("*") == [other["id"]], "no pattern, only text"
    assert len(await found("")) == 4
    first = await api.client.get(KEYS, params={"search": "CLIN", "limit": "1"}, headers=api.admin)
    assert await found("CLIN", limit="1", cursor=first.json()["next"]) == [clinic["id"]]


async def test_a_page_that_cannot_be_is_refused(api: Api) -> None:
    bad = [{"limit": "0"}, {"limit": "201"}, {"limit": "all"}, {"cursor": "key_none"}, {"cursor": "x" * 65}]
    for query in (*bad, {"search": "x" * 201}):
        response = await api.client.get(KEYS, params=query, headers=api.admin)
        assert response.status_code in {400, 404}, query
        assert response.json()["code"] in {"invalid-request", "unknown-key"}


async def test_a_key_that_does_not_exist_is_neither_shown_nor_changed(api: Api) -> None:
    key = await api.issue()
    for name in ("key_none", key["id"].lower(), key["id"] + "x", f"{key['id']}}}:holds", "tracing", "%00", "*", "é"):
        where = f"{KEYS}/{name}"
        calls: list[tuple[str, str, object]] = [("GET", where, None), ("GET", f"{where}/usage", None)]
        calls += [("PATCH", where, {"name": "b"}), ("POST", f"{where}/top-up", {"answers": 1})]
        calls += [("POST", f"{where}/{act}", None) for act in ("rotate", "revoke", "disable", "enable")]
        for method, path, body in calls:
            response = await api.client.request(method, path, json=body, headers=api.admin)
            assert (response.status_code, response.json()["code"]) == (404, "unknown-key"), (method, path)
    shown = await api.client.get(f"{KEYS}/{key['id']}", headers=api.admin)
    assert shown.json() == {field: key[field] for field in FIELDS}
    assert len((await api.client.get(KEYS, headers=api.admin)).json()["keys"]) == 2
