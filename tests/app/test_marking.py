"""Every answer that a key holder may learn from bears the key's mark, through every door, and no top-1 is changed."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import numpy as np
import pytest

from app import marking
from app.settings import Settings
from keys.records import DEFAULT_MARK
from models.tracing.mark import DEFAULT_STRENGTH
from tests.app.oip import images, infer, outputs, pixels
from tests.conftest import CLASSES, Api, bearer, encode, smooth_images

PREDICT, HF = "/v1/models/tiny/predict", "/hf/models/tiny"
COUNT = 24
NOISE = 1e-4  # of batches of other sizes
Door = Callable[[Api, np.ndarray, dict[str, str]], Awaitable[tuple[int, np.ndarray]]]


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_body_bytes": 2**20})


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """Images uint8 [COUNT, 32, 32, 3] of the model's size."""
    return smooth_images(COUNT, 32, seed=5).permute(0, 2, 3, 1).contiguous().numpy()


async def holder(api: Api, **grant: object) -> dict[str, str]:
    """The headers of a new key holder."""
    return bearer((await api.issue(10_000, **grant))["api_key"])


async def logits(api: Api, many: np.ndarray, headers: Mapping[str, str] = {}) -> np.ndarray:
    answer = await infer(api, *pixels(many), headers, parameters={"binary_data_output": True})
    return outputs(answer)["logits"]


async def entries(api: Api, action: str) -> list[dict[str, Any]]:
    """The entries of the audit log with this action, newest first."""
    log = await api.client.get("/admin/v1/audit", params={"limit": 100}, headers=api.admin)
    return [entry for entry in log.json()["entries"] if entry["action"] == action]


def test_the_default_of_keys_is_that_of_marks() -> None:
    assert DEFAULT_MARK == DEFAULT_STRENGTH


async def test_a_mark_changes_every_row_and_no_top_1(api: Api, many: np.ndarray) -> None:
    plain = await logits(api, many, await holder(api, mark=0))
    for strength in (0.01, DEFAULT_MARK, 1.0):
        marked = await logits(api, many, await holder(api, mark=strength))
        assert np.array_equal(marked.argmax(1), plain.argmax(1))
        assert (np.abs(marked - plain).max(1) > strength / 10).all()


async def test_keys_are_marked_by_default_and_each_in_its_own_way(api: Api, many: np.ndarray) -> None:
    plain, *marked = [await logits(api, many, await holder(api, **grant)) for grant in ({"mark": 0}, {}, {})]
    changes = [one - plain for one in marked]
    assert all(np.abs(change).max() > 0.1 for change in changes)
    assert np.abs(changes[0] - changes[1]).max() > 0.1


async def test_who_may_not_learn_gets_no_mark(api: Api, many: np.ndarray) -> None:
    stranger = await logits(api, many)
    predicting = await logits(api, many, await holder(api, scopes=["predict"], mark=1))
    np.testing.assert_allclose(predicting, stranger, atol=NOISE)


async def v1_raw(api: Api, image: np.ndarray, headers: dict[str, str]) -> tuple[int, np.ndarray]:
    answer = await api.client.post(PREDICT, content=encode(image), params={"temperature": 3}, headers=headers)
    return _of_v1(answer)


async def v1_form(api: Api, image: np.ndarray, headers: dict[str, str]) -> tuple[int, np.ndarray]:
    return _of_v1(await api.client.post(PREDICT, files={"image": encode(image)}, headers=headers))


def _of_v1(answer: httpx.Response) -> tuple[int, np.ndarray]:
    (prediction,) = answer.json()["predictions"]
    assert prediction["top"][0]["index"] == prediction["index"]
    return prediction["index"], np.array(prediction["probabilities"])


async def oip_json(api: Api, image: np.ndarray, headers: dict[str, str]) -> tuple[int, np.ndarray]:
    tensor = {"name": "image", "shape": [1, *image.shape], "datatype": "UINT8", "data": image.reshape(-1).tolist()}
    return _of_oip(await infer(api, tensor, None, headers))


async def oip_bytes(api: Api, image: np.ndarray, headers: dict[str, str]) -> tuple[int, np.ndarray]:
    return _of_oip(await infer(api, *images([encode(image)]), headers, parameters={"binary_data_output": True}))


async def oip_half(api: Api, image: np.ndarray, headers: dict[str, str]) -> tuple[int, np.ndarray]:
    parameters = {"binary_data_output": True, "output_datatype": "FP16"}
    return _of_oip(await infer(api, *pixels(image[None]), headers, parameters=parameters))


def _of_oip(answer: httpx.Response) -> tuple[int, np.ndarray]:
    found = outputs(answer)
    return int(found["index"][0]), found["probabilities"][0].astype(float)


async def hugging_face(api: Api, image: np.ndarray, headers: dict[str, str]) -> tuple[int, np.ndarray]:
    answer = await api.client.post(HF, content=encode(image), headers=headers)
    best = answer.json()[0]
    assert best["score"] == max(entry["score"] for entry in answer.json())
    return CLASSES.index(best["label"]), np.array([best["score"]])


async def test_through_every_door_the_mark_is_there_and_the_top_1_is_the_same(api: Api, many: np.ndarray) -> None:
    plain, marked = await holder(api, mark=0), await holder(api, mark=1)
    doors: tuple[Door, ...] = (v1_raw, v1_form, oip_json, oip_bytes, oip_half, hugging_face)
    for door in doors:
        changed = 0.0
        for image in many[:3]:
            (index, before), (same, after) = await door(api, image, plain), await door(api, image, marked)
            assert same == index, door
            changed = max(changed, np.abs(after - before).max())
        assert changed > 1e-3, door


async def test_the_mark_of_a_view_is_that_of_the_pixels_the_student_is_shown(api: Api, many: np.ndarray) -> None:
    """Or a student that is shown the view could not learn it."""
    plain, marked = await holder(api, mark=0), await holder(api, mark=1)

    async def views(headers: dict[str, str]) -> list[dict[str, Any]]:
        answer = await api.client.post(PREDICT, content=encode(many[0]), params={"views": 3}, headers=headers)
        found: list[dict[str, Any]] = answer.json()["predictions"][0]["views"]
        return found

    changes = [
        np.array(after["logits"]) - np.array(before["logits"])
        for before, after in zip(await views(plain), await views(marked), strict=True)
    ]
    assert np.abs(changes[1] - changes[0]).max() > 10 * NOISE, "another view, another mark"
    alone = await logits(api, many[:1], marked) - await logits(api, many[:1], plain)
    np.testing.assert_allclose(changes[0], alone[0], atol=NOISE)


async def test_one_large_call_is_marked_as_its_images_are_alone(
    api: Api, many: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = await holder(api, mark=1)
    whole = await logits(api, many, headers)
    monkeypatch.setattr(marking, "INLINE", 0)
    monkeypatch.setattr(marking, "CHUNK", 7 * many[0].size)
    np.testing.assert_allclose(await logits(api, many, headers), whole, atol=NOISE)


async def test_a_repeated_request_gets_the_same_marked_answer(api: Api, many: np.ndarray) -> None:
    headers = {**await holder(api), "Idempotency-Key": "a"}
    first, again = [await api.client.post(PREDICT, content=encode(many[0]), headers=headers) for _ in range(2)]
    assert first.json()["predictions"] == again.json()["predictions"]


async def test_a_changed_strength_is_in_force_with_the_next_answer(api: Api, many: np.ndarray) -> None:
    key = await api.issue(mark=1)
    headers, plain = bearer(key["api_key"]), await logits(api, many, await holder(api, mark=0))
    assert np.abs(await logits(api, many, headers) - plain).max() > 0.1
    where = f"/admin/v1/keys/{key['id']}"
    assert (await api.client.patch(where, json={"mark": 0}, headers=api.admin)).json()["mark"] == 0
    np.testing.assert_allclose(await logits(api, many, headers), plain, atol=NOISE)
    (update,) = await entries(api, "key.update")
    assert update["detail"] == {"mark": [1.0, 0.0]}


async def test_the_audit_log_says_since_when_answers_are_marked_and_not_how_often(api: Api, many: np.ndarray) -> None:
    key, unmarked = await api.issue(), await api.issue(mark=0)
    together = [logits(api, many[:1], bearer(key["api_key"])) for _ in range(6)]
    await asyncio.gather(*together, logits(api, many, bearer(unmarked["api_key"])))
    (begun,) = await entries(api, "mark.begin")
    detail = {"model": "tiny", "generation": 1, "strength": DEFAULT_MARK}
    assert (begun["target"], begun["actor"], begun["detail"]) == (key["id"], "server", detail)
    assert begun["request_id"]
    assert len(await entries(api, "tracing-secret.make")) == 1


async def test_more_keys_than_are_kept_in_memory_keep_their_marks(
    api: Api, many: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marking, "KEPT", 2)
    holders = [await holder(api) for _ in range(4)]
    first = [await logits(api, many[:2], headers) for headers in holders]
    for headers, answer in zip(holders, first, strict=True):
        assert np.array_equal(await logits(api, many[:2], headers), answer)
    assert len(await entries(api, "mark.begin")) == 4
