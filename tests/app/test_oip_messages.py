"""What clients write is read, what is written clients read, and nothing else gets further than a refusal."""

import json
import math
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tritonclient import http as triton

from app.errors import InvalidRequest
from app.oip import tensors
from app.oip.messages import InferRequest, read, written
from app.oip.outputs import wanted
from app.oip.tensors import Tensor

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PIXELS = arrays.arrays(np.uint8, st.tuples(*[st.integers(1, 4)] * 3, st.just(3)))


def sent(name: str, values: np.ndarray, datatype: str, *, binary: bool, **wishes: Any) -> tuple[bytes, str | None]:  # noqa: ANN401
    """What Triton's client sends of one input: the body, and the header that says where its JSON ends."""
    given = triton.InferInput(name, values.shape, datatype)
    given.set_data_from_numpy(values, binary_data=binary)
    body, length = triton.InferenceServerClient.generate_request_body([given], **wishes)
    return body, None if length is None else str(length)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=5))
def test_elements_that_triton_writes_are_read(elements: list[bytes]) -> None:
    body, length = sent("image", np.array(elements, object), "BYTES", binary=True)
    request, (raw,) = read(body, length)
    assert (request.inputs[0].name, request.inputs[0].shape) == ("image", [len(elements)])
    assert raw is not None
    assert tensors.elements(raw, len(elements)) == elements


@given(PIXELS, st.booleans())
def test_pixels_that_triton_writes_are_read(pixels: np.ndarray, binary: bool) -> None:
    request, (raw,) = read(*sent("image", pixels, "UINT8", binary=binary))
    shape, data = request.inputs[0].shape, request.inputs[0].data
    found = tensors.uint8_of_json(data, shape) if raw is None else tensors.uint8(raw, shape)
    np.testing.assert_array_equal(found, pixels)
    nested = tensors.uint8_of_json(pixels.tolist(), shape)
    np.testing.assert_array_equal(nested, pixels)


def test_what_triton_wishes_is_read() -> None:
    outputs = [triton.InferRequestedOutput("label", binary_data=False), triton.InferRequestedOutput("logits")]
    values = np.array([b"x"], object)
    wishes = {"request_id": "7", "timeout": 5, "priority": 1, "parameters": {"temperature": 2.0}}
    request, _ = read(*sent("image", values, "BYTES", binary=True, outputs=outputs, **wishes))
    assert request.id == "7"
    assert request.parameters.model_extra == {"temperature": 2.0}
    assert [(output.name, output.binary) for output in wanted(request)] == [("label", False), ("logits", True)]
    request, _ = read(*sent("image", values, "BYTES", binary=True))
    assert all(output.binary for output in wanted(request))


def numbers(dtype: type, datatype: str) -> st.SearchStrategy[Tensor]:
    """Tensors of this datatype."""
    finite = arrays.from_dtype(np.dtype(dtype), allow_nan=False, allow_infinity=False)
    return arrays.arrays(dtype, (2, 3), elements=finite).map(lambda array: Tensor("a", datatype, array.shape, array))


OUTPUTS = st.one_of(
    st.lists(TEXTS, min_size=1, max_size=4).map(lambda texts: Tensor("a", "BYTES", [len(texts)], texts)),
    numbers(np.int64, "INT64"),
    numbers(np.float32, "FP32"),
    numbers(np.float16, "FP16"),
)


@given(st.lists(st.tuples(OUTPUTS, st.booleans()), max_size=4))
def test_what_is_written_triton_reads(outputs: list[tuple[Tensor, bool]]) -> None:
    named = [
        (Tensor(f"output-{number}", tensor.datatype, tensor.shape, tensor.values), binary or tensor.datatype == "FP16")
        for number, (tensor, binary) in enumerate(outputs)
    ]
    parts, length = written({"model_name": "tiny"}, named)
    body = b"".join(parts)
    result = triton.InferResult.from_response_body(body, header_length=length)
    assert (length is None) == (not any(binary for _, binary in named))
    for tensor, binary in named:
        found = result.as_numpy(tensor.name)
        if tensor.datatype == "BYTES":
            texts = [element.decode() if binary else element for element in found.tolist()]
            assert texts == list(tensor.values)
        else:
            np.testing.assert_array_equal(found, tensor.values)


# --- whatever is sent


def attempt(body: bytes, length: str | None) -> None:
    """Read a request as far as a model would see it; it may be refused, and nothing else."""
    try:
        request, raws = read(body, length)
        wanted(request)
        for tensor, raw in zip(request.inputs, raws, strict=True):
            count = tensor.shape[0] if tensor.shape else 0
            if count > 256:
                continue
            if tensor.datatype == "BYTES":
                found = tensors.elements_of_json(tensor.data, count) if raw is None else tensors.elements(raw, count)
                assert len(found) == count
            else:
                shape = tensor.shape
                array = tensors.uint8_of_json(tensor.data, shape) if raw is None else tensors.uint8(raw, shape)
                assert array.size == math.prod(shape) <= len(body)
    except InvalidRequest:
        return


LENGTHS = st.one_of(st.none(), st.integers(-5, 300).map(str), st.text(max_size=6))


@given(st.binary(max_size=300), LENGTHS)
def test_any_bytes_are_read_or_refused(body: bytes, length: str | None) -> None:
    attempt(body, length)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
SIZES = st.one_of(st.integers(0, 12), st.integers(), JSON)
INPUT = st.fixed_dictionaries(
    {
        "name": st.one_of(st.just("image"), JSON),
        "shape": st.one_of(st.lists(SIZES, max_size=5), JSON),
        "datatype": st.one_of(st.sampled_from(["BYTES", "UINT8", "FP32"]), JSON),
    },
    optional={
        "data": st.one_of(st.lists(st.integers(0, 255) | TEXTS, max_size=12), JSON),
        "parameters": st.one_of(st.fixed_dictionaries({"binary_data_size": SIZES}), JSON),
    },
)
OUTPUT = st.fixed_dictionaries(
    {"name": st.one_of(st.sampled_from(["label", "logits"]), JSON)},
    optional={"parameters": st.dictionaries(st.sampled_from(["binary_data", "classification", "other"]), JSON)},
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.one_of(st.lists(INPUT, max_size=2), JSON)},
    optional={"id": JSON, "outputs": st.one_of(st.lists(OUTPUT, max_size=3), JSON), "parameters": JSON},
)


@given(REQUEST, st.binary(max_size=60), st.integers(-2, 2))
@settings(max_examples=300)
def test_anything_that_looks_like_a_request_is_read_or_refused(request: Any, raw: bytes, off: int) -> None:  # noqa: ANN401
    head = json.dumps(request).encode()
    attempt(head + raw, str(len(head) + off))
    attempt(head, None)


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=3), st.data())
def test_a_request_with_a_byte_changed_is_read_or_refused(elements: list[bytes], data: st.DataObject) -> None:
    body, length = sent("image", np.array(elements, object), "BYTES", binary=True)
    place = data.draw(st.integers(0, len(body) - 1))
    attempt(body[:place] + data.draw(st.binary(max_size=3)) + body[place + 1 :], length)


@pytest.mark.parametrize("length", ["²", "٣", "1_0", "+1", " 1", "1 ", "0" * 30])
def test_only_plain_digits_are_a_length(length: str) -> None:
    with pytest.raises(InvalidRequest):
        read(b'{"inputs": []}', length)


def test_lengths_that_promise_much_take_no_memory() -> None:
    """A tensor is compared with what came before anything of its size is made."""
    raw = memoryview(struct.pack("<I", 2**32 - 1) + b"x")
    tracemalloc.start()
    for shape in ([256, 2**31, 2**31, 3], [2**63, 1, 1, 3]):
        with pytest.raises(InvalidRequest):
            tensors.uint8(raw, shape)
        with pytest.raises(InvalidRequest):
            tensors.uint8_of_json([1, 2, 3], shape)
    with pytest.raises(InvalidRequest):
        tensors.elements(raw, 2**31)
    with pytest.raises(InvalidRequest):
        tensors.elements_of_json(["eA=="], 2**31)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


@pytest.mark.parametrize("many", [b"[]", b"[[[0]]]", b'{"":0}', b"0"])
def test_json_of_too_many_values_is_refused_before_it_is_read(many: bytes) -> None:
    """Read as a whole, this takes seconds and half a gigabyte."""
    data = b",".join([many] * (2**24 // (len(many) + 1)))
    body = b'{"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [' + data + b"]}]}"
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match="binary data"):
        read(body, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_as_many_pixels_as_a_request_may_hold_fit_into_json() -> None:
    pixels = np.zeros((256, 32, 32, 3), np.uint8)
    tensor = {"name": "image", "shape": pixels.shape, "datatype": "UINT8", "data": pixels.tolist()}
    request, _ = read(json.dumps({"inputs": [tensor]}).encode(), None)
    np.testing.assert_array_equal(tensors.uint8_of_json(request.inputs[0].data, pixels.shape), pixels)


def test_pixels_are_a_view_of_the_body() -> None:
    body = bytearray(range(48))
    pixels = tensors.uint8(memoryview(body), [1, 4, 4, 3])
    body[0] = 200
    assert pixels[0, 0, 0, 0] == 200


def test_the_schema_and_the_reader_are_one() -> None:
    assert set(InferRequest.model_json_schema()["properties"]) == {"id", "inputs", "outputs", "parameters"}
