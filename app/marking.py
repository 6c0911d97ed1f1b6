"""The mark of a key on the answers it is given: which mark, since when, and the arithmetic off the event loop.

Knows callers and arrays; how a mark is made is in models/tracing/mark.py, what it is derived from in keys/tracing.py.
"""

import asyncio
from collections import OrderedDict

import anyio
import anyio.to_thread
import numpy as np

from keys.records import Caller, KeyRecord
from keys.tracing import TracingService
from models.bundles import Manifest
from models.data import Pixels
from models.engines.engine import Logits
from models.tracing.mark import FEWEST_CLASSES, Mark

KEPT = 4096  # marks, of about 2 KB each
INLINE = 2**18  # numbers of pixels that are marked sooner than handed over
CHUNK = 2**22  # and that are widened to float32 at once
Name = tuple[str, str, int]


class Marking:
    """One per process; safe for concurrent requests. `workers` is shared with whatever else leaves the event loop."""

    def __init__(self, tracing: TracingService, workers: anyio.CapacityLimiter) -> None:
        self._tracing, self._workers = tracing, workers
        self._marks: OrderedDict[Name, Mark] = OrderedDict()
        self._deriving = asyncio.Lock()

    async def marked(self, caller: Caller, manifest: Manifest, pixels: Pixels, logits: Logits) -> Logits:
        """Logits float32 [N, K] of pixels uint8 [N, H, W, 3] with the caller's mark; those that came if it has none.

        The first answer under a mark waits until the audit log says so.

        Raises:
            StoreUnavailable: it cannot be said, or the secret that marks are derived from cannot be had.
        """
        key = caller.key
        if key is None or not key.mark or len(manifest.classes) < FEWEST_CLASSES:
            return logits
        mark = await self._mark(key, caller, manifest)
        if pixels.size <= INLINE:
            return mark.apply(pixels, logits, key.mark)
        return await anyio.to_thread.run_sync(_in_chunks, mark, pixels, logits, key.mark, limiter=self._workers)

    async def _mark(self, key: KeyRecord, caller: Caller, manifest: Manifest) -> Mark:
        generation = await self._tracing.newest()
        name = (key.id, manifest.name, generation.number)
        if name not in self._marks:
            async with self._deriving:  # requests that are first together begin it once
                if name not in self._marks:
                    await self._tracing.begin(key, manifest.name, generation.number, caller.origin)
                    self._keep(name, Mark.derive(generation.of(manifest.name), key.id, len(manifest.classes)))
        self._marks.move_to_end(name)
        return self._marks[name]

    def _keep(self, name: Name, mark: Mark) -> None:
        self._marks[name] = mark
        if len(self._marks) > KEPT:
            self._marks.popitem(last=False)


def _in_chunks(mark: Mark, pixels: Pixels, logits: Logits, strength: float) -> Logits:
    rows = max(1, CHUNK // pixels[0].size)
    parts = range(0, len(pixels), rows)
    return np.concatenate([mark.apply(pixels[at : at + rows], logits[at : at + rows], strength) for at in parts])
