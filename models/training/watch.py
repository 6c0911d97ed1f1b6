"""A reference for the extraction watch, made of the owner's images alone: what customers send, and how far they stray.

Knows images, labels and a network to ask; knows no attack. Customers are simulated from the images: all classes or one,
as they are or through worse cameras. Blends of two images stand for a stranger's: a network that is not sure of a blend
is not sure of other people's images either (benchmarks/extraction_watch.py compares the two).
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as TF

from models.data import LabelledImages
from models.engines.engine import Logits
from models.watch import Reference, Surprise, WatchError, certainty, highest, quantiles

Ask = Callable[[Tensor], Logits]
FEWEST_IMAGES = 400  # half of them are the reference, the others the customers'
FEWEST_OF_CLASS = 20  # or its quantiles say little
CUSTOMERS, IMAGES = 2000, 1000  # of each kind, and what each of them sends
CERTAIN = 0.999  # share of the customers of the worst kind that stay below half the threshold
CLEAR = 0.05  # surprise by which blends must exceed the worst customers
TOLERANT = 0.75  # where between those two the allowance lies: cameras that nobody thought of are no thieves
PATIENCE = 500  # images after which a stranger is suspected whose images surprise as blends do
NOISE, DARK, DULL, JPEG, BLUR = 8.0, 0.5, 0.6, 40, 0.7


def worse(images: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Images uint8 [N, 3, H, W] through worse cameras, by what is wrong with these."""
    pixels = images.float()
    altered = {
        "noise": pixels + NOISE * torch.randn(pixels.shape, generator=generator),
        "dark": DARK * pixels,
        "dull": 128 + DULL * (pixels - 128),
        "blur": TF.gaussian_blur(pixels, 3, BLUR),
    }
    found = {name: values.round().clamp(0, 255).to(torch.uint8) for name, values in altered.items()}
    return {**found, "compressed": torch.stack([_compressed(image) for image in images])}


def _compressed(image: Tensor) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=JPEG)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)


def blends(images: Tensor) -> Tensor:
    """The mean of each of images uint8 [N, 3, H, W] and its neighbour."""
    return ((images.float() + images.roll(1, 0).float()) / 2).to(torch.uint8)


@dataclass(frozen=True)
class Facts:
    """What a reference was made of: mean surprise and highest levels by kind of customer, and of the blends."""

    customers: Mapping[str, float]
    levels: Mapping[str, float]
    strangers: float
    allowance: float

    @property
    def threshold(self) -> float:
        """Out of customers' reach, and as high as leaves strangers to be found."""
        return max(2 * max(self.levels.values()), PATIENCE * (self.strangers - self.allowance))


def calibrate(ask: Ask, images: LabelledImages, weights_sha256: str, *, command: str = "", seed: int = 0) -> Reference:
    """The reference of the network that `ask` gives the undisturbed logits [N, K] of, for owners of such images.

    `images` must be none that it was trained on: of those it is surer.

    Raises:
        WatchError: too few images, or blends do not stand out from the customers.
    """
    if len(images) < FEWEST_IMAGES:
        raise WatchError(f"the watch needs at least {FEWEST_IMAGES} images, got {len(images)}")
    known, rest = images.split(len(images) // 2, seed)
    odds, top1 = _answers(ask, known.images)
    table = quantiles(odds, top1, len(images.classes), FEWEST_OF_CLASS)
    blank = Reference(weights_sha256=weights_sha256, quantiles=table, allowance=0.1, threshold=1.0)
    generator = torch.Generator().manual_seed(seed)
    kinds = {"as it is": rest.images, **worse(rest.images, generator)}
    surprises = {name: blank.surprise(*_answers(ask, shown)) for name, shown in kinds.items()}
    strangers = float(blank.surprise(*_answers(ask, blends(rest.images))).mean())
    surprises |= _one_class(surprises["as it is"], rest.labels.numpy())
    facts = _settled(surprises, strangers, np.random.default_rng(seed))
    return Reference(
        weights_sha256=weights_sha256,
        quantiles=table,
        allowance=round(facts.allowance, 4),
        threshold=round(facts.threshold, 2),
        provenance={
            "command": command,
            "images": len(images),
            "seed": seed,
            "surprise of blends": round(strangers, 3),
            "surprise of customers": {name: round(mean, 3) for name, mean in facts.customers.items()},
            "levels of customers": {name: round(level, 2) for name, level in facts.levels.items()},
        },
    )


def _answers(ask: Ask, shown: Tensor) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    logits = ask(shown)
    return certainty(logits), logits.argmax(1)


def _one_class(surprise: Surprise, labels: NDArray[np.int64]) -> dict[str, Surprise]:
    """The surprises [n] of customers that are interested in one class: of that in which they are greatest."""
    of = {int(label): surprise[labels == label] for label in np.unique(labels)}
    hardest = max(of, key=lambda label: float(of[label].mean()))
    return {"one class": of[hardest]}


def _settled(surprises: Mapping[str, Surprise], strangers: float, draw: np.random.Generator) -> Facts:
    """Simulate customers of every kind.

    Raises:
        WatchError: the worst of them surprise as much as blends do.
    """
    means = {name: float(values.mean()) for name, values in surprises.items()}
    worst = max(means.values())
    if strangers - worst < CLEAR:
        raise WatchError(
            f"the network is surprised by blends ({strangers:.2f}) hardly more than by the worst customers' "
            f"images ({worst:.2f}): it cannot tell strangers', or needs more than {FEWEST_OF_CLASS} of each class"
        )
    allowance = worst + TOLERANT * (strangers - worst)
    levels = {
        name: float(np.quantile(highest(draw.choice(values, (CUSTOMERS, IMAGES)), allowance), CERTAIN))
        for name, values in surprises.items()
    }
    return Facts(means, levels, strangers, allowance)
