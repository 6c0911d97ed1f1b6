"""Fuzzes the reading of inference requests: JSON, the header that says where it ends, and the tensors behind it."""

import math
from contextlib import suppress

from app.errors import InvalidRequest
from app.oip import tensors
from app.oip.messages import RequestInput, read
from app.oip.outputs import wanted

SEEDS = [
    b"\n" + b'{"inputs":[{"name":"image","shape":[1,1,2,3],"datatype":"UINT8","data":[0,1,2,3,4,255]}]}',
    b"\n" + b'{"inputs":[{"name":"image","shape":[1,1,2,3],"datatype":"UINT8","data":[[[[0,1,2],[3,4,5]]]]}]}',
    b"\n" + b'{"inputs":[{"name":"image","shape":[2],"datatype":"BYTES","data":["AAAA","/w=="]}],"id":"7"}',
    b'106\n{"inputs":[{"name":"image","shape":[2],"datatype":"BYTES","parameters":{"binary_data_size":13}}],"a":[{}]}  '
    b"\x03\0\0\0abc\x02\0\0\0de",
    b'104\n{"inputs":[{"name":"image","shape":[1,1,2,3],"datatype":"UINT8","parameters":{"binary_data_size":6}}]}abcdef',
    b'\n{"inputs":[{"name":"image","shape":[0],"datatype":"BYTES","data":[]}],"outputs":[{"name":"logits","parameters":'
    b'{"binary_data":true,"classification":3}},{"name":"label"}],"parameters":{"output_datatype":"FP16","views":2}}',
    b'\n{"inputs":[{"name":"image","shape":[9223372036854775807,4294967296,2,3],"datatype":"UINT8","data":[NaN,1e999]}]}',
]
MOST = 256


def feed(data: bytes) -> None:
    """The first line is the header, if it is not empty; what follows is the body."""
    length, _, body = data.partition(b"\n")
    with suppress(InvalidRequest):
        request, raws = read(body, length.decode("latin-1") or None)
        wanted(request)
        for tensor, raw in zip(request.inputs, raws, strict=True):
            _take(tensor, raw, len(body))


def _take(tensor: RequestInput, raw: memoryview | None, most: int) -> None:
    """Read a tensor as the route does; it is never larger than the bytes that it came in."""
    if tensor.datatype == "BYTES":
        count = tensor.shape[0] if tensor.shape else 0
        if count <= MOST:
            found = tensors.elements_of_json(tensor.data, count) if raw is None else tensors.elements(raw, count)
            assert len(found) == count
    else:
        shape = tensor.shape
        array = tensors.uint8_of_json(tensor.data, shape) if raw is None else tensors.uint8(raw, shape)
        assert array.size == math.prod(shape) <= most
