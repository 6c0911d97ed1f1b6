"""Laws of `Idempotency-Key` on predictions: the same request is charged once, another one under its name is refused."""

import asyncio
from typing import Any

import httpx
import pytest
from sdb_client.sealed import MEDIA_TYPE, seal

from keys.material import from_text
from tests.conftest import Api, bearer, encode, smooth_images

PREDICT = "/v1/models/tiny/predict"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def ask(api: Api, key: dict[str, str], body: bytes, name: str, **more: str) -> httpx.Response:
    headers = {**bearer(key["api_key"]), "Idempotency-Key": name, **more}
    return await api.client.post(PREDICT, content=body, headers=headers)


async def test_a_request_that_is_repeated_gets_its_answer_again_and_is_charged_once(api: Api, photo: bytes) -> None:
    key = await api.issue(10)
    first, again = await ask(api, key, photo, "a"), await ask(api, key, photo, "a")
    assert first.json()["predictions"] == again.json()["predictions"]
    assert first.json()["budget"] == again.json()["budget"] == {"limit": 10, "remaining": 9}
    assert (await ask(api, key, photo, "b")).json()["budget"]["remaining"] == 8


async def test_a_spent_budget_still_repeats_what_was_paid_for(api: Api, photo: bytes) -> None:
    key = await api.issue(1)
    assert (await ask(api, key, photo, "a")).status_code == 200
    assert (await ask(api, key, photo, "b")).json()["code"] == "quota-exceeded"
    assert (await ask(api, key, photo, "a")).status_code == 200


async def test_another_request_under_the_same_name_is_refused_and_not_charged(api: Api, photo: bytes) -> None:
    key = await api.issue(10)
    await ask(api, key, photo, "a")
    other = encode(smooth_images(1, 36, seed=3)[0].permute(1, 2, 0).numpy())
    refused = await ask(api, key, other, "a")
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency-mismatch")
    warmer = await api.client.post(
        PREDICT,
        content=photo,
        params={"temperature": 2},
        headers={**bearer(key["api_key"]), "Idempotency-Key": "a"},
    )
    assert warmer.status_code == 422
    assert (await ask(api, key, photo, "c")).json()["budget"]["remaining"] == 8


async def test_two_keys_may_use_one_name(api: Api, photo: bytes) -> None:
    keys = [await api.issue(10) for _ in range(2)]
    assert [(await ask(api, key, photo, "a")).json()["budget"]["remaining"] for key in keys] == [9, 9]


async def test_the_same_request_twice_at_once_is_charged_once(api: Api, photo: bytes) -> None:
    key = await api.issue(100)
    answers = await asyncio.gather(*(ask(api, key, photo, "a") for _ in range(10)))
    assert {answer.status_code for answer in answers} <= {200, 409}
    assert any(answer.status_code == 200 for answer in answers)
    for answer in answers:
        if answer.status_code == 409:
            assert (answer.json()["code"], answer.headers["retry-after"]) == ("idempotency-in-progress", "1")
    own = await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))
    assert own.json()["budget"]["remaining"] == 99


async def test_a_request_that_failed_may_come_again_under_its_name(api: Api, photo: bytes) -> None:
    key = await api.issue(10)
    assert (await ask(api, key, photo[:60], "a")).status_code == 422
    assert (await ask(api, key, photo, "a")).json()["budget"]["remaining"] == 9


async def test_a_sealed_image_may_be_repeated_under_its_name_and_no_other(api: Api, photo: bytes) -> None:
    key: dict[str, Any] = await api.issue(10, scopes=["decrypt", "distill"], image_key={"scheme": "sealed"})
    image_key = key["image_key"]
    envelope = seal(photo, from_text(image_key["secret"]), kid=image_key["kid"], model="tiny")
    sent = {"Content-Type": MEDIA_TYPE}
    first, again = await ask(api, key, envelope, "a", **sent), await ask(api, key, envelope, "a", **sent)
    assert first.status_code == 200, first.text
    assert first.json()["predictions"] == again.json()["predictions"]
    assert again.json()["budget"]["remaining"] == 9
    assert (await ask(api, key, envelope, "b", **sent)).json()["code"] == "undecryptable-image"


@pytest.mark.parametrize("name", ["", "x" * 256, "two words", "é"])
async def test_a_name_that_is_none_is_refused(api: Api, photo: bytes, name: str) -> None:
    key = await api.issue(10)
    headers = [(b"Authorization", f"Bearer {key['api_key']}".encode()), (b"Idempotency-Key", name.encode("latin-1"))]
    answer = await api.client.post(PREDICT, content=photo, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")


async def test_a_stranger_has_nothing_to_charge_and_may_name_its_requests(api: Api, photo: bytes) -> None:
    for _ in range(2):
        assert (await api.client.post(PREDICT, content=photo, headers={"Idempotency-Key": "a"})).status_code == 200
