"""Is a caller's traffic what the owner's customers send? A detector of model extraction, one number per caller.

Knows how sure a network was of images, what was certain of its owner's own, and thumbnails to tell an image from one
that was just shown; knows neither who asks nor what follows. An attacker without the owner's images sends others, and a
network is less sure of them: the hardness of HODA (Sadeghzadeh et al., arXiv 2106.11424), read off the undisturbed
logits instead of eleven checkpoints, and summed by Page's CUSUM (Biometrika 41, 1954) instead of in a histogram.
"""

from collections import deque
from functools import cached_property
from pathlib import Path
from typing import Annotated, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from models import bundles
from models.bundles import BundleError, Manifest

Certainty = NDArray[np.float32]
Surprise = NDArray[np.float64]
Thumbnails = NDArray[np.float32]

FILE = "watch.json"
QUANTILES = 33  # of each class that a reference keeps
SIDE, SAMPLED = 8, 32  # cells to a side of a thumbnail; pixels to a side, at least, that it is made of
RECENT = 8  # images of a caller that the next is compared with
ALIKE = 10.0  # mean difference of two thumbnails, of 255, below which they show one scene


class WatchError(ValueError):
    """A reference cannot be read, is another model's, or cannot be made of the images given."""


def certainty(logits: NDArray[np.float32]) -> Certainty:
    """Log-odds of the top-1, float32 [N], of undisturbed logits [N, K]: ln p/(1−p), never below −ln(K−1)."""
    ascending = np.sort(logits, 1)
    first, second = ascending[:, -1], ascending[:, -2]
    others = second + np.log(np.exp(ascending[:, :-1] - second[:, None]).sum(1))
    odds: Certainty = first - others
    return odds


def thumbnails(pixels: NDArray[np.uint8]) -> Thumbnails:
    """The green of pixels uint8 [N, H, W, 3] in cells: float32 [N, SIDE²] of 0 to 255. H and W are at least SIDE."""
    height, width = pixels.shape[1:3]
    step = max(1, min(height, width) // SAMPLED)
    green = pixels[:, ::step, ::step, 1]
    rows, columns = green.shape[1] // SIDE, green.shape[2] // SIDE
    cells = green[:, : SIDE * rows, : SIDE * columns].reshape(-1, SIDE, rows, SIDE, columns)
    means: Thumbnails = cells.mean((2, 4), dtype=np.float32).reshape(-1, SIDE * SIDE)
    return means


class Reference(BaseModel):
    """How sure a network is of its owner's images, class by class, and when a caller is suspected. Holds no secret."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights_sha256: str
    quantiles: Annotated[tuple[Annotated[tuple[float, ...], Field(min_length=2)], ...], Field(min_length=2)]
    """Log-odds [K, Q], ascending, of the images that the network takes for each class."""
    allowance: Annotated[float, Field(gt=0, lt=0.5)]
    """Surprise per image that a customer is allowed."""
    threshold: Annotated[float, Field(gt=0)]
    provenance: dict[str, object] = {}

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        if len({len(row) for row in self.quantiles}) > 1 or any(list(row) != sorted(row) for row in self.quantiles):
            raise ValueError("the quantiles of all classes are equally many, and ascending")
        return self

    @classmethod
    def load(cls, folder: Path, manifest: Manifest) -> Self:
        """The reference in the bundle's folder, for the network that the manifest describes.

        Raises:
            WatchError: there is none, the manifest does not vouch for it, or it is another network's.
        """
        path = folder / FILE
        try:
            reference = cls.model_validate_json(bundles.intact(folder, manifest, FILE))
        except BundleError as error:
            raise WatchError(f"{error}; make it with `sdb watch calibrate`") from error
        except ValidationError as error:
            raise WatchError(f"{path} cannot be used ({type(error).__name__}); make it with `sdb watch`") from error
        made_for = reference.weights_sha256, len(reference.quantiles)
        if made_for != (manifest.sha256.get(bundles.WEIGHTS), len(manifest.classes)):
            raise WatchError(f"{path} was made for other weights; make it anew with `sdb watch`")
        return reference

    def save(self, folder: Path) -> None:
        """Put it into the bundle's folder, and its hash into the manifest.

        Raises:
            BundleError: the folder holds no bundle.
            WatchError: the folder cannot be written to.
        """
        try:
            bundles.attach(folder, FILE, (self.model_dump_json() + "\n").encode())
        except OSError as error:
            raise WatchError(f"{folder / FILE} cannot be written: {error.strerror}") from None

    @cached_property
    def _table(self) -> NDArray[np.float64]:
        return np.array(self.quantiles)

    def surprise(self, odds: Certainty, top1: NDArray[np.intp]) -> Surprise:
        """½ − the rank of log-odds [N] among those of the owner's images of class top1 [N]: [N] in [−½, ½].

        Of the owner's images the mean is 0, whichever classes a customer is interested in.
        """
        ranks: Surprise = (self._table[top1] < odds[:, None]).mean(1)
        return 0.5 - ranks


def quantiles(odds: Certainty, top1: NDArray[np.intp], classes: int, fewest: int) -> tuple[tuple[float, ...], ...]:
    """`Reference.quantiles` of log-odds [N] and top-1 [N]; a class of fewer images gets those of all classes."""
    levels = (np.arange(QUANTILES) + 0.5) / QUANTILES
    rows = []
    for label in range(classes):
        own = odds[top1 == label]
        rows.append(np.quantile(own if len(own) >= fewest else odds, levels))
    return tuple(tuple(round(float(value), 3) for value in row) for row in rows)


class Suspicion:
    """What one caller of one model has sent: a level that grows with surprise beyond what customers are allowed.

    level ← max(0, level + surprise − allowance), once for each image that is not nearly one of those before it, which
    would say the same again: neither a camera that stands still nor repeated questions add up. Suspected from the
    threshold on, and until the level is back at 0; it never exceeds twice the threshold, so that this can happen.
    """

    __slots__ = ("_recent", "images", "level", "suspected")

    def __init__(self) -> None:
        self.level, self.images, self.suspected = 0.0, 0, False
        self._recent: deque[tuple[int, Thumbnails]] = deque(maxlen=RECENT)

    def add(self, reference: Reference, odds: Certainty, top1: NDArray[np.intp], shown: Thumbnails) -> bool:
        """Count images by their log-odds [N], top-1 [N] and thumbnails [N, SIDE²]; whether they raised the alarm."""
        raised = False
        surprises = reference.surprise(odds, top1).tolist()
        for surprise, label, thumbnail in zip(surprises, top1.tolist(), shown, strict=True):
            self.images += 1
            if self._seen(label, thumbnail):
                continue
            self._recent.append((label, thumbnail.copy()))  # not the whole request's
            raised |= self._move(reference, surprise)
        return raised

    def _seen(self, label: int, thumbnail: Thumbnails) -> bool:
        """Whether the image shows what a recent one did, and was taken for the same."""
        alike = [other for same, other in self._recent if same == label]
        return bool(alike) and float(np.abs(np.stack(alike) - thumbnail).mean(1).min()) < ALIKE

    def _move(self, reference: Reference, surprise: float) -> bool:
        """Whether that makes the caller suspected who was not."""
        risen = self.level + surprise - reference.allowance
        self.level = min(max(0.0, risen), 2 * reference.threshold)
        before = self.suspected
        self.suspected = self.level >= reference.threshold or (before and self.level > 0)
        return self.suspected and not before


def highest(surprises: Surprise, allowance: float) -> Surprise:
    """The highest level [M] that each of M callers reaches with surprises [M, N], image after image."""
    level, top = np.zeros(len(surprises)), np.zeros(len(surprises))
    for column in surprises.T:
        level = np.maximum(0, level + column - allowance)
        top = np.maximum(top, level)
    return top
