"""Tensors of the Open Inference Protocol: their elements in JSON, or as the bytes of its binary extension.

Knows elements, shapes and bytes; knows no image, no model and no HTTP. Whatever arrives is compared with its shape
before anything of that size is made.
"""

import base64
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidRequest

NUMBERS = {"INT64": "<i8", "FP16": "<f2", "FP32": "<f4"}
LENGTH = struct.Struct("<I")


@dataclass(frozen=True)
class Tensor:
    """What is sent: `values` is an array, or the elements of a BYTES tensor in row-major order."""

    name: str
    datatype: str
    shape: Sequence[int]
    values: NDArray[Any] | Sequence[str]

    def as_json(self) -> NDArray[Any] | Sequence[str]:
        """The elements, flat."""
        return self.values.ravel() if isinstance(self.values, np.ndarray) else self.values

    def as_bytes(self) -> bytes | memoryview:
        """The elements in their native size, little-endian; each of a BYTES tensor behind its length."""
        if isinstance(self.values, np.ndarray):
            return np.ascontiguousarray(self.values, NUMBERS[self.datatype]).reshape(-1).view(np.uint8).data
        encoded = [text.encode() for text in self.values]
        return b"".join(chain.from_iterable((LENGTH.pack(len(element)), element) for element in encoded))


def elements(raw: memoryview, count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor.

    Raises:
        InvalidRequest: there are fewer or more, or one is cut off.
    """
    found: list[bytes] = []
    at = 0
    for _ in range(count):
        begin = at + LENGTH.size
        if begin > len(raw):
            raise InvalidRequest(f"the BYTES tensor ends after {len(found)} of its {count} elements")
        at = begin + LENGTH.unpack_from(raw, at)[0]
        if at > len(raw):
            raise InvalidRequest(f"element {len(found)} of the BYTES tensor is longer than what is left of it")
        found.append(bytes(raw[begin:at]))
    if at != len(raw):
        raise InvalidRequest(f"something follows the {count} elements of the BYTES tensor")
    return found


def elements_of_json(data: object, count: int) -> list[bytes]:
    """The `count` elements of a BYTES tensor whose `data` is text in base64.

    Raises:
        InvalidRequest: there are fewer or more, or one is not base64.
    """
    texts = _flat(data, (count,))
    try:
        return [base64.b64decode(text, validate=True) for text in texts]
    except (ValueError, TypeError):
        raise InvalidRequest("the data of a BYTES tensor is text in base64, one for each element") from None


def uint8(raw: memoryview, shape: Sequence[int]) -> NDArray[np.uint8]:
    """A UINT8 tensor, as a view of its bytes.

    Raises:
        InvalidRequest: they are fewer or more than its shape has elements.
    """
    if len(raw) != math.prod(shape):
        raise InvalidRequest(f"a UINT8 tensor of shape {list(shape)} has {math.prod(shape)} bytes, not {len(raw)}")
    return np.frombuffer(raw, np.uint8).reshape(shape)


def uint8_of_json(data: object, shape: Sequence[int]) -> NDArray[np.uint8]:
    """A UINT8 tensor whose `data` is integers, flat or nested.

    Raises:
        InvalidRequest: they are of another shape, no integers, or not in 0 … 255.
    """
    values = _flat(data, shape)
    if not set(map(type, values)) <= {int}:
        raise InvalidRequest("the data of a UINT8 tensor is integers")
    try:
        return uint8(memoryview(bytes(values)), shape)
    except ValueError:
        raise InvalidRequest("the data of a UINT8 tensor is in 0 … 255") from None


def _flat(data: object, shape: Sequence[int]) -> list[Any]:
    """The elements of `data` in row-major order: a flat list of them, or lists nested as the shape says."""
    if not isinstance(data, list):
        raise InvalidRequest("the data of a tensor is a list")
    values: list[Any] = data
    if values and isinstance(values[0], list) and len(shape) > 1:
        if len(values) != shape[0]:
            raise InvalidRequest(f"the data of the tensor is not of shape {list(shape)}")
        for size in shape[1:]:
            if not all(isinstance(inner, list) and len(inner) == size for inner in values):
                raise InvalidRequest(f"the data of the tensor is not of shape {list(shape)}")
            values = list(chain.from_iterable(values))
    if len(values) != math.prod(shape):
        raise InvalidRequest(f"a tensor of shape {list(shape)} has {math.prod(shape)} elements, not {len(values)}")
    return values
