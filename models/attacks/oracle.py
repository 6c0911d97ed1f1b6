"""The customer's door: images in, one vector per image out. All that an attack sees of a protected model.

Knows tensors; whether the answers come from this process or over a network is the adapter's business.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from models.data import Pixels, pixels_of
from models.predictor import Predictor
from models.training.loop import PREDICTION_BATCH, predict


class Oracle(Protocol):
    """What answers."""

    def query(self, images: Tensor) -> Tensor:
        """Logits float32 [N, K] of images uint8 [N, 3, H, W], one answer for each."""


class TierOracle:
    """One tier of a bundle in this process, through `Predictor`, the door that the server uses.

    A locked model answers as whoever has the right to unlock it is answered.
    """

    def __init__(self, predictor: Predictor, *, keyed: bool) -> None:
        self._predictor, self._keyed = predictor, keyed

    def query(self, images: Tensor) -> Tensor:
        """`Oracle.query`."""
        return torch.cat([self._answers(pixels_of(chunk)) for chunk in torch.split(images, PREDICTION_BATCH)])

    def _answers(self, pixels: Pixels) -> Tensor:
        keyed, unlocked = np.full(len(pixels), self._keyed), np.ones(len(pixels), np.bool_)
        return torch.from_numpy(self._predictor(pixels, keyed, unlocked))


class NetworkOracle:
    """A bare network without any box: the teacher as its owner has it, or weights as a thief has them."""

    def __init__(self, network: nn.Module | Callable[[Tensor], Tensor], device: torch.device) -> None:
        self._network, self._device = network, device

    def query(self, images: Tensor) -> Tensor:
        """`Oracle.query`."""
        return predict(self._network, images, self._device)


class Remembered:
    """An oracle that is asked once about each image: what answers the same image alike need not answer it twice."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle = oracle
        self._answers: dict[bytes, Tensor] = {}

    def query(self, images: Tensor) -> Tensor:
        """`Oracle.query`."""
        names = [hashlib.sha256(image.numpy().tobytes()).digest() for image in images]
        missing = {name: row for row, name in enumerate(names) if name not in self._answers}
        if missing:
            answers = self._oracle.query(images[list(missing.values())])
            self._answers.update(zip(missing, answers, strict=True))
        return torch.stack([self._answers[name] for name in names])


class Metered:
    """An oracle that counts its queries (one image is one query) and the seconds that they take."""

    def __init__(self, oracle: Oracle) -> None:
        self._oracle, self.queries, self.seconds = oracle, 0, 0.0

    def query(self, images: Tensor) -> Tensor:
        """`Oracle.query`."""
        started = time.monotonic()
        answers = self._oracle.query(images)
        self.seconds += time.monotonic() - started
        self.queries += len(images)
        return answers
