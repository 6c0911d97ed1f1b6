"""The engine that is always there and that the others are held against: torch, layer by layer.

Knows the device; float32 throughout.
"""

import torch

from models.data import Pixels
from models.engines.engine import Answering, Logits, Rights, as_tensor


class Eager:
    """Runs a box that lies on `device`."""

    name = "eager"

    def __init__(self, answering: Answering, device: torch.device) -> None:
        self._answering, self._device = answering, device

    @torch.inference_mode()
    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> Logits:
        """As `Engine`."""
        arguments = (as_tensor(array).to(self._device) for array in (pixels, keyed, unlocked))
        logits: Logits = self._answering(*arguments).cpu().numpy()
        return logits
