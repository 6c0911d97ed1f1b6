"""A change that is asked for twice under one Idempotency-Key is made once, and told twice."""

from secrets import token_hex
from typing import Any

import pytest

from tests.conftest import Api, bearer

KEYS, AUDIT, SELF = "/admin/v1/keys", "/admin/v1/audit", "/v1/keys/self"
SEALED = {"scheme": "sealed"}
Json = dict[str, Any]
NEW = {"name": "a", "scopes": ["distill", "decrypt"], "budget": {"limit": 5}, "image_key": SEALED}
CHANGES: dict[str, tuple[str, object, object]] = {  # act: path below the key, body, another body
    "create": ("", NEW, {**NEW, "name": "b"}),
    "rotate": ("/{id}/rotate", {"overlap_s": 60}, {"overlap_s": 61}),
    "top-up": ("/{id}/top-up", {"answers": 3}, {"answers": 4}),
    "image-key": ("/{id}/image-keys", SEALED, {**SEALED, "overlap_s": 5}),
    "revoke": ("/{id}/revoke", None, None),
    "disable": ("/{id}/disable", None, None),
    "enable": ("/{id}/enable", None, None),
}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


@pytest.fixture
def once() -> str:
    """What no other test calls a change."""
    return token_hex(8)


async def holder(api: Api) -> Json:
    return await api.issue(scopes=["distill", "decrypt"])


async def ask(api: Api, act: str, key: Json, name: str, body: object) -> tuple[int, Json]:
    path = KEYS + CHANGES[act][0].format(**key)
    answer = await api.client.post(path, json=body, headers={**api.admin, "Idempotency-Key": name})
    return answer.status_code, answer.json()


async def logged(api: Api, **about: str) -> list[Json]:
    entries: list[Json] = (await api.client.get(AUDIT, params=about, headers=api.admin)).json()["entries"]
    return entries


async def everything(api: Api) -> Json:
    found: Json = (await api.client.get(KEYS, headers=api.admin)).json()
    return found


@pytest.mark.parametrize("act", CHANGES)
async def test_a_retry_is_told_the_same_and_changes_nothing_more(api: Api, act: str, once: str) -> None:
    key = await holder(api)
    _, body, other = CHANGES[act]
    first = await ask(api, act, key, once, body)
    assert first[0] in {200, 201}
    after, entries = await everything(api), await logged(api)
    assert [await ask(api, act, key, once, body) for _ in range(3)] == [first] * 3
    if other is not None:
        status, refused = await ask(api, act, key, once, other)
        assert (status, refused["code"]) == (422, "idempotency-mismatch")
    assert (await everything(api), await logged(api)) == (after, entries)


async def test_a_patch_and_a_deletion_may_be_repeated_alike(api: Api, once: str) -> None:
    key: Json = await api.issue(scopes=["decrypt"], image_key=SEALED)
    where = f"{KEYS}/{key['id']}"
    calls = [("PATCH", where, {"name": "b"}), ("DELETE", f"{where}/image-keys/{key['image_key']['kid']}", None)]
    for number, (method, path, body) in enumerate(calls):
        headers = {**api.admin, "Idempotency-Key": f"{once}-{number}"}
        first, again = [await api.client.request(method, path, json=body, headers=headers) for _ in range(2)]
        assert (first.status_code, first.json()) == (again.status_code, again.json())
    actions = [entry["action"] for entry in await logged(api, target=key["id"])]
    assert [actions.count(action) for action in ("key.update", "image-key.retire")] == [1, 1]


async def test_the_secrets_of_a_retry_are_those_that_are_in_force(api: Api, once: str) -> None:
    (_, first), (_, again) = [await ask(api, "create", {}, once, NEW) for _ in range(2)]
    assert (first["api_key"], first["image_key"]["secret"]) == (again["api_key"], again["image_key"]["secret"])
    rotated = [(await ask(api, "rotate", first, f"{once}-again", {}))[1]["api_key"] for _ in range(2)]
    assert rotated[0] == rotated[1] != first["api_key"]
    statuses = [(await api.client.get(SELF, headers=bearer(each))).status_code for each in (first["api_key"], *rotated)]
    assert statuses == [401, 200, 200]


async def test_a_name_stands_for_one_change_of_one_key_by_one_admin(api: Api, once: str) -> None:
    one, other = await holder(api), await holder(api)
    assert (await ask(api, "top-up", one, once, {"answers": 3}))[0] == 200
    for act, key, body in (("top-up", other, {"answers": 3}), ("disable", one, None), ("create", one, NEW)):
        status, refused = await ask(api, act, key, once, body)
        assert (status, refused["code"]) == (422, "idempotency-mismatch"), act
    own = (await api.client.get(SELF, headers=api.admin)).json()
    rotated = await api.client.post(f"{KEYS}/{own['id']}/rotate", json={"overlap_s": 86400}, headers=api.admin)
    same_admin = Api(api.client, api.app, rotated.json()["api_key"])
    assert (await ask(same_admin, "top-up", other, once, {"answers": 3}))[0] == 422, "rotated, and the same admin"
    assert (await ask(api, "top-up", other, f"{once}-too", {"answers": 3}))[1]["budget"]["granted"] == 3


async def test_without_a_name_every_request_is_a_change_of_its_own(api: Api) -> None:
    key = await holder(api)
    for granted in (3, 6):
        answer = await api.client.post(f"{KEYS}/{key['id']}/top-up", json={"answers": 3}, headers=api.admin)
        assert answer.json()["budget"]["granted"] == granted


async def test_a_change_that_was_refused_may_be_asked_again(api: Api, once: str) -> None:
    key = await holder(api)
    await api.client.patch(f"{KEYS}/{key['id']}", json={"budget": {"limit": None}}, headers=api.admin)
    assert (await ask(api, "top-up", key, once, {"answers": 3}))[0] == 400
    await api.client.patch(f"{KEYS}/{key['id']}", json={"budget": {"limit": 5}}, headers=api.admin)
    assert (await ask(api, "top-up", key, once, {"answers": 3}))[0] == 200


@pytest.mark.parametrize("name", ["", "x" * 256, "é", "a b\x01"], ids=["empty", "long", "not ASCII", "control"])
async def test_a_name_that_cannot_be_is_refused_and_changes_nothing(api: Api, name: str) -> None:
    before = await everything(api)
    headers = [
        (field.encode(), value.encode("latin-1")) for field, value in (*api.admin.items(), ("Idempotency-Key", name))
    ]
    answer = await api.client.post(KEYS, json=NEW, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
    assert await everything(api) == before
