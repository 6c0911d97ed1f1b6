"""The Open Inference Protocol as tests speak it, by hand: requests that no client would send are the point."""

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import numpy as np

from tests.conftest import Api

INFER = "/v2/models/tiny/infer"
LENGTH = "Inference-Header-Content-Length"
Json = dict[str, Any]


def packed(elements: Sequence[bytes]) -> bytes:
    """The elements of a BYTES tensor as its bytes."""
    return b"".join(struct.pack("<I", len(element)) + element for element in elements)


def images(encoded: Sequence[bytes]) -> tuple[Json, bytes]:
    """A BYTES input and its bytes."""
    raw = packed(encoded)
    tensor = {"name": "image", "shape": [len(encoded)], "datatype": "BYTES"}
    return {**tensor, "parameters": {"binary_data_size": len(raw)}}, raw


def pixels(array: np.ndarray) -> tuple[Json, bytes]:
    """A UINT8 input and its bytes."""
    tensor = {"name": "image", "shape": list(array.shape), "datatype": "UINT8"}
    return {**tensor, "parameters": {"binary_data_size": array.nbytes}}, array.tobytes()


def body(tensor: Json, raw: bytes = b"", **fields: object) -> tuple[bytes, int]:
    """A request's body, and the length of its JSON."""
    head = json.dumps({"inputs": [tensor], **fields}).encode()
    return head + raw, len(head)


async def infer(
    api: Api,
    tensor: Json,
    raw: bytes | None = None,
    headers: Mapping[str, str] = {},
    path: str = INFER,
    **fields: object,
) -> httpx.Response:
    """Send one input; `raw`: its bytes, None if the JSON has its data."""
    content, length = body(tensor, raw or b"", **fields)
    extension = {} if raw is None else {LENGTH: str(length)}
    return await api.client.post(path, content=content, headers={**extension, **headers})


def outputs(answer: httpx.Response) -> dict[str, np.ndarray]:
    """The tensors of a good answer by name; those of BYTES as text."""
    assert answer.status_code == 200, answer.text
    end = int(answer.headers.get(LENGTH, len(answer.content)))
    head, raw = json.loads(answer.content[:end]), answer.content[end:]
    found = {}
    for output in head["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        part, raw = (None, raw) if size is None else (raw[:size], raw[size:])
        found[output["name"]] = _array(output, part).reshape(output["shape"])
    assert not raw
    return found


def head(answer: httpx.Response) -> Json:
    """The JSON of a good answer."""
    assert answer.status_code == 200, answer.text
    found: Json = json.loads(answer.content[: int(answer.headers.get(LENGTH, len(answer.content)))])
    return found


def _array(output: Json, raw: bytes | None) -> np.ndarray:
    if raw is None:
        return np.array(output["data"])
    if output["datatype"] != "BYTES":
        return np.frombuffer(raw, {"INT64": "<i8", "FP32": "<f4", "FP16": "<f2"}[output["datatype"]])
    texts = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        texts.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return np.array(texts)
