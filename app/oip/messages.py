"""The body of an inference request and of its answer: JSON, and behind it the bytes of the binary tensor extension.

Knows the Open Inference Protocol (kserve/open-inference-protocol, inference_rest.md) and the extensions that Triton
documents; knows no image, no model and no HTTP beyond the name of a header.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from app.errors import InvalidRequest, validated
from app.json_body import parsed
from app.oip.tensors import Tensor

JSON_LENGTH = "Inference-Header-Content-Length"
MAX_DIMENSIONS = 8
Size = Annotated[StrictInt, Field(ge=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class InputParameters(_Strict):
    """`binary_data_size`: how many of the bytes behind the JSON are this tensor's."""

    binary_data_size: Size | None = None


class RequestInput(_Strict):
    """A tensor of the request; `data` is its elements, unless they are among the bytes behind the JSON."""

    name: StrictStr
    shape: Annotated[list[Size], Field(max_length=MAX_DIMENSIONS)]
    datatype: StrictStr
    parameters: InputParameters = InputParameters()
    data: list[Any] | None = None


class OutputParameters(_Strict):
    """Whether an output comes as bytes, and whether as its greatest `classification` classes."""

    binary_data: StrictBool | None = None
    classification: Size = 0


class RequestedOutput(_Strict):
    """An output that is asked for."""

    name: StrictStr
    parameters: OutputParameters = OutputParameters()


class RequestParameters(BaseModel):
    """What is asked of the answer's form; the other parameters of a request (`model_extra`) are the model's."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    binary_data_output: Annotated[StrictBool, Field(description="outputs come as bytes unless they say otherwise")] = (
        False
    )
    output_datatype: Annotated[Literal["FP32", "FP16"], Field(description="of `logits` and `probabilities`")] = "FP32"
    priority: Annotated[StrictInt, Field(description="a hint that changes nothing")] = 0
    timeout: Annotated[StrictInt, Field(description="a hint that changes nothing")] = 0


class InferRequest(BaseModel):
    """The JSON of a request; what the protocol does not know, such as `model_name`, is not looked at."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: StrictStr | None = None
    parameters: RequestParameters = RequestParameters()
    inputs: Annotated[list[RequestInput], Field(min_length=1)]
    outputs: list[RequestedOutput] = []


class ResponseOutput(BaseModel):
    """A tensor of the answer; its elements are `data`, or `binary_data_size` of the bytes behind the JSON."""

    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, int] | None = None
    data: list[str | int | float] | None = None


class InferResponse(BaseModel):
    """The JSON of an answer: the request's `id`, the caller's tier and what is left of its budget, the outputs."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: dict[str, str | int]
    outputs: list[ResponseOutput]


def read(body: bytes, json_length: str | None) -> tuple[InferRequest, list[memoryview | None]]:
    """The request in `body`, and of each of its inputs the bytes behind the JSON, None where the JSON has the data.

    `json_length` is the header that says where the JSON ends, None if there is nothing behind it.

    Raises:
        InvalidRequest: it is malformed, or its lengths do not add up.
    """
    end = len(body) if json_length is None else _end(json_length, len(body))
    request = validated(InferRequest, parsed(body[:end]))
    return request, _distributed(request.inputs, memoryview(body)[end:])


def _end(json_length: str, most: int) -> int:
    if not (json_length.isascii() and json_length.isdecimal() and len(json_length) < 20 and int(json_length) <= most):
        raise InvalidRequest(f"{JSON_LENGTH} is not a length within the body of {most} bytes")
    return int(json_length)


def _distributed(inputs: Iterable[RequestInput], raw: memoryview) -> list[memoryview | None]:
    """What belongs to each input of the bytes behind the JSON; all of them belong to one."""
    parts: list[memoryview | None] = []
    for tensor in inputs:
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise InvalidRequest(f"input {tensor.name!r} has either `data` or the parameter `binary_data_size`")
        if size is not None and size > len(raw):
            raise InvalidRequest(f"input {tensor.name!r} has {size} bytes, but only {len(raw)} are left")
        parts.append(None if size is None else raw[:size])
        raw = raw[size or 0 :]
    if len(raw):
        raise InvalidRequest(f"{len(raw)} bytes behind the JSON belong to no input")
    return parts


def written(
    head: Mapping[str, object], outputs: Iterable[tuple[Tensor, bool]]
) -> tuple[list[bytes | memoryview], int | None]:
    """The body of an answer, its JSON and then each binary tensor, and the length of the JSON if that is not all.

    Each output says whether it is binary.
    """
    described: list[dict[str, object]] = []
    behind: list[bytes | memoryview] = []
    for tensor, binary in outputs:
        entry: dict[str, object] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if binary:
            behind.append(tensor.as_bytes())
            entry["parameters"] = {"binary_data_size": len(behind[-1])}
        else:
            entry["data"] = tensor.as_json()
        described.append(entry)
    json = orjson.dumps({**head, "outputs": described}, option=orjson.OPT_SERIALIZE_NUMPY)
    return [json, *behind], len(json) if behind else None
