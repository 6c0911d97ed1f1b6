"""Gets the soft labels that a cache lacks: in batches, several at a time, each image paid for once.

Knows the client, the cache and the journal; knows pixels, and no data set.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sdb_client.errors import APIError, QuotaExceeded, SdbError
from sdb_client.soft_labels.cache import LabelCache
from sdb_client.soft_labels.errors import NoSoftLabels
from sdb_client.soft_labels.formats import Format
from sdb_client.soft_labels.journal import Journal
from sdb_client.views import Pixels

if TYPE_CHECKING:
    from sdb_client.answers.models import ModelCard
    from sdb_client.client import Client

Logits = NDArray[np.float32] | NDArray[np.float16]
Told = Callable[[int], object]
RETRIES = 6  # of one request: a server may be away for half a minute
PATIENCE_S = 600.0  # a rate limit that asks for a longer pause is for the caller to judge
NEVER = frozenset({400, 413, 415, 422})  # statuses of what is refused however often it is sent


def key_of(pixels: Pixels) -> bytes:
    """The name of an image among those of its size: SHA-256 of its pixels uint8 [H, W, 3]."""
    return hashlib.sha256(np.ascontiguousarray(pixels).data).digest()


class Labeller:
    """One model, asked with one key, for one cache. Only the process that holds `cache.writing()` may use it."""

    def __init__(
        self,
        client: Client,
        card: ModelCard,
        cache: LabelCache,
        journal: Journal,
        stored: Format,
        *,
        batch_size: int,
        concurrency: int,
    ) -> None:
        self._client, self._card = client.with_options(max_retries=RETRIES), card
        self._cache, self._journal, self._stored = cache, journal, stored
        self._batch_size, self._concurrency = batch_size, concurrency
        self._stopping = threading.Event()

    def finish(self) -> None:
        """Send again, under their old names, the batches of somebody who was stopped.

        Raises:
            SdbError: the server refuses, or does not answer.
        """
        for name, images in self._journal.unfinished():
            keys = [key_of(image) for image in images]
            if (self._cache.rows(keys) < 0).any():
                with suppress(QuotaExceeded):  # so it was not paid for, and its images are asked for anew
                    self._settled(name, keys, partial(self._ask, name, images))
            self._journal.end(name)

    def label(self, pictures: Iterable[Pixels], told: Told) -> None:
        """Ask for the soft labels of pictures uint8 [H, W, 3] of one size, and store them as they arrive.

        Whatever stops it, what was answered until then is stored.

        Raises:
            QuotaExceeded: the budget is spent.
            NoSoftLabels: the key has lost its scope.
            SdbError: any other refusal, or no answer.
        """
        self._stopping.clear()
        source, running = iter(pictures), dict[Future[Logits], tuple[str, list[bytes]]]()
        with ThreadPoolExecutor(self._concurrency, "soft labels") as pool:
            try:
                while batch := list(islice(source, self._batch_size)):
                    images = np.stack(batch)
                    name = self._journal.begin(images)
                    running[pool.submit(self._ask, name, images)] = name, [key_of(image) for image in images]
                    if len(running) > self._concurrency:
                        self._collect(running, told)
                while running:
                    self._collect(running, told)
            except BaseException:
                self._stopping.set()
                self._salvage(running)
                raise

    def _collect(self, running: dict[Future[Logits], tuple[str, list[bytes]]], told: Told) -> None:
        """Store what has arrived, and wait until something has."""
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            name, keys = running.pop(future)
            self._settled(name, keys, future.result)
            told(len(keys))

    def _salvage(self, running: dict[Future[Logits], tuple[str, list[bytes]]]) -> None:
        """Store what still arrives of the requests that were sent; those that were not stay in the journal."""
        for future, (name, keys) in running.items():
            if future.cancel():
                self._journal.end(name)
            else:
                with suppress(SdbError):  # the first failure is the one that is told
                    self._settled(name, keys, future.result)

    def _settled(self, name: str, keys: list[bytes], answer: Callable[[], Logits]) -> None:
        """Store an answer, and cross the batch out once it is stored, or cannot ever be.

        After any other failure it stays: it may have been paid for by somebody who was stopped, and costs nothing more.
        """
        try:
            self._cache.put(keys, self._stored.encode(answer()))
        except APIError as refusal:
            if refusal.status in NEVER or isinstance(refusal, QuotaExceeded):
                self._journal.end(name)
            raise
        self._journal.end(name)

    def _ask(self, name: str, images: Pixels) -> Logits:
        """Logits [N, K] of one batch; a server that is busy is asked again when it says so."""
        while True:
            try:
                answer = self._client.infer(
                    self._card.name,
                    images,
                    outputs=("logits",),
                    dtype=self._stored.precision,
                    version=self._card.version,
                    idempotency_key=name,
                )
            except QuotaExceeded:
                raise
            except APIError as refusal:
                if refusal.retry_after is None or refusal.retry_after > PATIENCE_S:
                    raise
                if self._stopping.wait(refusal.retry_after):
                    raise
                continue
            if answer.tier != "distill":
                raise NoSoftLabels(f"the key has no scope distill for {self._card.name}")
            return answer.logits
