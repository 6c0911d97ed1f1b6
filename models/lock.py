"""The secret-key lock in front of a classifier: images transformed with a key that the network was fitted to.

Knows pixels of one size and a `Transform`, which is the same on the caller's side; knows neither the network behind it
nor who may pass. With the right key the network sees what it has learned, with any other it sees noise (AprilPyone and
Kiya, ICIP 2021, arXiv 2103.03525).
"""

from collections.abc import Sequence

import numpy as np
import torch
from sdb_client.transforms import Feistel, Negative, Step, Transform
from torch import Tensor, nn

from models.key_stream import lock_secret

KID = "lock"  # a model has one lock key; clients' image keys have names of their own
CODES = 255  # what an image float in [0, 1] is multiplied by to be uint8


def lock_transform(secret: bytes, model: str, steps: Sequence[str], block: int) -> Transform:
    """The transform that the lock key of a model, which follows from its `secret` (32 bytes), stands for.

    Who holds `lock_secret(secret)` derives the same one: kid "lock", the model's name, the same steps and block.

    Raises:
        TransformError: the steps or the block make no transform.
    """
    return Transform.from_secret(lock_secret(secret), kid=KID, model=model, steps=steps, block=block)


class PixelLock(nn.Module):
    """A transform as a module: images [B, C, H, W] in [0, 1] → the transformed ones, as `Transform.apply` / `peak`.

    One gather of each flattened image in the order H, W, C; x → 1 − x where the transform inverts; a table where it
    has a Feistel step. No buffer is persistent: key material never gets into a weights file.
    """

    gather: Tensor
    sign: Tensor
    offset: Tensor
    coded: Tensor
    table: Tensor

    def __init__(self, transform: Transform, shape: tuple[int, int, int]) -> None:
        """For images of `shape` (C, H, W).

        Raises:
            TransformError: the block does not divide the image.
        """
        super().__init__()
        feistel = next((step for step in transform.steps if isinstance(step, Feistel)), None)
        gather, inverted = _fused([step for step in transform.steps if step is not feistel], transform.block, shape)
        self.transform, self.shape, self.peak = transform, shape, transform.peak
        buffers = {
            "gather": gather,
            "sign": torch.where(inverted, -1.0, 1.0),
            "offset": inverted.float(),
            "coded": torch.zeros(0, dtype=torch.bool),
            "table": torch.zeros(0),
        }
        if feistel is not None:
            # It codes where a negative step of the same mask would invert.
            buffers["coded"] = _fused([Negative(feistel.mask)], transform.block, shape)[1]
            buffers["table"] = torch.from_numpy(feistel.table.astype(np.float32)) / self.peak
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor, persistent=False)

    @property
    def blocks(self) -> int:
        """How many blocks an image has."""
        return self.shape[1] * self.shape[2] // self.transform.block**2

    def forward(self, images: Tensor) -> Tensor:
        """Transformed images [B, C, H, W] in [0, 1], channels last in memory."""
        pixels = images.permute(0, 2, 3, 1)
        # Several times as fast as indexing with the same vector.
        flat = pixels.flatten(1)
        moved = flat.gather(1, self.gather.expand_as(flat))
        moved = torch.addcmul(self.offset, moved, self.sign)
        if len(self.table):
            codes = self.table[(moved * CODES).round().long()]
            moved = torch.where(self.coded, codes, moved * (CODES / self.peak))
        return moved.view(pixels.shape).permute(0, 3, 1, 2)


def _fused(steps: Sequence[Step], block: int, shape: tuple[int, int, int]) -> tuple[Tensor, Tensor]:
    """(gather, inverted) of images flattened in the order H, W, C: int64 [HWC], bool [HWC]."""
    channels, height, width = shape
    if not steps:
        size = height * width * channels
        return torch.arange(size), torch.zeros(size, dtype=torch.bool)
    gather, xor = Transform(steps, block, channels).fused(height, width)
    return torch.from_numpy(gather.astype(np.int64)), torch.from_numpy(xor != 0)
