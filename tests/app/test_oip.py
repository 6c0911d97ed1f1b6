"""Laws of `/v2`: the native prediction in the words of the Open Inference Protocol, for the same callers."""

import base64
import gzip
from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import pytest
from sdb_client.sealed import seal
from sdb_client.transforms import Transform

from app.answers import Answer
from app.main import create_app
from app.oip.outputs import Wanted, tensors
from app.settings import Settings
from tests.app.oip import INFER, LENGTH, body, head, images, infer, outputs, packed, pixels
from tests.conftest import CLASSES, Api, application, bearer, encode, smooth_images

PREDICT = "/v1/models/tiny/predict"
DATATYPES = {"label": "BYTES", "index": "INT64", "logits": "FP32", "probabilities": "FP32"}
Json = dict[str, Any]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


def arrays(count: int, side: int = 36) -> np.ndarray:
    return smooth_images(count, side, seed=7).permute(0, 2, 3, 1).contiguous().numpy()


def files(count: int) -> list[bytes]:
    return [encode(array) for array in arrays(count)]


def in_json(encoded: list[bytes]) -> Json:
    """A BYTES input with its data in the JSON."""
    data = [base64.b64encode(image).decode() for image in encoded]
    return {"name": "image", "shape": [len(encoded)], "datatype": "BYTES", "data": data}


async def native(api: Api, encoded: list[bytes], headers: Mapping[str, str] = {}, **parameters: object) -> list[Json]:
    body = {"images": [base64.b64encode(image).decode() for image in encoded], "parameters": parameters}
    answer = await api.client.post(PREDICT, json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["predictions"]
    return found


def assert_same(answer: httpx.Response, predictions: list[Json], tolerance: float = 1e-4) -> None:
    """The tensors are what the native call says."""
    got = outputs(answer)
    assert got["label"].tolist() == [prediction["label"] for prediction in predictions]
    assert got["index"].tolist() == [prediction["index"] for prediction in predictions]
    for name in ("logits", "probabilities"):
        expected = np.array([prediction[name] for prediction in predictions])
        np.testing.assert_allclose(got[name], expected, rtol=tolerance, atol=tolerance)


def refused(answer: httpx.Response, status: int = 400, code: str = "invalid-request") -> str:
    """The text of a refusal, which clients of the protocol understand."""
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/json"
    error: str = answer.json()["error"]
    return error


@pytest.mark.parametrize("binary", [True, False])
async def test_files_and_pixels_in_json_and_as_bytes_get_the_native_prediction(api: Api, binary: bool) -> None:
    wish = {"binary_data_output": binary}
    for headers in ({}, bearer((await api.issue())["api_key"])):
        expected = await native(api, files(3), headers)
        flat = {"name": "image", "shape": [3, 36, 36, 3], "datatype": "UINT8", "data": arrays(3).ravel().tolist()}
        nested = {**flat, "data": arrays(3).tolist()}
        for tensor, raw in (
            images(files(3)),
            pixels(arrays(3)),
            (in_json(files(3)), None),
            (flat, None),
            (nested, None),
        ):
            answer = await infer(api, tensor, raw, headers, parameters=wish)
            assert_same(answer, expected)
            assert (LENGTH in answer.headers) is binary
            kind = "application/octet-stream" if binary else "application/json"
            assert answer.headers["content-type"] == kind


async def test_an_answer_names_what_it_holds(api: Api) -> None:
    key = await api.issue(10)
    answer = await infer(api, *images(files(2)), bearer(key["api_key"]), id="mine")
    said = head(answer)
    assert (said["model_name"], said["model_version"], said["id"]) == ("tiny", "1", "mine")
    assert said["parameters"] == {"tier": "distill", "budget_remaining": 8}
    assert answer.headers["ratelimit"] == '"budget";r=8'
    assert answer.headers["cache-control"] == "no-store"
    assert {output["name"]: output["datatype"] for output in said["outputs"]} == DATATYPES
    assert [output["shape"] for output in said["outputs"]] == [[2], [2], [2, 10], [2, 10]]
    public = head(await infer(api, *images(files(2))))
    assert public["parameters"] == {"tier": "public"}
    assert "id" not in public
    unlimited = head(await infer(api, *images(files(1)), bearer((await api.issue(None))["api_key"])))
    assert unlimited["parameters"] == {"tier": "distill"}


async def test_outputs_are_those_asked_for_in_their_order_and_form(api: Api) -> None:
    asked = [{"name": "probabilities", "parameters": {"binary_data": True}}, {"name": "label"}]
    answer = await infer(api, *images(files(2)), outputs=asked)
    assert list(outputs(answer)) == ["probabilities", "label"]
    (first, second) = head(answer)["outputs"]
    assert first["parameters"] == {"binary_data_size": 80}
    assert second["data"] == outputs(answer)["label"].tolist()
    overridden = [{"name": "label"}, {"name": "index", "parameters": {"binary_data": False}}]
    answer = await infer(api, *images(files(1)), outputs=overridden, parameters={"binary_data_output": True})
    assert ["data" in output for output in head(answer)["outputs"]] == [False, True]
    assert list(outputs(await infer(api, *images(files(1)), outputs=[]))) == list(DATATYPES)


async def test_half_precision_comes_as_bytes_only(api: Api) -> None:
    headers = bearer((await api.issue())["api_key"])
    expected = await native(api, files(3), headers)
    wish = {"output_datatype": "FP16", "binary_data_output": True}
    answer = await infer(api, *images(files(3)), headers, parameters=wish)
    assert [output["datatype"] for output in head(answer)["outputs"]] == ["BYTES", "INT64", "FP16", "FP16"]
    assert_same(answer, expected, tolerance=1e-2)
    assert "FP16" in refused(await infer(api, *images(files(1)), headers, parameters={"output_datatype": "FP16"}))
    half, label = {"output_datatype": "FP16"}, [{"name": "label"}]
    assert (await infer(api, *images(files(1)), headers, parameters=half, outputs=label)).status_code == 200


async def test_half_precision_never_overflows(api: Api) -> None:
    manifest = api.app.state.services.models["tiny"].manifest
    logits = np.full((1, 10), 1e6, np.float32) * np.linspace(-1, 1, 10, dtype=np.float32)
    probabilities = np.full((1, 10), 0.1, np.float32)
    answer = Answer(manifest, True, logits, probabilities, [[]], None, False, ())
    ((tensor, _),) = tensors(answer, [Wanted("logits", "FP16", binary=True)])
    assert np.isfinite(np.asarray(tensor.values)).all()


@pytest.mark.parametrize(("count", "given"), [(1, 1), (3, 3), (99, 10)])
async def test_classification_lists_the_greatest_classes(api: Api, count: int, given: int) -> None:
    expected = await native(api, files(2), top_k=given)
    for binary in (True, False):
        asked = {"name": "probabilities", "parameters": {"classification": count, "binary_data": binary}}
        found = outputs(await infer(api, *images(files(2)), outputs=[asked]))["probabilities"]
        assert found.shape == (2, given)
        for texts, prediction in zip(found, expected, strict=True):
            for text, entry in zip(texts, prediction["top"], strict=True):
                score, index, label = text.split(":")
                assert (int(index), label) == (entry["index"], entry["label"])
                assert float(score) == pytest.approx(entry["score"], abs=1e-5)


async def test_parameters_are_those_of_the_native_call(api: Api) -> None:
    headers = bearer((await api.issue())["api_key"])
    expected = await native(api, files(2), headers, temperature=2.5, views=1, mix=0.2)
    wish = {"temperature": 2.5, "views": 1, "mix": 0.2, "priority": 1, "timeout": 1000}
    assert_same(await infer(api, *images(files(2)), headers, parameters=wish), expected)
    for name, value in (("temperature", 0), ("mix", 2), ("top_k", 3), ("colour", "blue"), ("encryption", "rot13")):
        assert name in refused(await infer(api, *images(files(1)), headers, parameters={name: value}))
    assert "views" in refused(await infer(api, *images(files(1)), headers, parameters={"views": 2}))
    assert "scope" in refused(await infer(api, *images(files(1)), parameters={"mix": 0.1}), 403, "missing-scope")


async def test_every_image_is_charged_once_and_a_repeated_request_too(api: Api) -> None:
    key = await api.issue(10)
    headers = {**bearer(key["api_key"]), "Idempotency-Key": "a"}
    for _ in range(2):
        answer = await infer(api, *pixels(arrays(4)), headers)
        assert head(answer)["parameters"]["budget_remaining"] == 6
    other = arrays(4).reshape(4, 18, 72, 3)  # the same bytes
    refused(await infer(api, *pixels(other), headers), 422, "idempotency-mismatch")
    spent = await infer(api, *images(files(7)), bearer(key["api_key"]))
    assert "6 left" in refused(spent, 429, "quota-exceeded")
    assert spent.headers["x-should-retry"] == "false"
    assert head(await infer(api, *images(files(6)), bearer(key["api_key"])))["parameters"]["budget_remaining"] == 0


async def test_what_is_refused_is_not_charged(api: Api, photo: bytes) -> None:
    key = await api.issue(5)
    headers = bearer(key["api_key"])
    refused(await infer(api, *images([photo, photo[:90]]), headers), 422, "undecodable-image")
    refused(await infer(api, *images([photo, b"GIF89a"]), headers), 415, "unsupported-image")
    refused(await infer(api, *images([photo, b""]), headers))
    refused(await infer(api, *images([photo]), headers, outputs=[{"name": "none"}]))
    assert head(await infer(api, *images([photo]), headers))["parameters"]["budget_remaining"] == 4


async def test_sealed_images_are_elements_like_any(api: Api) -> None:
    clinic: Json = await api.issue(scopes=["predict", "decrypt"], image_key={"scheme": "sealed"})
    own = clinic["image_key"]
    secret = base64.urlsafe_b64decode(own["secret"] + "=")
    headers, wish = bearer(clinic["api_key"]), {"encryption": "sealed", "image_key": own["kid"]}
    for binary in (True, False):
        sealed = [seal(image, secret, kid=own["kid"], model="tiny") for image in files(2)]
        tensor, raw = images(sealed) if binary else (in_json(sealed), None)
        answer = await infer(api, tensor, raw, headers, parameters=wish)
        assert_same(answer, await native(api, files(2)))
        assert head(answer)["parameters"]["tier"] == "public"
    assert "sealed" in refused(await infer(api, *pixels(arrays(1)), headers, parameters=wish))
    again = await infer(api, *images(files(1)), headers, parameters=wish)
    refused(again, 422, "undecryptable-image")


async def test_scrambled_pixels_may_come_as_pixels(api: Api) -> None:
    pixel = {"scheme": "pixel", "transform": "shf", "block": 4}
    key: Json = await api.issue(scopes=["predict", "decrypt"], image_key=pixel)
    own = key["image_key"]
    secret = base64.urlsafe_b64decode(own["secret"] + "=")
    transform = Transform.from_secret(secret, kid=own["kid"], model="tiny", steps=("shf",), block=4)
    scrambled = np.stack([transform.apply(array) for array in arrays(2)]).astype(np.uint8)
    wish = {"encryption": "pixel", "image_key": own["kid"]}
    answer = await infer(api, *pixels(scrambled), bearer(key["api_key"]), parameters=wish)
    assert_same(answer, await native(api, files(2)))


async def test_a_model_is_found_in_its_version_and_in_no_other(api: Api, photo: bytes) -> None:
    for path in ("/v2/models/tiny", "/v2/models/tiny/versions/1"):
        metadata = (await api.client.get(path)).json()
        assert (metadata["name"], metadata["versions"]) == ("tiny", ["1"])
        assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
        assert {output["name"]: output["datatype"] for output in metadata["outputs"]} == DATATYPES
        assert [output["shape"] for output in metadata["outputs"]] == [[-1], [-1], [-1, 10], [-1, 10]]
        assert (await api.client.get(f"{path}/ready")).json() == {"name": "tiny", "ready": True}
        config = (await api.client.get(f"{path}/config")).json()
        assert config["max_batch_size"] == 0
        assert [tensor["data_type"] for tensor in config["input"]] == ["TYPE_STRING"]
        assert_same(await infer(api, *images([photo]), path=f"{path}/infer"), await native(api, [photo]))
    for path in ("/v2/models/other", "/v2/models/tiny/versions/2", "/v2/models/tiny/versions/01"):
        for end in ("", "/ready", "/config"):
            refused(await api.client.get(path + end), 404, "unknown-model")
        refused(await infer(api, *images([photo]), path=f"{path}/infer"), 404, "unknown-model")
    index = (await api.client.post("/v2/repository/index")).json()
    assert index == [{"name": "tiny", "version": "1", "state": "READY", "reason": ""}]


async def test_the_server_says_what_it_is_and_that_it_works(api: Api) -> None:
    said = (await api.client.get("/v2")).json()
    assert set(said) == {"name", "version", "extensions"}
    assert {"binary_tensor_data", "classification"} <= set(said["extensions"])
    assert (await api.client.get("/v2/health/live")).json() == {"live": True}
    assert (await api.client.get("/v2/health/ready")).json() == {"live": True, "ready": True}


async def test_a_server_without_its_store_is_not_ready_and_says_so(settings: Settings, photo: bytes) -> None:
    app = create_app(settings.model_copy(update={"redis_url": type(settings.redis_url)("redis://127.0.0.1:1")}))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
            ready = await client.get("/v2/health/ready")
            assert ready.status_code == 503
            assert ready.json() == {"live": True, "ready": False, "error": "not ready: store"}
            assert (await client.get("/v2/health/live")).status_code == 200
            api = Api(client, app, "")
            assert_same(await infer(api, *images([photo])), await native(api, [photo]))


async def test_statistics_count_what_was_answered_for_whoever_holds_a_key(api: Api) -> None:
    refused(await api.client.get("/v2/models/stats"), 401, "invalid-credential")

    async def counted(path: str = "/v2/models/stats") -> Json:
        (found,) = (await api.client.get(path, headers=api.admin)).json()["model_stats"]
        assert (found["name"], found["version"]) == ("tiny", "1")
        return {**found, "ns": found["inference_stats"]["compute_infer"]["ns"]}

    before = await counted()
    for _ in range(3):
        await infer(api, *images(files(2)))
    for path in ("/v2/models/stats", "/v2/models/tiny/stats", "/v2/models/tiny/versions/1/stats"):
        after = await counted(path)
        assert after["inference_count"] - before["inference_count"] == 6
        assert 3 <= after["execution_count"] - before["execution_count"] <= 6
        assert after["ns"] > before["ns"]
        assert after["last_inference"] > before["last_inference"]


async def test_rights_are_those_of_the_native_plane(api: Api, photo: bytes) -> None:
    for headers in (bearer("sdb_cli_forged"), {"Authorization": "Basic eDp5"}):
        refused(await infer(api, *images([photo]), headers), 401, "invalid-credential")
        refused(await api.client.get("/v2/models/tiny", headers=headers), 401, "invalid-credential")
    refused(await infer(api, *images([photo]), api.admin), 403, "missing-scope")
    elsewhere = await api.issue(models=["other"])
    refused(await infer(api, *images([photo]), bearer(elsewhere["api_key"])), 403, "missing-scope")
    token = await api.token(await api.issue())
    assert head(await infer(api, *images([photo]), bearer(token)))["parameters"]["tier"] == "distill"


async def test_strangers_are_kept_out_where_the_operator_wants_that(settings: Settings, photo: bytes) -> None:
    async with application(settings.model_copy(update={"anonymous": False})) as api:
        refused(await infer(api, *images([photo])), 401, "invalid-credential")
        refused(await api.client.get("/v2/models/tiny"), 401, "invalid-credential")
        for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready"):
            assert (await api.client.get(path)).status_code == 200


# --- malformed requests


def without(tensor: Json, name: str) -> Json:
    return {field: value for field, value in tensor.items() if field != name}


async def test_a_tensor_is_of_a_datatype_and_shape_that_hold_images(api: Api, photo: bytes) -> None:
    tensor, raw = images([photo])
    array, numbers = pixels(arrays(2, 8))
    for bad, behind in (
        ({**tensor, "name": "input"}, raw),
        ({**tensor, "datatype": "FP32"}, raw),
        ({**tensor, "datatype": "bytes"}, raw),
        ({**tensor, "shape": []}, raw),
        ({**tensor, "shape": [0]}, raw),
        ({**tensor, "shape": [-1]}, raw),
        ({**tensor, "shape": [1.0]}, raw),
        ({**tensor, "shape": [True]}, raw),
        ({**tensor, "shape": "1"}, raw),
        ({**tensor, "shape": [1, 1]}, raw),
        ({**tensor, "shape": [2]}, raw),
        ({**tensor, "shape": [257]}, raw),
        ({**tensor, "shape": [2**62]}, raw),
        ({**tensor, "shape": [10**30]}, raw),
        ({**array, "shape": [2, 8, 8]}, numbers),
        ({**array, "shape": [2, 8, 8, 4]}, numbers),
        ({**array, "shape": [2, 3, 8, 8]}, numbers),
        ({**array, "shape": [2, 8, 9, 3]}, numbers),
        ({**array, "shape": [2, 0, 8, 3]}, numbers),
        ({**array, "shape": [2, 2**40, 2**40, 3]}, numbers),
        ({**array, "shape": [1] * 9}, numbers),
        ({**array, "datatype": "INT8"}, numbers),
        (without(tensor, "shape"), raw),
        (without(tensor, "datatype"), raw),
        (without(tensor, "name"), raw),
    ):
        refused(await infer(api, bad, behind))


async def test_lengths_add_up(api: Api, photo: bytes) -> None:
    tensor, raw = images([photo])
    for size in (len(raw) - 1, len(raw) + 1, 0, -1, 2**63, 1.5, "9", None):
        refused(await infer(api, {**tensor, "parameters": {"binary_data_size": size}}, raw))
    refused(await infer(api, tensor, raw + b"x"))
    refused(await infer(api, {**tensor, "data": []}, raw))
    refused(await infer(api, without(tensor, "parameters"), raw))
    refused(await infer(api, tensor, None))
    for elements in (raw[:3], raw[:-1], raw + b"\x00", b"\xff\xff\xff\xff" + raw[4:], packed([photo, photo])):
        cut = {**tensor, "parameters": {"binary_data_size": len(elements)}}
        assert "BYTES" in refused(await infer(api, cut, elements))


@pytest.mark.parametrize("length", ["-1", "1e3", "", " 5 ", "0x10", "99999999", "9" * 400, "1,1"])
async def test_the_header_is_a_length_within_the_body(api: Api, photo: bytes, length: str) -> None:
    tensor, raw = images([photo])
    answer = await infer(api, tensor, raw, {LENGTH: length})
    refused(answer)


async def test_data_in_json_is_of_its_shape_and_datatype(api: Api, photo: bytes) -> None:
    array = {"name": "image", "shape": [1, 8, 8, 3], "datatype": "UINT8"}
    good = arrays(1, 8).tolist()
    text = in_json([photo])
    for bad in (
        {**array, "data": good[0]},
        {**array, "data": [good]},
        {**array, "data": [[row[:-1] for row in good[0]]]},
        {**array, "data": [0] * 191},
        {**array, "data": [0] * 193},
        {**array, "data": [*[0] * 191, 256]},
        {**array, "data": [*[0] * 191, -1]},
        {**array, "data": [*[0] * 191, 2**70]},
        {**array, "data": [*[0] * 191, 0.5]},
        {**array, "data": [*[0] * 191, True]},
        {**array, "data": [*[0] * 191, None]},
        {**array, "data": [*[0] * 191, []]},
        {**array, "data": ["0"] * 192},
        {**array, "data": "0" * 192},
        {**array, "data": {"0": 1}},
        {**array, "data": None},
        {**array, "data": []},
        {**text, "data": ["***"]},
        {**text, "data": ["é"]},
        {**text, "data": [1]},
        {**text, "data": [[text["data"][0]]]},
        {**text, "data": text["data"] * 2},
        {**text, "shape": [2]},
    ):
        refused(await infer(api, bad))


async def test_a_request_has_one_input_and_known_outputs(api: Api, photo: bytes) -> None:
    tensor = in_json([photo])
    bodies: tuple[object, ...] = (
        {"inputs": []},
        {"inputs": [tensor, tensor]},
        {"inputs": {}},
        {"inputs": [tensor], "outputs": [{"name": "embedding"}]},
        {"inputs": [tensor], "outputs": [{"name": "label"}, {"name": "label"}]},
        {"inputs": [tensor], "outputs": [{"name": "label", "parameters": {"classification": 1}}]},
        {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"classification": -1}}]},
        {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"classification": 1.5}}]},
        {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": "yes"}}]},
        {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"shared_memory_region": "a"}}]},
        {"inputs": [tensor], "parameters": {"binary_data_output": 1}},
        {"inputs": [tensor], "parameters": {"output_datatype": "FP64"}},
        {"inputs": [tensor], "parameters": []},
        {"inputs": [tensor], "id": 5},
        [],
        None,
    )
    for bad in bodies:
        refused(await api.client.post(INFER, json=bad))
    for content in (b"", b"{", b"\x00" * 100, b"[" * 5000):
        refused(await api.client.post(INFER, content=content))


async def test_limits_hold_for_tensors_too(settings: Settings) -> None:
    """Of images in one request, of pixels in one image, and of pixels in all of them."""
    async with application(settings.model_copy(update={"max_images_per_request": 8, "max_image_pixels": 64})) as api:
        assert (await infer(api, *pixels(arrays(4, 8)))).status_code == 200
        assert "pixels" in refused(await infer(api, *pixels(arrays(1, 9))))
        assert "pixels" in refused(await infer(api, *pixels(arrays(5, 8))))
        assert "1 to 8" in refused(await infer(api, *pixels(arrays(9, 4))))
        assert (await infer(api, *pixels(arrays(8, 4)))).status_code == 200


async def test_a_whole_batch_of_pixels_is_one_request(api: Api) -> None:
    batch = np.zeros((256, 8, 8, 3), np.uint8)
    batch[:, :4, :4] = np.arange(256, dtype=np.uint8)[:, None, None, None]
    tensor, raw = pixels(batch)
    wish = {"binary_data_output": True}
    plain = await infer(api, tensor, raw, parameters=wish)
    assert outputs(plain)["logits"].shape == (256, 10)
    classes = np.array(CLASSES)[outputs(plain)["index"]]
    assert outputs(plain)["label"].tolist() == classes.tolist()


async def test_a_compressed_request_keeps_the_length_of_its_plain_json(api: Api) -> None:
    tensor, raw = pixels(arrays(2))
    content, length = body(tensor, raw)
    headers = {LENGTH: str(length), "Content-Encoding": "gzip"}
    answer = await api.client.post(INFER, content=gzip.compress(content), headers=headers)
    assert_same(answer, await native(api, files(2)))
