"""Clients that exist, unmodified, against a real server process: Triton's, KServe's and Hugging Face's."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError
from tritonclient import http as triton
from tritonclient.http import aio
from tritonclient.utils import InferenceServerException

from tests.conftest import CLASSES, Server, encode, smooth_images

Json = dict[str, Any]


@pytest.fixture
def key(server: Server) -> Json:
    """A key that may see soft labels of ten images."""
    grant = {"name": "partner", "scopes": ["distill"], "budget": {"limit": 10}}
    issued: Json = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin).json()
    return issued


def pixels(count: int, side: int = 32) -> np.ndarray:
    return smooth_images(count, side, seed=5).permute(0, 2, 3, 1).contiguous().numpy()


def files(count: int) -> np.ndarray:
    """Encoded images as an array of bytes objects."""
    return np.array([encode(array) for array in pixels(count)], object)


def native(server: Server, count: int, credential: str | None = None) -> list[Json]:
    """What the server's own interface says of the same images."""
    headers = {"Authorization": f"Bearer {credential}"} if credential else {}
    parts = [("image", ("picture", image)) for image in files(count)]
    found: list[Json] = httpx.post(f"{server.url}/v1/models/tiny/predict", files=parts, headers=headers).json()[
        "predictions"
    ]
    return found


# --- tritonclient


class ApiKey(triton.InferenceServerClientPlugin):  # type: ignore[misc]
    """What the guide calls the plugin that presents a key."""

    def __init__(self, api_key: str) -> None:
        self._header = f"Bearer {api_key}"

    def __call__(self, request: Any) -> None:  # noqa: ANN401
        request.headers["authorization"] = self._header


@pytest.fixture
def client(server: Server) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as found:
        yield found


def image_input(values: np.ndarray, *, binary: bool = True) -> Any:  # noqa: ANN401
    given = triton.InferInput("image", values.shape, "UINT8" if values.dtype == np.uint8 else "BYTES")
    return given.set_data_from_numpy(values, binary_data=binary)


def assert_same(result: Any, predictions: list[Json], tolerance: float = 1e-3) -> None:  # noqa: ANN401
    """The tensors of a client are what the native call says."""
    labels = [label.decode() if isinstance(label, bytes) else label for label in result.as_numpy("label")]
    assert labels == [prediction["label"] for prediction in predictions]
    assert result.as_numpy("index").tolist() == [prediction["index"] for prediction in predictions]
    for name in ("logits", "probabilities"):
        expected = np.array([prediction[name] for prediction in predictions])
        np.testing.assert_allclose(result.as_numpy(name), expected, rtol=tolerance, atol=tolerance)


def test_triton_asks_what_there_is(server: Server, client: triton.InferenceServerClient) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tiny")
    assert client.is_model_ready("tiny", "1")
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("tiny", "2")
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    assert client.get_model_metadata("tiny")["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert client.get_model_metadata("tiny", "1") == client.get_model_metadata("tiny")
    assert [tensor["name"] for tensor in client.get_model_config("tiny")["output"]][:2] == ["label", "index"]
    assert client.get_model_repository_index()[0]["state"] == "READY"
    assert client.get_inference_statistics("tiny", headers=server.admin)["model_stats"][0]["name"] == "tiny"


@pytest.mark.parametrize("binary", [True, False])
def test_triton_sends_files_and_pixels(server: Server, client: triton.InferenceServerClient, binary: bool) -> None:
    outputs = [triton.InferRequestedOutput(name, binary_data=binary) for name in ("label", "index", "logits")]
    outputs.append(triton.InferRequestedOutput("probabilities"))
    expected = native(server, 3)
    assert_same(client.infer("tiny", [image_input(files(3))], outputs=outputs), expected)
    assert_same(client.infer("tiny", [image_input(pixels(3), binary=binary)], outputs=outputs), expected)
    assert_same(client.infer("tiny", [image_input(pixels(3))], model_version="1"), expected)


@pytest.mark.parametrize("request_coding", ["gzip", "deflate", None])
@pytest.mark.parametrize("answer_coding", ["gzip", "deflate", None])
def test_triton_compresses(
    server: Server, client: triton.InferenceServerClient, request_coding: str | None, answer_coding: str | None
) -> None:
    compression = {
        "request_compression_algorithm": request_coding,
        "response_compression_algorithm": answer_coding,
    }
    assert_same(client.infer("tiny", [image_input(files(2))], **compression), native(server, 2))


def test_triton_reads_a_large_answer_that_is_compressed(client: triton.InferenceServerClient) -> None:
    batch = np.repeat(pixels(1, 8), 256, axis=0)
    outputs = [triton.InferRequestedOutput(name, binary_data=False) for name in ("label", "logits", "probabilities")]
    plain = client.infer("tiny", [image_input(batch)], outputs=outputs)
    packed = client.infer("tiny", [image_input(batch)], outputs=outputs, response_compression_algorithm="gzip")
    assert packed.as_numpy("logits").shape == (256, 10)
    np.testing.assert_allclose(packed.as_numpy("logits"), plain.as_numpy("logits"), rtol=1e-3, atol=1e-3)


def test_triton_presents_a_key_by_its_plugin_or_by_a_header(server: Server, key: Json) -> None:
    with triton.InferenceServerClient(server.url.removeprefix("http://")) as client:
        client.register_plugin(ApiKey(key["api_key"]))
        result = client.infer("tiny", [image_input(files(2))], request_id="mine")
        said = result.get_response()
        assert (said["id"], said["parameters"]) == ("mine", {"tier": "distill", "budget_remaining": 8})
        assert_same(result, native(server, 2, key["api_key"]))
        client.unregister_plugin()
        assert client.infer("tiny", [image_input(files(2))]).get_response()["parameters"] == {"tier": "public"}
        headers = {"Authorization": f"Bearer {key['api_key']}"}
        result = client.infer("tiny", [image_input(files(1))], headers=headers, parameters={"temperature": 1.0})
        assert result.get_response()["parameters"]["budget_remaining"] == 5


def test_triton_asks_for_half_precision_and_for_the_greatest_classes(
    server: Server, client: triton.InferenceServerClient
) -> None:
    result = client.infer("tiny", [image_input(pixels(2))], parameters={"output_datatype": "FP16"})
    assert result.as_numpy("logits").dtype == np.float16
    assert_same(result, native(server, 2), tolerance=1e-2)
    asked = [triton.InferRequestedOutput("probabilities", class_count=3)]
    found = client.infer("tiny", [image_input(pixels(2))], outputs=asked).as_numpy("probabilities")
    for texts, prediction in zip(found, native(server, 2), strict=True):
        assert [text.decode().split(":")[2] for text in texts] == [entry["label"] for entry in prediction["top"][:3]]


def test_triton_shows_why_it_is_refused(client: triton.InferenceServerClient, key: Json) -> None:
    def refusal(**request: Any) -> tuple[str, str]:  # noqa: ANN401
        with pytest.raises(InferenceServerException) as refused:
            client.infer(**{"model_name": "tiny", "inputs": [image_input(files(1))], **request})
        return refused.value.status(), refused.value.message()

    assert refusal(model_name="other") == ("404", "unknown-model: no model of this name is served here")
    assert refusal(model_version="7")[0] == "404"
    assert refusal(headers={"Authorization": "Bearer sdb_cli_forged"})[0] == "401"
    assert "colour" in refusal(parameters={"colour": "blue"})[1]
    spent = refusal(inputs=[image_input(pixels(11))], headers={"Authorization": f"Bearer {key['api_key']}"})
    assert spent == ("429", "quota-exceeded: 11 answers asked for, 10 left")
    too_large = np.zeros((1, 2400, 2400, 3), np.uint8)
    assert refusal(inputs=[image_input(too_large)])[0] == "413"
    assert refusal(inputs=[image_input(too_large)], request_compression_algorithm="gzip")[0] == "413"


def test_triton_asks_many_things_at_once(server: Server) -> None:
    expected = native(server, 1)
    with triton.InferenceServerClient(server.url.removeprefix("http://"), concurrency=8) as client:
        waiting = [client.async_infer("tiny", [image_input(files(1))]) for _ in range(24)]
        for answer in waiting:
            assert_same(answer.get_result(), expected)


async def test_tritons_asyncio_client_predicts(server: Server) -> None:
    expected = await asyncio.to_thread(native, server, 2)
    async with aio.InferenceServerClient(server.url.removeprefix("http://")) as client:
        assert await client.is_server_ready()
        assert_same(await client.infer("tiny", [image_input(files(2))]), expected)
        packed = {"request_compression_algorithm": "deflate", "response_compression_algorithm": "gzip"}
        assert_same(await client.infer("tiny", [image_input(pixels(2))], **packed), expected)


# --- KServe


@pytest.fixture
def kserve() -> Any:  # noqa: ANN401
    return pytest.importorskip("kserve", reason="KServe's client is not installed")


async def test_kserve_asks_what_there_is(server: Server, kserve: Any) -> None:  # noqa: ANN401
    async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
        assert await client.is_server_live(server.url) is True
        assert await client.is_server_ready(server.url) is True
        assert await client.is_model_ready(server.url, "tiny") is True
        assert await client.is_model_ready(server.url, "other") is False


@pytest.mark.parametrize("binary", [True, False])
async def test_kserve_sends_files_and_pixels(server: Server, key: Json, kserve: Any, binary: bool) -> None:  # noqa: ANN401
    expected = await asyncio.to_thread(native, server, 2, key["api_key"])
    headers = {"Authorization": f"Bearer {key['api_key']}"}
    for values, datatype in ((files(2), "BYTES"), (pixels(2), "UINT8")):
        given = kserve.InferInput("image", list(values.shape), datatype)
        given.set_data_from_numpy(values, binary_data=binary or datatype == "BYTES")
        request = kserve.InferRequest("tiny", [given], parameters={"binary_data_output": binary})
        async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
            answer = await client.infer(server.url, request, "tiny", headers=dict(headers))
        assert (answer.model_name, answer.parameters["tier"]) == ("tiny", "distill")
        found = {output.name: output for output in answer.outputs}
        assert found["label"].as_numpy().tolist() == [prediction["label"] for prediction in expected]
        logits = np.array([prediction["logits"] for prediction in expected])
        np.testing.assert_allclose(found["logits"].as_numpy(), logits, rtol=1e-3, atol=1e-3)


async def test_kserve_shows_why_it_is_refused(server: Server, kserve: Any) -> None:  # noqa: ANN401
    given = kserve.InferInput("image", [1], "BYTES")
    given.set_data_from_numpy(np.array([b"GIF89a"], object))
    request = kserve.InferRequest("tiny", [given])
    async with kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2")) as client:
        with pytest.raises(httpx.HTTPStatusError, match="unsupported-image: send one of JPEG, PNG, WEBP"):
            await client.infer(server.url, request, "tiny")


# --- Hugging Face


@pytest.fixture(autouse=True)
def _nobody_is_logged_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token of its own, the client would present the one that this machine's user has for the Hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_IMPLICIT_TOKEN", True)


def test_hugging_faces_client_classifies(server: Server, key: Json, tmp_path: Path) -> None:
    model = f"{server.url}/hf/models/tiny"
    (image,) = files(1)
    (tmp_path / "picture.png").write_bytes(image)
    for credential in (None, key["api_key"]):
        (expected,) = native(server, 1, credential)
        client = InferenceClient(model=model, token=credential)
        for given in (image, tmp_path / "picture.png"):
            found = client.image_classification(given)
            assert [(entry.label, pytest.approx(entry.score, abs=1e-4)) for entry in found] == [
                (entry["label"], entry["score"]) for entry in expected["top"]
            ]
        found = client.image_classification(image, top_k=2)
        assert [entry.label for entry in found] == [entry["label"] for entry in expected["top"][:2]]
        raw = client.image_classification(image, top_k=10, function_to_apply="none")
        by_class = {entry.label: entry.score for entry in raw}
        assert [by_class[name] for name in CLASSES] == pytest.approx(expected["logits"], rel=1e-3, abs=1e-3)


def test_hugging_faces_client_shows_why_it_is_refused(server: Server) -> None:
    client = InferenceClient(model=f"{server.url}/hf/models/tiny", token="sdb_cli_forged")
    with pytest.raises(HfHubHTTPError, match="401"):
        client.image_classification(files(1)[0])
    client = InferenceClient(model=f"{server.url}/hf/models/tiny", token=None)
    with pytest.raises(HfHubHTTPError, match="unsupported-image"):
        client.image_classification(b"GIF89a")
