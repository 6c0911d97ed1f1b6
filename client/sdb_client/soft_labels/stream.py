"""`SoftLabelStream`: a data set of images that stream by, and what a model says of each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from sdb_client.soft_labels.cache import UNKNOWN
from sdb_client.soft_labels.errors import NotFetched
from sdb_client.soft_labels.export import Labelling
from sdb_client.soft_labels.labelled import Labelled, Sample
from sdb_client.soft_labels.labeller import key_of
from sdb_client.soft_labels.pixels import like
from sdb_client.views import Pixels


class SoftLabelStream(Labelled[IterableDataset[Any]], IterableDataset[Sample]):
    """An iterable data set of (image, label, soft label), otherwise like `SoftLabels`.

    `dataset` yields (image, label), comes to an end and can be gone through again: `fetch` goes through it twice. How
    its images are shared out among the workers of a DataLoader is its own business. Images come with all their views,
    one after the other; those without a soft label are left out.
    """

    _row_of: dict[bytes, int] | None = None

    def __iter__(self) -> Iterator[Sample]:
        for image, label, pixels, row in self._found():
            view = image if self.views == 1 else like(pixels, image)
            shown = view if self._transform is None else self._transform(view)
            yield shown, label, self.soft_labels(np.array([row]))[0]

    def _labellings(self) -> Iterator[Labelling]:
        for _, label, pixels, row in self._found():
            yield Labelling(pixels, int(label), self.soft_labels(np.array([row]))[0].numpy(), key_of(pixels))

    def _found(self) -> Iterator[tuple[Any, Any, Pixels, int]]:
        """Image, label, what the model was shown and the row of its record, of all that have one."""
        if self._row_of is None:
            raise NotFetched("call fetch() first")
        for image, label, *_ in self._base:
            for pixels in self._shown(self._fitted(image)):
                row = self._row_of.get(key_of(pixels))
                if row is not None:
                    yield image, label, pixels, row

    def _drawn(self) -> Iterator[list[Pixels]]:
        return (self._shown(self._fitted(item[0])) for item in self._base)

    def _pictures(self, places: NDArray[np.int64]) -> Iterator[Pixels]:
        wanted = set(places.tolist())
        every = (pixels for shown in self._drawn() for pixels in shown)
        return (pixels for place, pixels in enumerate(every) if place in wanted)

    def _resolve(self, keys: list[bytes], rows: NDArray[np.int64]) -> None:
        self._row_of = {key: int(row) for key, row in zip(keys, rows, strict=True) if row != UNKNOWN}
