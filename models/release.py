"""What leaves the house for everybody: the true top-1 on top of a secret smooth function of the image.

Knows logits and pixels; knows neither the network that made the logits nor who asked. Of the network's output only the
top-1 (and, where the owner asked for it, a coarse level of its confidence) reaches the public vector, so no inversion
of this stage can recover the dark knowledge: it is not there (docs/guarantees.md has the proof). The false peaks are a
*smooth* function of the image because a student can then learn them, and wastes its capacity on them; independent
noise would average out.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.key_stream import key_normal

GRID = 8  # the secret function sees a thumbnail of this side
COMPONENTS = 12  # and of that its strongest directions, which every student can learn
FEATURES = 3 * GRID * GRID // 2
FEWEST_IMAGES = 256  # fewer cannot show the covariance of FEATURES numbers
LEAST_CONFIDENCE = 0.55  # under one half, a false peak could rise above the top-1
MOST_CONFIDENCE = 0.99  # the log-odds of certainty are infinite
CHUNK = 512


def calibrated_levels(logits: Tensor, labels: Tensor, levels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(confidences, edges) for a `Release` of so many levels, from held-out logits [N, K] and labels int64 [N].

    The levels hold about equally many images; the confidence of each is the accuracy within it, where that lies in
    [LEAST_CONFIDENCE, MOST_CONFIDENCE].
    """
    confidence, predicted = F.softmax(logits, 1).max(1)
    edges = torch.quantile(confidence, torch.arange(1, levels) / levels)
    level = torch.bucketize(confidence, edges)
    right = (predicted == labels).float()
    shares = [right[level == number].mean().nan_to_num(LEAST_CONFIDENCE).item() for number in range(levels)]
    confidences = tuple(min(max(share, LEAST_CONFIDENCE), MOST_CONFIDENCE) for share in shares)
    return confidences, tuple(edges.tolist())


class Release(nn.Module):
    """Public vectors: `scale` · g(x) off the top-1, and a top-1 that has the probability `confidences` says.

    g(x) = W(x)·P: W whitens a thumbnail of the image that has been averaged with its mirror, so that mirrored, shifted
    and re-encoded copies get the same false peaks; P, expanded from the secret, turns it to the classes. W is fitted
    by `calibrate` and public, P is secret and differs between deployments and models.

    With one confidence (the default) the public top-1 probability is the same for every image. With L of them, a row
    gets the one whose level its own top-1 probability falls into: `edges` are the L−1 boundaries, ascending.
    """

    mean: Tensor
    whiten: Tensor
    projection: Tensor
    tops: Tensor
    edges: Tensor

    def __init__(
        self,
        secret: bytes,
        num_classes: int,
        *,
        scale: float = 12.0,
        confidences: Sequence[float] = (0.7,),
        edges: Sequence[float] = (),
    ) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError("a classifier has at least two classes")
        if len(confidences) != len(edges) + 1 or list(edges) != sorted(edges):
            raise ValueError("L confidences have L−1 ascending edges between them")
        if not all(LEAST_CONFIDENCE <= confidence < 1 for confidence in confidences):
            raise ValueError(f"a confidence lies in [{LEAST_CONFIDENCE}, 1)")
        self.scale = scale
        projection = F.normalize(key_normal(secret, f"release/projection/{num_classes}", (COMPONENTS, num_classes)))
        self.register_buffer("projection", projection, persistent=False)
        log_odds = [math.log(confidence / (1 - confidence)) for confidence in confidences]
        self.register_buffer("tops", torch.tensor(log_odds), persistent=False)
        self.register_buffer("edges", torch.tensor(edges, dtype=torch.float32), persistent=False)
        # Statistics of the calibration images' thumbnails: part of the weights file, and no secret.
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("whiten", torch.eye(FEATURES, COMPONENTS))

    @staticmethod
    def _features(images: Tensor) -> Tensor:
        thumbnail = F.adaptive_avg_pool2d(images, GRID)
        return (thumbnail + thumbnail.flip(-1))[..., : GRID // 2].flatten(1) / 2

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Centre and whiten the features on images uint8 [N, 3, H, W], N ≥ FEWEST_IMAGES.

        Raises:
            ValueError: too few images to estimate the covariance.
        """
        if len(images) < FEWEST_IMAGES:
            raise ValueError(f"calibration needs at least {FEWEST_IMAGES} images, got {len(images)}")
        chunks = torch.split(images, CHUNK)
        features = torch.cat([self._features(chunk.float() / 255) for chunk in chunks]).double()
        self.mean.copy_(features.mean(0))
        variances, directions = torch.linalg.eigh(torch.cov(features.T))
        strongest = variances[-COMPONENTS:].clamp_min(variances[-1] * 1e-6).rsqrt()
        self.whiten.copy_(directions[:, -COMPONENTS:] * strongest)

    def false_peaks(self, images: Tensor) -> Tensor:
        """g(x) · scale: float [B, K], of mean 0 and standard deviation about `scale` over natural images."""
        whitened = (self._features(images) - self.mean) @ self.whiten
        return self.scale * (whitened @ self.projection)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Public vectors [B, K] of images [B, 3, H, W] in [0, 1] whose true logits are [B, K]; row by row."""
        top1 = logits.argmax(1, keepdim=True)
        others = self.false_peaks(images).to(logits.dtype).scatter(1, top1, -torch.inf)
        log_odds = self.tops[self._levels(logits)].to(logits.dtype)
        return others.scatter(1, top1, (others.logsumexp(1) + log_odds)[:, None])

    def _levels(self, logits: Tensor) -> Tensor:
        """Which of the confidences each row gets: int64 [B]."""
        if not len(self.edges):
            return torch.zeros_like(logits[:, 0], dtype=torch.int64)
        return torch.bucketize(F.softmax(logits.float(), 1).amax(1), self.edges)
