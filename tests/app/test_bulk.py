"""Many images in one call: charged once, taken as they came, and nobody else kept waiting."""

import asyncio
import base64

import httpx
import numpy as np
import pytest

from app.hosting import Model, Rows, Vectors
from app.settings import Settings
from tests.app.oip import images, infer, outputs, pixels
from tests.conftest import CLASSES, Api, bearer, encode, smooth_images

PREDICT = "/v1/models/tiny/predict"
COUNT = 256
HALF = {"binary_data_output": True, "output_datatype": "FP16"}
WHOLE = {"binary_data_output": True}


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"max_body_bytes": 16 * 2**20})


@pytest.fixture(scope="module")
def many() -> np.ndarray:
    """Images uint8 [256, 32, 32, 3] of the model's size."""
    return smooth_images(COUNT, 32, seed=3).permute(0, 2, 3, 1).contiguous().numpy()


@pytest.fixture
async def submitted(api: Api, monkeypatch: pytest.MonkeyPatch) -> list[Rows]:
    """What the model is asked while a test runs."""
    model: Model = api.app.state.services.models["tiny"]
    seen: list[Rows] = []
    submit = model.submit

    async def watched(rows: Rows) -> Vectors:
        seen.append(rows)
        return await submit(rows)

    monkeypatch.setattr(model, "submit", watched)
    return seen


async def left(api: Api, headers: dict[str, str]) -> int:
    remaining: int = (await api.client.get("/v1/keys/self", headers=headers)).json()["budget"]["remaining"]
    return remaining


async def test_a_tensor_of_the_models_size_reaches_the_model_as_a_view_of_the_body(
    api: Api, submitted: list[Rows], many: np.ndarray
) -> None:
    answer = await infer(api, *pixels(many), parameters=WHOLE)
    assert outputs(answer)["logits"].shape == (COUNT, len(CLASSES))
    (rows,) = submitted
    assert np.array_equal(rows.pixels, many)
    assert not rows.pixels.flags.owndata
    assert not rows.pixels.flags.writeable, "as the bytes of a body are"


async def test_a_bulk_call_is_charged_once_and_every_image_is_answered_as_if_alone(api: Api, many: np.ndarray) -> None:
    headers = bearer((await api.issue(1000))["api_key"])
    bulk = outputs(await infer(api, *pixels(many), headers, parameters=WHOLE))
    assert await left(api, headers) == 1000 - COUNT
    for place in (0, 31, 32, 33, 128, 255):  # within, at the end and at the beginning of a batch
        alone = outputs(await infer(api, *pixels(many[place : place + 1]), headers, parameters=WHOLE))
        np.testing.assert_allclose(bulk["logits"][place], alone["logits"][0], rtol=1e-4, atol=1e-4)


async def test_a_bulk_call_beyond_the_budget_is_refused_whole_and_costs_nothing(api: Api, many: np.ndarray) -> None:
    headers = bearer((await api.issue(COUNT - 1))["api_key"])
    answer = await infer(api, *pixels(many), headers, parameters=WHOLE)
    assert (answer.status_code, answer.json()["code"]) == (429, "quota-exceeded")
    assert await left(api, headers) == COUNT - 1


async def test_every_form_of_a_bulk_call_gets_the_same_answers(api: Api, many: np.ndarray) -> None:
    encoded = [encode(image) for image in many]
    expected = outputs(await infer(api, *pixels(many), parameters=WHOLE))
    as_files = outputs(await infer(api, *images(encoded), parameters=WHOLE))
    half = outputs(await infer(api, *pixels(many), parameters=HALF))
    body = {"images": [base64.b64encode(image).decode() for image in encoded]}
    in_json = (await api.client.post(PREDICT, json=body)).json()["predictions"]
    assert half["logits"].dtype == np.float16
    assert as_files["label"].tolist() == half["label"].tolist() == [prediction["label"] for prediction in in_json]
    for name in ("logits", "probabilities"):
        np.testing.assert_allclose(as_files[name], expected[name], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(half[name], expected[name], rtol=1e-3, atol=1e-3)
        found = np.array([prediction[name] for prediction in in_json], np.float32)
        np.testing.assert_allclose(found, expected[name], rtol=1e-5, atol=1e-5)


async def test_a_tensor_of_another_size_is_fitted_like_an_image(api: Api) -> None:
    larger = smooth_images(3, 48, seed=4).permute(0, 2, 3, 1).contiguous().numpy()
    answer = outputs(await infer(api, *pixels(larger), parameters=WHOLE))
    as_files = outputs(await infer(api, *images([encode(image) for image in larger]), parameters=WHOLE))
    np.testing.assert_allclose(answer["logits"], as_files["logits"], rtol=1e-5, atol=1e-5)


async def test_small_requests_are_answered_while_bulk_calls_run(api: Api, many: np.ndarray, photo: bytes) -> None:
    order = list[str]()

    async def ask(name: str, request: asyncio.Future[httpx.Response]) -> None:
        assert (await request).status_code == 200
        order.append(name)

    bulk = [ask("bulk", asyncio.ensure_future(infer(api, *pixels(many), parameters=WHOLE))) for _ in range(3)]
    small = [ask("small", asyncio.ensure_future(api.client.post(PREDICT, content=photo))) for _ in range(4)]
    await asyncio.gather(*bulk, *small)
    assert order[:4] == ["small"] * 4


async def test_more_images_than_one_request_may_hold_are_refused(api: Api, many: np.ndarray) -> None:
    answer = await infer(api, *pixels(np.concatenate([many, many[:1]])), parameters=WHOLE)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")
