"""A thief of a locked model: the network, the scheme and some labelled images; everything but the key.

Knows what every attack on a lock needs and no attack. All of them want plain images answered right.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sdb_client.transforms import Transform
from torch import Tensor, nn
from torch.nn import functional as F

from models.attacks.locks.keys import Scheme
from models.lock import PixelLock
from models.training.loop import PREDICTION_BATCH

Front = Callable[[Tensor], Tensor]
Network = Callable[[Tensor], Tensor]
Score = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Budget:
    """How much work a thief puts in: keys that a search may try, sweeps of a climb, steps of gradient descent.

    A search judges keys by its first `batch` labelled images (AprilPyone and Kiya's code: one batch of 128).
    """

    keys: int = 20_000
    sweeps: int = 10
    steps: int = 500
    batch: int = 128


@dataclass(frozen=True)
class Thief:
    """What one attacker has.

    `network` maps transformed images [B, C, H, W] to logits [B, K]; it is in evaluation mode and frozen. `images` uint8
    [N, C, H, W] are plain, `labels` int64 [N] true. `base` is a public network of the same architecture, if there is
    one. Every draw follows from `seed`.
    """

    network: nn.Module
    scheme: Scheme
    images: Tensor
    labels: Tensor
    base: nn.Module | None
    budget: Budget
    seed: int

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def draw(self) -> np.random.Generator:
        """The same numbers every time it is called."""
        return np.random.default_rng(self.seed)

    def held(self, count: int) -> tuple[Tensor, Tensor]:
        """The first `count` images, float [M, C, H, W] in [0, 1], and their labels, on the network's device."""
        return self.images[:count].to(self.device).float() / 255, self.labels[:count].to(self.device)

    def front(self, key: Transform) -> Front:
        """What a key does to images [B, C, H, W] in [0, 1] before the network sees them."""
        return PixelLock(key, self.scheme.shape).to(self.device)

    def judge(self, images: Tensor, labels: Tensor, score: Score) -> "Judge":
        """Judges keys by `score` of the network's answers to labelled images."""
        return Judge(self, images, labels, score)


@dataclass(frozen=True)
class Opened:
    """What an attack came to: the front that it would put before the network, and the key that it believes in.

    `network` is what it asks instead of the stolen one, if it made one of that, with a public network's layers up to
    the one named `cut`.
    """

    front: Front
    key: Transform | None = None
    network: Network | None = None
    cut: str = ""


def as_it_is(images: Tensor) -> Tensor:
    """The front that changes nothing."""
    return images


@dataclass(frozen=True)
class Judge:
    """Keys → scores, by the same labelled images float [M, C, H, W]; few keys share a pass, as many as fit in one."""

    thief: Thief
    images: Tensor
    labels: Tensor
    score: Score

    @property
    def together(self) -> int:
        """Keys that one pass takes."""
        return max(1, PREDICTION_BATCH // len(self.images))

    @torch.inference_mode()
    def __call__(self, keys: Sequence[Transform]) -> list[float]:
        """One score for each key; more is better."""
        found: list[float] = []
        for start in range(0, len(keys), self.together):
            chunk = keys[start : start + self.together]
            logits = self.thief.network(torch.cat([self.thief.front(key)(self.images) for key in chunk]))
            found += self.score(logits.view(len(chunk), len(self.images), -1), self.labels).tolist()
        return found


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Share [...] of logits [..., M, K] whose argmax is the label [M]: what the authors' attacks go by."""
    return (logits.argmax(-1) == labels).float().mean(-1)


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean log-probability [...], ≤ 0, that logits [..., M, K] give the labels [M]: it rises before accuracy does."""
    return -F.cross_entropy(logits.movedim(-1, 1), labels.expand(logits.shape[:-1]), reduction="none").mean(-1)
