"""`client.infer`: many images in, arrays out, over the Open Inference Protocol with its binary tensors.

Knows the protocol (kserve/open-inference-protocol, inference_rest.md, and Triton's binary tensor data extension).
"""

import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal, TypeAlias

import httpx
import numpy as np
from numpy.typing import NDArray

from sdb_client.answers.inference import Inference
from sdb_client.answers.keys import NewImageKey
from sdb_client.errors import InvalidImage, UnexpectedAnswer
from sdb_client.images import Images
from sdb_client.resources.sending import Encrypted, sent
from sdb_client.transport.calls import Asker, Kind, call
from sdb_client.transport.request import Request, as_json, given, named, path, read

JSON_LENGTH = "Inference-Header-Content-Length"
HEADERS = {"Content-Type": "application/octet-stream", "Accept-Encoding": "identity"}  # floats hardly pack
LENGTH = struct.Struct("<I")
NUMBERS = {"FP32": "<f4", "FP16": "<f2", "INT64": "<i8", "INT32": "<i4", "UINT8": "u1", "BOOL": "?"}

Output: TypeAlias = Literal["label", "index", "logits", "probabilities"]
Floats: TypeAlias = Literal["float32", "float16"]
BOTH: Sequence[Output] = ("logits", "probabilities")
DATATYPES: dict[str, str] = {"float32": "FP32", "float16": "FP16"}


@dataclass(frozen=True)
class OutputTensor:
    """A tensor of the answer, whose elements are among the bytes behind the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Answer:
    """The JSON of an answer."""

    model_name: str
    model_version: str
    parameters: dict[str, Any]
    outputs: tuple[OutputTensor, ...]


class Inferring(Asker[Kind]):
    """A client that infers."""

    @call
    def infer(
        self,
        model: str,
        images: Images,
        *,
        outputs: Sequence[Output] = BOTH,
        dtype: Floats = "float32",
        version: str | None = None,
        temperature: float | None = None,
        views: int | None = None,
        mix: float | None = None,
        encryption: Encrypted | None = None,
        image_key: NewImageKey | str | None = None,
        idempotency_key: str | None = None,
    ) -> Request[Inference]:
        """Classify many images at once, in arrays: pixels uint8 [N, H, W, 3] need no decoding on either side.

        `outputs` are some of "label", "index", "logits", "probabilities"; `dtype` is that of the last two. `version`
        refuses any other version of the model. The rest is as in `predict`; `views` above 1 are refused by servers
        whose protocol has no place for them.

        Raises:
            APIError: refused; `QuotaExceeded` when the budget is spent.
            InvalidImage: one of them is no image.
        """
        parameters = given(temperature=temperature, views=views, mix=mix, output_datatype=DATATYPES[dtype])
        if isinstance(images, np.ndarray) and images.ndim == 4 and not isinstance(image_key, NewImageKey):
            tensor, behind = _pixels(images)
            parameters |= given(encryption=encryption, image_key=image_key)
        else:
            ready = sent(images, model, encryption, image_key)
            tensor, behind = _files(ready.images)
            parameters |= given(encryption=ready.encryption, image_key=ready.image_key)
        document = as_json(
            {
                "parameters": parameters,
                "inputs": [{"name": "image", **tensor, "parameters": {"binary_data_size": len(behind)}}],
                "outputs": [{"name": output, "parameters": {"binary_data": True}} for output in outputs],
            }
        )
        where = path("v2", "models", model, *(() if version is None else ("versions", version)), "infer")
        headers = {**HEADERS, **named(idempotency_key), JSON_LENGTH: str(len(document))}
        answer = partial(_read, asked=outputs, count=tensor["shape"][0])
        return Request("POST", where, answer, headers=headers, content=b"".join([document, behind]))


def _pixels(images: NDArray[Any]) -> tuple[dict[str, Any], bytes | memoryview]:
    if images.dtype != np.uint8 or images.shape[3] != 3 or not images.size:
        raise InvalidImage(f"pixels are uint8 [N, H, W, 3], not {images.dtype} {list(images.shape)}")
    contiguous = np.ascontiguousarray(images)
    return {"datatype": "UINT8", "shape": list(images.shape)}, contiguous.reshape(-1).data


def _files(images: Sequence[bytes]) -> tuple[dict[str, Any], bytes | memoryview]:
    elements = b"".join(part for image in images for part in (LENGTH.pack(len(image)), image))
    return {"datatype": "BYTES", "shape": [len(images)]}, elements


def _read(response: httpx.Response, asked: Sequence[Output], count: int) -> Inference:
    body, length = memoryview(response.content), response.headers.get(JSON_LENGTH, "")
    if not re.fullmatch("[0-9]{1,18}", length):
        raise UnexpectedAnswer(f"the server's answer lacks the header {JSON_LENGTH}")
    answer = read(body[: int(length)], Answer)
    arrays = _arrays(answer.outputs, body[int(length) :])
    for output in asked:
        if output not in arrays or arrays[output].shape[:1] != (count,):
            raise UnexpectedAnswer(f"the server's answer has no {output} of {count} images")
    return Inference(
        model=answer.model_name,
        version=answer.model_version,
        tier=str(answer.parameters.get("tier", "")),
        budget_remaining=answer.parameters.get("budget_remaining"),
        request_id=response.headers.get("X-Request-ID"),
        outputs=arrays,
    )


def _arrays(tensors: Sequence[OutputTensor], behind: memoryview) -> Mapping[str, NDArray[Any]]:
    """Each tensor as a view of its bytes."""
    found: dict[str, NDArray[Any]] = {}
    for tensor in tensors:
        size = tensor.parameters.get("binary_data_size")
        if not isinstance(size, int) or not 0 <= size <= len(behind):
            raise UnexpectedAnswer(f"the server's output {tensor.name!r} has no bytes")
        found[tensor.name] = _array(tensor, behind[:size])
        behind = behind[size:]
    return found


def _array(tensor: OutputTensor, raw: memoryview) -> NDArray[Any]:
    try:
        if tensor.datatype == "BYTES":
            return _texts(raw, prod(tensor.shape)).reshape(tensor.shape)
        return np.frombuffer(raw, NUMBERS[tensor.datatype]).reshape(tensor.shape)
    except (KeyError, ValueError, struct.error) as error:
        raise UnexpectedAnswer(f"the server's output {tensor.name!r} cannot be read: {error}") from error


def _texts(raw: memoryview, count: int) -> NDArray[np.str_]:
    texts = []
    for _ in range(count):
        (length,) = LENGTH.unpack_from(raw)
        texts.append(str(raw[LENGTH.size : LENGTH.size + length], "utf-8"))
        raw = raw[LENGTH.size + length :]
    found = np.array(texts, dtype=np.str_)
    found.setflags(write=False)
    return found
