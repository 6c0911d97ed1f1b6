"""What a data set with soft labels can do whether its images are numbered or stream by: estimate, fetch, verify.

Knows pixels, the cache and the client; what an item looks like is its subclasses' business.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from urllib.parse import quote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from sdb_client.errors import QuotaExceeded
from sdb_client.progress import Bar, bar
from sdb_client.soft_labels import export
from sdb_client.soft_labels.cache import UNKNOWN, LabelCache
from sdb_client.soft_labels.errors import BudgetSpent, NoSoftLabels, NotFetched
from sdb_client.soft_labels.estimate import Estimate
from sdb_client.soft_labels.formats import format_of
from sdb_client.soft_labels.journal import Journal
from sdb_client.soft_labels.labeller import Labeller, key_of
from sdb_client.soft_labels.pixels import fitted, pixels_of
from sdb_client.views import MAX_VIEWS, Pixels, View, draw_views, seen

if TYPE_CHECKING:
    from sdb_client.client import Client

Source = TypeVar("Source")
Sample = tuple[Any, Any, Tensor]
"""An image, its label, and the soft label float32 [K]."""


class Labelled(ABC, Generic[Source]):
    """The images of a data set, `views` of each, and their soft labels in a cache.

    `temperature` None: the soft labels are logits; otherwise probabilities at that temperature.
    """

    def __init__(
        self,
        dataset: Source,
        client: Client,
        *,
        model: str,
        cache: str | os.PathLike[str],
        temperature: float | None = None,
        views: int = 1,
        store: str = "float32",
        transform: Callable[[Any], Any] | None = None,
        batch_size: int = 128,
        concurrency: int = 4,
    ) -> None:
        if isinstance(dataset, IterableDataset) and not isinstance(self, IterableDataset):
            raise TypeError("images that stream by have no numbers: use SoftLabelStream")
        if not 1 <= views <= MAX_VIEWS or batch_size < 1 or concurrency < 1:
            raise ValueError(f"views are 1 to {MAX_VIEWS}; batch_size and concurrency are at least 1")
        card = client.models.get(model)
        if "distill" not in card.tiers:
            raise NoSoftLabels(f"the key has no scope distill for {card.name}")
        _check_classes(dataset, card.classes)
        self._base: Any = dataset
        self._transform = transform
        self.model, self.version, self.classes = card.name, card.version, card.classes
        self.temperature, self.views, self.store = temperature, views, store
        self._size = (card.input.height, card.input.width)
        self._format = format_of(store, len(card.classes), temperature)
        folder = Path(cache) / f"{quote(card.name, safe='')}@{quote(card.version, safe='')}"
        self._cache = LabelCache(folder, self._about(), self._format.record_bytes)
        self._client: Client | None = client
        self._labeller: Labeller | None = Labeller(
            client,
            card,
            self._cache,
            Journal(folder / "batches"),
            self._format,
            batch_size=batch_size,
            concurrency=concurrency,
        )
        self._keys: list[bytes] | None = None
        self._mapped: NDArray[np.uint8] | None = None

    def _about(self) -> dict[str, object]:
        """What the records of the cache are: of which model, in which form."""
        about: dict[str, object] = {"model": self.model, "version": self.version, "classes": list(self.classes)}
        sparse = {"temperature": self.temperature} if self.store.startswith("top") else {}
        return {**about, "input": list(self._size), "store": self.store, **sparse}

    @abstractmethod
    def _drawn(self) -> Iterator[list[Pixels]]:
        """What the views of each image of the data set show."""

    @abstractmethod
    def _pictures(self, places: NDArray[np.int64]) -> Iterable[Pixels]:
        """What the views number `places` int64 [M] of the data set show, ascending."""

    @abstractmethod
    def _resolve(self, keys: list[bytes], rows: NDArray[np.int64]) -> None:
        """Remember which record each view has, UNKNOWN for none: rows int64 [N], in the order of `_drawn`."""

    def estimate(self) -> Estimate:
        """What `fetch` would cost now, and whether the key can pay; reads every image once and asks for none."""
        keys = self._known_keys()
        unique = list(dict.fromkeys(keys))
        cached = int((self._cache.rows(unique) != UNKNOWN).sum())
        return Estimate(len(keys), len(keys) - len(unique), cached, self._remaining())

    def fetch(self, bar: Bar = bar) -> None:
        """Get the soft labels that the cache lacks; afterwards the data set is ready, and asks nobody any more.

        Only one process fetches into a cache at a time, others wait here. Whatever stops it, the next call goes on from
        there, and no image is paid for twice.

        Raises:
            BudgetSpent: the key cannot pay for all; the data set offers what it has.
            SdbError: the server refuses, or does not answer.
        """
        keys = self._known_keys()
        if self._labeller is None:
            raise NotFetched("fetch in the process that made the data set, before its workers start")
        with self._cache.writing():
            try:
                self._labeller.finish()
                rows = self._cache.rows(keys)
                first = {key: place for place, key in reversed(list(enumerate(keys))) if rows[place] == UNKNOWN}
                missing = np.array(sorted(first.values()), dtype=np.int64)
                if len(missing):
                    with bar("soft labels", len(missing)) as told:
                        self._labeller.label(self._pictures(missing[: self._remaining()]), told)
            except QuotaExceeded:
                pass  # somebody else spends it too
            finally:
                rows = self._cache.rows(keys)
                self._mapped = None
                self._resolve(keys, rows)
        labelled = int((rows != UNKNOWN).sum())
        if labelled < len(keys):
            raise BudgetSpent(labelled, len(keys))

    def verify(self) -> int:
        """Compare every record of the cache with its hash; how many there are.

        Raises:
            DamagedCache: some are not what was written.
        """
        return self._cache.verify()

    def to_parquet(self, path: str | os.PathLike[str]) -> int:
        """Write everything that has a soft label to one parquet file (`export.to_parquet`); how many rows."""
        return export.to_parquet(Path(path), self._labellings(), self.about)

    def to_webdataset(self, folder: str | os.PathLike[str], *, shard: int = 10_000) -> list[Path]:
        """Write everything that has a soft label to tar shards (`export.to_webdataset`); the shards."""
        return export.to_webdataset(Path(folder), self._labellings(), self.about, shard=shard)

    @property
    def about(self) -> dict[str, object]:
        """What the soft labels are: whose, of which version, at which temperature (None: logits)."""
        return {**self._about(), "temperature": self.temperature, "views": self.views}

    @abstractmethod
    def _labellings(self) -> Iterator[export.Labelling]:
        """Everything that has a soft label, as the model was shown it."""

    def soft_labels(self, rows: NDArray[np.int64]) -> Tensor:
        """The soft labels float32 [B, K] in these rows of the cache: logits, or probabilities at the temperature."""
        if self._mapped is None:
            self._mapped = self._cache.mapped()
        logits = torch.from_numpy(self._format.decode(self._mapped[rows]))
        if self.temperature is None:
            return logits
        return (logits.double() / self.temperature).softmax(1).float()

    def _known_keys(self) -> list[bytes]:
        """The key of every view, after the first call without another look at the images."""
        if self._keys is None:
            self._keys = [key_of(pixels) for shown in self._drawn() for pixels in shown]
        return self._keys

    def _remaining(self) -> int | None:
        """What the key has left; None is unlimited."""
        if self._client is None:
            raise NotFetched("only the process that made the data set speaks to the server")
        budget = self._client.me().budget
        return None if budget is None else budget.remaining

    def _fitted(self, image: object) -> Pixels:
        """An image of the data set as the model is shown it."""
        return fitted(pixels_of(image), *self._size)

    def _views(self, pixels: Pixels) -> list[View]:
        return draw_views([pixels], 0, self.views, 0.0)

    def _shown(self, pixels: Pixels) -> list[Pixels]:
        return [seen([pixels], 0, view) for view in self._views(pixels)]

    def __getstate__(self) -> dict[str, Any]:
        """What a worker of a DataLoader gets: the cache to read from, and nobody to ask."""
        return {**self.__dict__, "_client": None, "_labeller": None, "_mapped": None, "_keys": None}


def _check_classes(images: object, classes: tuple[str, ...]) -> None:
    """A student would learn soft labels and labels that contradict each other, and nobody would see why.

    Raises:
        ValueError: the data set says what its classes are (`classes`, as torchvision's do), and numbers them otherwise.
    """
    own = tuple(getattr(images, "classes", classes))
    if len(own) != len(classes) or (set(own) == set(classes) and own != classes):
        raise ValueError(f"the data set numbers its classes {', '.join(own)}; the model {', '.join(classes)}")
