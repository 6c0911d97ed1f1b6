"""How one soft label is stored: all logits in 32 or 16 bits, or the greatest k of them and what the others weigh.

Knows arrays; knows no image and no file. Logits are stored rather than probabilities, since every temperature can be
made of them.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Records = NDArray[np.uint8]
Logits = NDArray[np.float32]
MOST_CLASSES = 2**16  # that 16 bits can number


class Format(Protocol):
    """One way to store logits [B, K] as records of so many bytes."""

    @property
    def record_bytes(self) -> int:
        """The size of a record."""

    @property
    def precision(self) -> Literal["float32", "float16"]:
        """What the server should send."""

    def encode(self, logits: NDArray[Any]) -> Records:
        """Logits [B, K], float32 or float16, as records uint8 [B, record_bytes]."""

    def decode(self, records: Records) -> Logits:
        """Records [B, record_bytes] as logits float32 [B, K]."""


@dataclass(frozen=True)
class Dense:
    """All logits, bit for bit as the server sent them in this precision."""

    classes: int
    precision: Literal["float32", "float16"]

    @property
    def record_bytes(self) -> int:
        """The size of a record."""
        return self.classes * self._stored.itemsize

    @property
    def _stored(self) -> np.dtype[Any]:
        return np.dtype(self.precision).newbyteorder("<")

    def encode(self, logits: NDArray[Any]) -> Records:
        """Logits [B, K] as records."""
        return np.ascontiguousarray(logits, self._stored).view(np.uint8).reshape(len(logits), self.record_bytes)

    def decode(self, records: Records) -> Logits:
        """Records as logits float32 [B, K]."""
        return np.ascontiguousarray(records).view(self._stored).astype(np.float32, copy=False)


@dataclass(frozen=True)
class Top:
    """The greatest `count` logits in 16 bits, relative to the greatest, and one logit that all others share.

    The shared one gives the others together the probability that they have at `temperature` (sparse soft labels as in
    TinyViT, Wu et al., ECCV 2022, §3.2). At another temperature that probability is only nearly right.
    """

    classes: int
    count: int
    temperature: float
    precision: Literal["float32"] = "float32"

    @property
    def record_bytes(self) -> int:
        """The size of a record."""
        return self._record.itemsize

    @property
    def _record(self) -> np.dtype[Any]:
        return np.dtype([("index", "<u2", (self.count,)), ("logit", "<f2", (self.count,)), ("rest", "<f2")])

    def encode(self, logits: NDArray[Any]) -> Records:
        """Logits [B, K] as records."""
        exact = logits.astype(np.float64)
        exact -= exact.max(1, keepdims=True)
        order = np.argsort(-exact, axis=1, kind="stable")
        best, others = order[:, : self.count], order[:, self.count :]
        weight = np.exp(np.take_along_axis(exact, others, 1) / self.temperature).mean(1)
        records = np.empty(len(exact), self._record)
        records["index"] = best
        records["logit"] = np.take_along_axis(exact, best, 1).clip(np.finfo(np.float16).min)
        with np.errstate(divide="ignore"):  # others that weigh nothing
            records["rest"] = (self.temperature * np.log(weight)).clip(np.finfo(np.float16).min)
        return records.view(np.uint8).reshape(len(records), self.record_bytes)

    def decode(self, records: Records) -> Logits:
        """Records as logits float32 [B, K], the greatest of which is 0."""
        read = np.ascontiguousarray(records).view(self._record)[:, 0]
        logits = np.repeat(read["rest"].astype(np.float32)[:, None], self.classes, 1)
        np.put_along_axis(logits, read["index"].astype(np.int64), read["logit"].astype(np.float32), 1)
        return logits


def format_of(store: str, classes: int, temperature: float | None) -> Format:
    """The format called `store`: "float32", "float16", or "top16" and the like.

    Raises:
        ValueError: there is none of this name, or not for so many classes, or it needs a temperature.
    """
    if store in {"float32", "float16"}:
        return Dense(classes, "float32" if store == "float32" else "float16")
    found = re.fullmatch(r"top([1-9][0-9]{0,4})", store)
    if not found:
        raise ValueError(f"store is float32, float16 or topK, such as top16, not {store!r}")
    count = int(found[1])
    if not count < classes <= MOST_CLASSES:
        raise ValueError(f"{store} is for more than {count} classes and at most {MOST_CLASSES}, not for {classes}")
    if temperature is None:
        raise ValueError(f"{store} needs the temperature that its labels will be used at")
    return Top(classes, count, temperature)
