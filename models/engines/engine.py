"""What an engine is: a way to run a whole box, from the pixels of a batch to its logits.

Knows shapes and types; knows no engine.
"""

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.data import Pixels
from models.guard import NETWORK, TWIN, SafeDistillationBox

Logits = NDArray[np.float32]
Rights = NDArray[np.bool_]


class Engine(Protocol):
    """Safe to call from several threads at once."""

    @property
    def name(self) -> str:
        """What settings and logs call it."""

    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> Logits:
        """Logits float32 [B, K] of pixels uint8 [B, H, W, 3], whose rows have the rights `keyed` and `unlocked` [B].

        Raises:
            torch.OutOfMemoryError: the device has no room for so many rows.
        """


class Answering(nn.Module):
    """A box behind its conversion from bytes, so that an engine can run all of it as one graph.

    One that is `watched` has a last column besides: how sure the network was (models/watch.py), which may not leave.
    """

    def __init__(self, box: SafeDistillationBox, *, watched: bool = False) -> None:
        super().__init__()
        self.box, self.watched = box, watched

    @property
    def secrets(self) -> dict[str, Tensor]:
        """The buffers that no bundle holds: what follows from the secret is among them."""
        kept = self.state_dict().keys()
        return {
            name: buffer
            for name, buffer in self.named_buffers()
            if name.replace(f"box.{TWIN}", f"box.{NETWORK}") not in kept  # of the twin, the state has only its own
        }

    @staticmethod
    def images(pixels: Tensor) -> Tensor:
        """Pixels uint8 [B, H, W, 3] → images float32 [B, 3, H, W] in [0, 1], channels last in memory."""
        return pixels.permute(0, 3, 1, 2).float() / 255

    def forward(self, pixels: Tensor, keyed: Tensor, unlocked: Tensor | None = None) -> Tensor:
        """Logits float32 [B, K], watched [B, K + 1], of pixels uint8 [B, H, W, 3]."""
        images = self.images(pixels)
        return self.released(images, self.box.with_key(images, unlocked), keyed)

    def released(self, images: Tensor, logits: Tensor, keyed: Tensor) -> Tensor:
        """The same of the keyed pass's logits [B, K]."""
        answer = self.box.released(images, logits, keyed).float()
        return torch.cat([answer, log_odds(logits.float())], 1) if self.watched else answer


def log_odds(logits: Tensor) -> Tensor:
    """Of the top-1 of logits [B, K]: ln p/(1−p), [B, 1]."""
    first, top = logits.max(1, keepdim=True)
    return first - logits.scatter(1, top, -torch.inf).logsumexp(1, keepdim=True)


def as_tensor(array: Pixels | Rights) -> Tensor:
    """The array as a tensor, without a copy where torch may write to it: it knows no read-only memory."""
    return torch.from_numpy(array if array.flags.writeable else array.copy())
