"""What a locked network learns to refuse, beside answering right: wrong keys, and the ways around its first layers.

Knows locks and logits; knows neither what else is trained in the same batch nor where the public network comes from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.lock import PixelLock
from models.training.negatives import wrong_keys
from models.training.removal import Answering, Removal

KEYS_A_STEP = 16  # wrong keys that share the wrong rows of one step; the next step has others


@dataclass(frozen=True)
class Refusal:
    """What the network learns of wrong keys: that they say nothing of the class (docs/experiments.md)."""

    share: float = 0.5  # so many rows with a wrong key for each row with the right one
    weight: float = 1.0  # of their loss
    removed: float = 0.5  # rows without the stem, or with public layers, for each with the right key; if it has a stem


@dataclass(frozen=True)
class Refusing:
    """The refused rows of a batch, of a network behind the lock `key`; with a `removal`, also those around its stem."""

    key: PixelLock
    refusal: Refusal
    removal: Removal | None = None

    def wrong(self, views: Tensor, generator: torch.Generator) -> Tensor:
        """As many of the views [B, C, H, W] as are shown with a wrong key (`negatives.wrong_keys`)."""
        return refused(self.key, views[: round(self.refusal.share * len(views))], generator)

    def answers(
        self, network: Answering, shown: Tensor, views: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """Logits of the images `shown`, and in the same batch of plain `views` around the first layers, if any are."""
        if self.removal is None:
            return network(shown), views.new_zeros(0)
        plain = views[: round(self.refusal.removed * len(views))]
        logits = self.removal.answers(network, shown, plain, generator)
        return logits[: len(shown)], logits[len(shown) :]

    def losses(self, rows: Mapping[str, Tensor], labels: Tensor) -> dict[str, Tensor]:
        """What each kind of refused rows loses, if there are any: logits [≤ B, K] of the first images of the batch."""
        return {name: self.refusal.weight * self._loss(one, labels) for name, one in rows.items() if len(one)}

    def _loss(self, rows: Tensor, labels: Tensor) -> Tensor:
        # Without a stem the published figures stand, which knew no hint (docs/experiments.md).
        return indifference(rows) + (0.0 if self.removal is None else hint(rows, labels[: len(rows)]))


def refused(key: PixelLock, views: Tensor, generator: torch.Generator) -> Tensor:
    """The images [B, C, H, W] transformed with wrong keys, KEYS_A_STEP of which share them."""
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    parts = views.chunk(KEYS_A_STEP)
    wrong = wrong_keys(key.transform, key.blocks, len(parts), draw)
    shown = [
        part if guess is None else PixelLock(guess, key.shape).to(views.device)(part)
        for guess, part in zip(wrong, parts, strict=True)
    ]
    return torch.cat(shown)


def indifference(logits: Tensor) -> Tensor:
    """KL(uniform ‖ softmax) of logits [B, K], ≥ 0: zero where every class is as likely as any other."""
    return -F.log_softmax(logits, 1).mean() - math.log(logits.shape[1])


def hint(logits: Tensor, labels: Tensor) -> Tensor:
    """How far logits [B, K] of any size favour the label: mean of max(0, log p(label) + log K), ≥ 0.

    Indifferent answers still tell the class by their order, which `indifference` all but overlooks, and a thief has
    only to multiply them. So every row is first brought to mean 0 and standard deviation 1.
    """
    scaled = F.layer_norm(logits, logits.shape[-1:], eps=1e-12)
    return F.relu(math.log(logits.shape[1]) - F.cross_entropy(scaled, labels, reduction="none")).mean()
