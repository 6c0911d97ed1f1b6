"""What leaves the house for everybody: the true top-1 on top of a secret smooth function of the image.

Knows logits and pixels; knows neither the network that made the logits nor who asked. Apart from the top-1 nothing
of the network's output reaches the public vector, so no inversion of this stage can recover the dark knowledge: it
is not there. The false peaks are a *smooth* function of the image because a student can then learn them, and wastes
its capacity on them; independent noise would average out.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.key_stream import key_normal

VIEW_PIXELS = 16  # the secret function sees the image at this size, so its cost does not grow with the image's
CHANNELS = (3, 32, 64, 64)
FEATURES = CHANNELS[-1] * 4
COMPONENTS = 32
FEWEST_IMAGES = FEATURES  # fewer cannot show the covariance of as many features
CHUNK = 512


class Release(nn.Module):
    """The public vector of each row: `scale` · g(x), with the true top-1 raised `margin` above the highest.

    g is a random three-layer convolutional network whose weights are expanded from the secret; its features are
    whitened by statistics of natural images (`calibrate`) and rotated to the classes, so that every class is about
    equally often the false peak. Idea and first measurement: the project's probe of 21 November 2026, "release stage".
    """

    mean: Tensor
    whiten: Tensor
    projection: Tensor

    def __init__(self, secret: bytes, num_classes: int, *, margin: float = 0.3, scale: float = 6.0) -> None:
        super().__init__()
        if num_classes < 2:
            raise ValueError("a classifier has at least two classes")
        self.margin, self.scale = margin, scale
        for layer, (inputs, outputs) in enumerate(pairwise(CHANNELS)):
            weights = key_normal(secret, f"release/conv{layer}", (outputs, inputs, 3, 3)) / (9 * inputs) ** 0.5
            self.register_buffer(f"conv{layer}", weights, persistent=False)
        projection = key_normal(secret, f"release/projection/{num_classes}", (COMPONENTS, num_classes))
        self.register_buffer("projection", projection / COMPONENTS**0.5, persistent=False)
        # Statistics of the calibration images: part of the weights file, useless without the secret.
        self.register_buffer("mean", torch.zeros(FEATURES))
        self.register_buffer("whiten", torch.eye(FEATURES, COMPONENTS))

    def _features(self, images: Tensor) -> Tensor:
        hidden = F.adaptive_avg_pool2d(images, VIEW_PIXELS) - 0.5
        for layer, stride in enumerate((1, 2, 2)):
            hidden = F.relu(F.conv2d(hidden, self.get_buffer(f"conv{layer}"), stride=stride, padding=1))
        return F.adaptive_avg_pool2d(hidden, 2).flatten(1)

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Centre and whiten the secret features on images uint8 [N, 3, H, W], N ≥ FEWEST_IMAGES.

        Raises:
            ValueError: too few images to estimate the covariance.
        """
        if len(images) < FEWEST_IMAGES:
            raise ValueError(f"calibration needs at least {FEWEST_IMAGES} images, got {len(images)}")
        chunks = torch.split(images, CHUNK)
        features = torch.cat([self._features(chunk.float() / 255) for chunk in chunks]).double()
        self.mean.copy_(features.mean(0))
        variances, directions = torch.linalg.eigh(torch.cov(features.T))
        top = variances[-COMPONENTS:].clamp_min(variances[-1] * 1e-6).rsqrt()
        self.whiten.copy_(directions[:, -COMPONENTS:] * top)

    def false_peaks(self, images: Tensor) -> Tensor:
        """g(x) · scale: float [B, K], of mean 0 and standard deviation about `scale` over natural images."""
        whitened = (self._features(images) - self.mean) @ self.whiten
        return self.scale * (whitened @ self.projection)

    def forward(self, images: Tensor, logits: Tensor) -> Tensor:
        """Public vectors [B, K] of images [B, 3, H, W] in [0, 1] whose true logits are [B, K]; row by row."""
        public = self.false_peaks(images).to(logits.dtype)
        top1 = logits.argmax(1, keepdim=True)
        highest_other = public.scatter(1, top1, -torch.inf).amax(1, keepdim=True)
        return public.scatter(1, top1, highest_other + self.margin)
