"""Admins issue, list and retire image keys; their holders see them; nobody sees a secret twice."""

import base64
import json
import logging
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sdb_client.sealed import seal, unseal

from tests.conftest import Api, bearer

KEYS = "/admin/v1/keys"
SEALED = {"scheme": "sealed"}
PIXEL = {"scheme": "pixel", "transform": "shf", "block": 4}
FIELDS = {"kid", "scheme", "transform", "block", "created_at", "state", "ends_at"}
Json = dict[str, Any]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def holder(api: Api, image_key: Json | None = SEALED) -> Json:
    """A new key of scope `decrypt`: its record with its secrets."""
    return await api.issue(scopes=["predict", "decrypt"], image_key=image_key)


async def issue(api: Api, key: Json, **body: object) -> Json:
    answer = await api.client.post(f"{KEYS}/{key['id']}/image-keys", json=body, headers=api.admin)
    assert answer.status_code == 201, answer.text
    assert answer.headers["cache-control"] == "no-store"
    issued: Json = answer.json()
    return issued


async def listed(api: Api, key: Json) -> list[Json]:
    answer = await api.client.get(f"{KEYS}/{key['id']}/image-keys", headers=api.admin)
    assert (answer.status_code, set(answer.json())) == (200, {"image_keys"})
    found: list[Json] = answer.json()["image_keys"]
    return found


async def own(api: Api, key: Json) -> Json:
    answer = await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))
    found: Json = answer.json()
    return found


def without_secret(image_key: Json) -> Json:
    return {name: value for name, value in image_key.items() if name != "secret"}


# --- issuing


@pytest.mark.parametrize("image_key", [SEALED, PIXEL], ids=["sealed", "pixel"])
async def test_a_key_is_made_with_an_image_key_whose_secret_is_shown_once(
    api: Api, image_key: Json, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    key = await holder(api, image_key)
    issued = key["image_key"]
    assert set(issued) == {*FIELDS, "secret"}
    assert {name: issued[name] for name in image_key} == image_key
    assert (issued["state"], issued["ends_at"]) == ("active", None)
    assert re.fullmatch(r"img_[0-9A-Za-z]{22}", issued["kid"])
    assert re.fullmatch(r"[0-9A-Za-z_-]{43}", issued["secret"]), "32 bytes in base64url without padding"
    assert abs(datetime.fromisoformat(issued["created_at"]) - datetime.now(UTC)) < timedelta(seconds=10)

    shown = await api.client.get(f"{KEYS}/{key['id']}", headers=api.admin)
    page = await api.client.get(KEYS, headers=api.admin)
    assert shown.json() == await own(api, key)
    assert shown.json() == {name: value for name, value in key.items() if name != "api_key"} | {
        "image_key": without_secret(issued)
    }
    assert shown.json() in page.json()["keys"]
    assert await listed(api, key) == [without_secret(issued)]
    texts = [shown.text, page.text, json.dumps(await own(api, key)), json.dumps(await listed(api, key)), caplog.text]
    assert [text for text in texts if issued["secret"] in text or issued["secret"][8:40] in text] == []


async def test_what_the_answer_holds_is_all_that_a_client_needs_to_seal(api: Api) -> None:
    image_key = (await holder(api))["image_key"]
    secret = base64.urlsafe_b64decode(image_key["secret"] + "=")
    message = seal(b"image", secret, kid=image_key["kid"], model="tiny")
    assert unseal(message, secret, kid=image_key["kid"], model="tiny") == b"image"


async def test_a_later_image_key_is_the_one_that_is_shown_and_the_earlier_one_ends(api: Api) -> None:
    key = await holder(api)
    first = key["image_key"]
    assert first["ends_at"] is None
    second = await issue(api, key, **SEALED)
    pixel = await issue(api, key, **PIXEL)
    assert (await own(api, key))["image_key"] == without_secret(pixel)
    states = {image_key["kid"]: image_key["state"] for image_key in await listed(api, key)}
    assert list(states.items()) == [(pixel["kid"], "active"), (second["kid"], "active"), (first["kid"], "retiring")]
    ends_at = datetime.fromisoformat((await listed(api, key))[2]["ends_at"])
    assert abs(ends_at - datetime.now(UTC) - timedelta(days=1)) < timedelta(seconds=10)
    assert len({image_key["secret"] for image_key in (first, second, pixel)}) == 3


@pytest.mark.parametrize(("overlap_s", "state"), [(0, "retired"), (60, "retiring"), (30 * 86400, "retiring")])
async def test_the_overlap_is_the_admins_choice(api: Api, overlap_s: int, state: str) -> None:
    key = await holder(api)
    await issue(api, key, **SEALED, overlap_s=overlap_s)
    assert [image_key["state"] for image_key in await listed(api, key)] == ["active", state]


async def test_a_key_without_image_keys_has_none_to_show(api: Api) -> None:
    key = await holder(api, None)
    assert (key["image_key"], (await own(api, key))["image_key"], await listed(api, key)) == (None, None, [])
    revoked = await api.client.post(f"{KEYS}/{key['id']}/revoke", headers=api.admin)
    assert revoked.json()["image_key"] is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"scheme": "rot13"},
        {"scheme": "pixel"},
        {"scheme": "pixel", "transform": "shf", "block": 3},
        {"scheme": "pixel", "transform": "scramble", "block": 4},
        {**SEALED, "block": 4},
        {**SEALED, "overlap_s": -1},
        {**SEALED, "overlap_s": 30 * 86400 + 1},
        {**SEALED, "overlap_s": 1.5},
        {**SEALED, "kid": "img_mine"},
        [],
    ],
)
async def test_an_image_key_that_cannot_be_is_not_issued(api: Api, body: object) -> None:
    key = await holder(api)
    answer = await api.client.post(f"{KEYS}/{key['id']}/image-keys", json=body, headers=api.admin)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
    assert len(await listed(api, key)) == 1


async def test_why_a_key_gets_no_image_key_is_said_in_words(api: Api) -> None:
    plain, revoked, full = await api.issue(), await holder(api), await holder(api)
    await api.client.post(f"{KEYS}/{revoked['id']}/revoke", headers=api.admin)
    for _ in range(19):
        await issue(api, full, **SEALED)
    reasons = {"scope decrypt": plain["id"], "revoked": revoked["id"], "20 image keys in use": full["id"]}
    for reason, key_id in reasons.items():
        answer = await api.client.post(f"{KEYS}/{key_id}/image-keys", json=SEALED, headers=api.admin)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
        assert reason in answer.json()["detail"]
    refused = await api.client.post(KEYS, json={"name": "a", "image_key": SEALED}, headers=api.admin)
    assert (refused.status_code, "scope decrypt" in refused.json()["detail"]) == (400, True)


# --- retiring


async def test_an_image_key_is_retired_at_once_or_after_an_overlap(api: Api) -> None:
    key = await holder(api)
    first = key["image_key"]
    second = await issue(api, key, **SEALED)
    where = f"{KEYS}/{key['id']}/image-keys"
    for overlap_s, state in ((3600, "retiring"), (7200, "retiring"), (None, "retired"), (3600, "retired")):
        params = {} if overlap_s is None else {"overlap_s": str(overlap_s)}
        answer = await api.client.delete(f"{where}/{second['kid']}", params=params, headers=api.admin)
        assert (answer.status_code, answer.json()["state"]) == (200, state)
        assert set(answer.json()) == FIELDS
        assert datetime.fromisoformat(answer.json()["ends_at"]) - datetime.now(UTC) < timedelta(seconds=3605)
    assert [image_key["state"] for image_key in await listed(api, key)] == ["retired", "retiring"]
    assert (await own(api, key))["image_key"] is None, "none is active"
    await api.client.delete(f"{where}/{first['kid']}", headers=api.admin)
    assert [image_key["state"] for image_key in await listed(api, key)] == ["retired", "retired"]


async def test_what_does_not_exist_is_neither_listed_nor_retired_nor_issued_to(api: Api) -> None:
    key, other = await holder(api), await holder(api)
    foreign, mine = other["image_key"]["kid"], key["image_key"]["kid"]
    calls = [("DELETE", f"{KEYS}/{key['id']}/image-keys/{kid}") for kid in (foreign, "img_nobody", "*", "%00", "é")]
    for key_id in ("key_nobody", f"{key['id']}}}:image-keys", "%00"):
        calls += [("GET", f"{KEYS}/{key_id}/image-keys"), ("POST", f"{KEYS}/{key_id}/image-keys")]
        calls += [("DELETE", f"{KEYS}/{key_id}/image-keys/{mine}")]
    for method, path in calls:
        body = SEALED if method == "POST" else None
        answer = await api.client.request(method, path, json=body, headers=api.admin)
        assert (answer.status_code, answer.json()["code"]) == (404, "unknown-key"), (method, path)
    for given in ("-1", "soon", str(30 * 86400 + 1)):
        path = f"{KEYS}/{key['id']}/image-keys/{mine}"
        answer = await api.client.delete(path, params={"overlap_s": given}, headers=api.admin)
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
    for owner in (key, other):
        assert [image_key["state"] for image_key in await listed(api, owner)] == ["active"]
