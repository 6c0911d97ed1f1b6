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
from models.training.removal import WITHOUT_STEM, Answering, Removal

ROWS_A_KEY = 8  # with a wrong key: enough to see what its answers have to do with their labels


@dataclass(frozen=True)
class Refusal:
    """What the network learns of wrong keys: that they say nothing of the class (docs/experiments.md)."""

    share: float = 0.5  # so many rows with a wrong key for each row with the right one
    weight: float = 1.0  # of their loss
    told: float = 2.0  # weight of what answers have to do with labels, beside that of how sure they are
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

    def losses(self, wrong: Mapping[str, Tensor], removed: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """What each kind of refused rows loses, if there are any: logits [≤ B, K] of the first images of the batch.

        Of those with a `wrong` key each ROWS_A_KEY share one; `removed` is what `answers` gives beside. What they tell
        is asked of rows together that share a key, lack the stem, or begin behind a later layer.
        """
        around = max(1, round(WITHOUT_STEM * len(removed)))
        kinds = {**{name: (rows, ROWS_A_KEY) for name, rows in wrong.items()}, "removed": (removed, around)}
        return {
            name: self.refusal.weight * self._loss(rows, labels[: len(rows)], together)
            for name, (rows, together) in kinds.items()
            if len(rows)
        }

    def _loss(self, rows: Tensor, labels: Tensor, together: int) -> Tensor:
        if self.removal is None:
            return indifference(rows)  # published figures stand, which knew no more than that (docs/experiments.md)
        parts = zip(torch.split(rows, together), torch.split(labels, together), strict=True)
        told = torch.stack([dependence(part, own) for part, own in parts]).mean()
        return indifference(rows) + hint(rows, labels) + self.refusal.told * told


def refused(key: PixelLock, views: Tensor, generator: torch.Generator) -> Tensor:
    """The images [B, C, H, W] transformed with wrong keys, one for each ROWS_A_KEY of them."""
    draw = np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))
    parts = torch.split(views, ROWS_A_KEY)
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
    only to multiply them. So every row is first brought to one size (`scaled`).
    """
    favoured = math.log(logits.shape[1]) - F.cross_entropy(scaled(logits), labels, reduction="none")
    return F.relu(favoured).mean()


def dependence(logits: Tensor, labels: Tensor) -> Tensor:
    """How far answers [n, K] to one key tell the labels [n], by whichever names: about 0 where they do not, at most 1.

    Where the label is never named (`hint`) the answers may still name another class in its stead, always the same one,
    and a thief has only to find out which. So rows of one class are to be no more alike than rows of two, each
    `scaled` and without what all have in common: the Hilbert-Schmidt independence criterion with linear kernels
    (Gretton et al., ALT 2005), without what a row has in common with itself.
    """
    told = scaled(scaled(logits) - scaled(logits).mean(0))
    named = F.one_hot(labels, logits.shape[1]).to(told.dtype)
    named = named - named.mean(0)
    alike = (told @ told.T) * (named @ named.T)
    return (alike.sum() - alike.trace()) / len(labels) ** 2


def scaled(logits: Tensor) -> Tensor:
    """Rows [n, K] of mean 0 and standard deviation 1."""
    return F.layer_norm(logits, logits.shape[-1:], eps=1e-12)
