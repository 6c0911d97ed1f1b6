"""An engine whose device may be short of memory: a batch that does not fit is answered in halves.

Knows that rows do not depend on each other; remembers nothing, for what took the memory may have left.
"""

import numpy as np
import torch

from models.data import Pixels
from models.engines.engine import Engine, Logits, Rights


class Halving:
    """`engine`, but what it raises `torch.OutOfMemoryError` for is tried again in two parts."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self.name = engine, engine.name

    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> Logits:
        """As `Engine`.

        Raises:
            torch.OutOfMemoryError: not even one row fits.
        """
        try:
            return self._engine(pixels, keyed, unlocked)
        except torch.OutOfMemoryError:
            if len(pixels) == 1:
                raise
        # Outside of the handler: the exception's frames hold the tensors that did not leave enough room.
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()
        middle = len(pixels) // 2
        halves = (slice(None, middle), slice(middle, None))
        return np.concatenate([self(pixels[half], keyed[half], unlocked[half]) for half in halves])
