"""The engine of CUDA: the network in bfloat16, each size of batch recorded once and replayed as one graph.

Knows streams, graphs and page-locked memory. The release stage stays in float32. A batch is padded to the next size
that was recorded: the rows of padding cost what they cost, a launch of every single kernel costs more.
"""

import queue

import numpy as np
import torch
from torch import Tensor

from models.bundles import InputSpec
from models.data import Pixels
from models.engines.engine import Answering, Logits, Rights, as_tensor

LANES = 2  # one copies its batch in while the other computes
WARM_UP = 3  # runs before a recording, in which libraries choose their algorithms (torch's notes on CUDA graphs)


class CudaGraphs:
    """Runs a box that lies on the CUDA `device`, in batches of up to `most` rows; larger ones in parts."""

    name = "graphs"

    def __init__(self, answering: Answering, spec: InputSpec, device: torch.device, most: int) -> None:
        sizes = [2**power for power in range((most - 1).bit_length() + 1)]
        self._most, self._lanes = sizes[-1], queue.SimpleQueue[_Lane]()
        for _ in range(LANES):
            self._lanes.put(_Lane(answering, spec, device, sizes))

    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> Logits:
        """As `Engine`; a caller beyond the lanes waits for one."""
        lane = self._lanes.get()
        try:
            parts = [slice(first, first + self._most) for first in range(0, len(pixels), self._most)]
            answers = [lane(pixels[part], keyed[part], unlocked[part]) for part in parts]
        finally:
            self._lanes.put(lane)
        logits: Logits = np.concatenate(answers)
        return logits


class _Lane:
    """A stream with recordings of its own, which share their memory: they never run at the same time."""

    def __init__(self, answering: Answering, spec: InputSpec, device: torch.device, sizes: list[int]) -> None:
        largest_first = sorted(sizes, reverse=True)  # the smaller ones then fit into what the largest has taken
        with torch.cuda.device(device):
            stream, pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
            # Sizes are few and stay: let cuDNN try its algorithms once for each, before it is recorded.
            with torch.backends.cudnn.flags(enabled=True, benchmark=True):
                self._recorded = {size: _Recorded(answering, spec, size, stream, pool) for size in largest_first}

    def __call__(self, pixels: Pixels, keyed: Rights, unlocked: Rights) -> Logits:
        size = min(size for size in self._recorded if size >= len(pixels))
        logits: Logits = self._recorded[size](pixels, keyed, unlocked)
        return logits


class _Recorded:
    """One size of batch: page-locked memory, its twin on the device, and the graph in between."""

    @torch.inference_mode()
    def __init__(
        self, answering: Answering, spec: InputSpec, size: int, stream: torch.cuda.Stream, pool: object
    ) -> None:
        self._stream, self._graph = stream, torch.cuda.CUDAGraph()
        right = torch.zeros(size, dtype=torch.bool)
        blank = torch.zeros(size, spec.height, spec.width, 3, dtype=torch.uint8)
        self._given = [tensor.pin_memory() for tensor in (blank, right, right)]
        self._there = [tensor.to(stream.device) for tensor in self._given]
        stream.wait_stream(torch.cuda.current_stream(stream.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                _reduced(answering, *self._there)
        stream.synchronize()
        # torch keeps the type of a pool to itself.
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):  # type: ignore[arg-type]
            self._answer = _reduced(answering, *self._there)
        self._logits = torch.empty(self._answer.shape, dtype=torch.float32, pin_memory=True)

    @torch.inference_mode()
    def __call__(self, *arguments: Pixels | Rights) -> Logits:
        rows = len(arguments[0])
        for given, array in zip(self._given, arguments, strict=True):
            given[:rows].copy_(as_tensor(array))
        with torch.cuda.stream(self._stream):
            for there, given in zip(self._there, self._given, strict=True):
                there[:rows].copy_(given[:rows], non_blocking=True)
            self._graph.replay()
            self._logits[:rows].copy_(self._answer[:rows], non_blocking=True)
        self._stream.synchronize()
        logits: Logits = self._logits[:rows].numpy().copy()  # the next batch overwrites these
        return logits


def _reduced(answering: Answering, pixels: Tensor, keyed: Tensor, unlocked: Tensor) -> Tensor:
    """As `Answering`, the network in bfloat16 where autocast thinks it safe."""
    images = answering.images(pixels)
    # Without its cache: the casts of the weights belong into the recording.
    with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
        logits = answering.box.with_key(images, unlocked)
    return answering.released(images, logits.float(), keyed)
