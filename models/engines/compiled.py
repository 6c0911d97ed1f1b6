"""The engine of torch's own compiler: the network as generated code.

Knows that compiling takes a compiler and up to a minute, which is why only an owner who asks gets it. The network alone
is compiled: what the compiler makes stays in its cache on disk, and neither κ nor the release stage may. Nor may a
normalisation that the bundle seals, so weights are folded into the code only where there is none.
"""

import copy
import threading

import torch

from models.data import Pixels
from models.engines.eager import Eager
from models.engines.engine import Answering, Logits, Rights


class Compiled:
    """Runs a box whose network is compiled once for batches of any size."""

    name = "compile"

    def __init__(self, answering: Answering, device: torch.device) -> None:
        compiled = copy.deepcopy(answering)
        folded = device.type == "cpu" and compiled.box.twin is None
        compiled.box.keyed_network.compile(dynamic=True, options={"freezing": folded})
        self._engine, self._compiling = Eager(compiled, device), threading.Lock()

    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> Logits:
        """As `Engine`, one batch at a time: a size of another kind may have to be compiled first."""
        with self._compiling:
            return self._engine(pixels, keyed, unlocked)
