"""`SoftLabels`: a data set of numbered images, and what a model says of each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset, TensorDataset

from sdb_client.soft_labels.cache import UNKNOWN
from sdb_client.soft_labels.errors import NotFetched
from sdb_client.soft_labels.export import Labelling
from sdb_client.soft_labels.labelled import Labelled, Sample
from sdb_client.soft_labels.labeller import key_of
from sdb_client.soft_labels.pixels import like
from sdb_client.views import Pixels, seen


class SoftLabels(Labelled[Dataset[Any] | Sequence[tuple[Any, Any]]], Dataset[Sample]):
    """A map-style data set of (image, label, soft label): item i·V+v is view v of image i.

    `dataset` yields (image, label), the same image each time: a PIL image, an array uint8 [H, W, 3], or a tensor
    [3, H, W] of uint8 or in [0, 1]. The model is shown the image at its input's size. View 0 is the image; with
    `views` > 1 the others are crops and mirrors of it that are a function of its pixels, each with a soft label of its
    own, and the student gets exactly what the model was shown. `transform` is applied to the image when its soft label
    is known: augmentation and normalisation belong there.

    The soft label is float32 [K]: logits, or with a `temperature` the probabilities at it. `store` says how labels are
    kept: "float32", "float16", or "top16" (any number), which needs the `temperature`. The `cache` folder keeps them by
    the SHA-256 of the pixels and the model's version, for all runs and data sets of one server.

    Call `fetch` before using it. Where the budget did not suffice, the data set is as long as it has soft labels.

    Raises:
        NoSoftLabels: the client's key has no scope `distill`.
        OtherCache: the cache holds labels in another form.
        ValueError: the data set has `classes`, and numbers them unlike the model.
        TypeError: the images have no numbers; `SoftLabelStream` is for them.
    """

    _places: NDArray[np.int64] | None = None  # of the views that have a soft label
    _rows: NDArray[np.int64]  # of their records

    def __len__(self) -> int:
        return len(self._labelled())

    def __getitem__(self, number: int) -> Sample:
        return self.__getitems__([number])[0]

    def __getitems__(self, numbers: Sequence[int]) -> list[Sample]:
        """Several items at once: DataLoader asks so."""
        places = self._labelled()[list(numbers)]
        soft, images = self.soft_labels(self._rows[places]).unbind(), self._images(places)
        if self._transform is None:
            return [(image, label, said) for (image, label), said in zip(images, soft, strict=True)]
        transform = self._transform
        return [(transform(image), label, said) for (image, label), said in zip(images, soft, strict=True)]

    def _images(self, places: NDArray[np.int64]) -> list[tuple[Any, Any]]:
        """What the student is shown at these places, and the labels."""
        indices: list[int] = (places // self.views).tolist()
        items = _items(self._base, indices)
        if self.views == 1:
            return [item[:2] for item in items]
        views = (places % self.views).tolist()
        return [(self._seen(item[0], view), item[1]) for item, view in zip(items, views, strict=True)]

    def _seen(self, image: object, view: int) -> Any:  # noqa: ANN401
        pixels = self._fitted(image)
        return like(seen([pixels], 0, self._views(pixels)[view]), image)

    def _labellings(self) -> Iterator[Labelling]:
        for place in self._labelled().tolist():
            index, view = divmod(place, self.views)
            image, label = self._base[index][:2]
            pixels = self._shown(self._fitted(image))[view]
            soft = self.soft_labels(self._rows[[place]])[0]
            yield Labelling(pixels, int(label), soft.numpy(), key_of(pixels))

    def _labelled(self) -> NDArray[np.int64]:
        if self._places is None:
            raise NotFetched("call fetch() first")
        return self._places

    def _drawn(self) -> Iterator[list[Pixels]]:
        return (self._shown(self._fitted(self._base[index][0])) for index in range(len(self._base)))

    def _pictures(self, places: NDArray[np.int64]) -> Iterator[Pixels]:
        read, shown = -1, list[Pixels]()
        for place in places.tolist():
            index, view = divmod(place, self.views)
            if index != read:
                read, shown = index, self._shown(self._fitted(self._base[index][0]))
            yield shown[view]

    def _resolve(self, keys: list[bytes], rows: NDArray[np.int64]) -> None:
        del keys  # numbers are enough
        self._rows, self._places = rows, np.flatnonzero(rows != UNKNOWN)


def _items(dataset: Any, indices: list[int]) -> Iterable[Any]:  # noqa: ANN401 - of any kind
    """Several items of a data set, in the fastest way that it has."""
    if hasattr(dataset, "__getitems__"):
        several: Iterable[Any] = dataset.__getitems__(indices)
        return several
    if type(dataset) is TensorDataset:  # whose own way, item by item, costs more than soft labels do
        chosen = torch.tensor(indices)
        images, labels = (tensor.index_select(0, chosen) for tensor in dataset.tensors[:2])
        return zip(images.unbind(), labels.tolist(), strict=True)
    return map(dataset.__getitem__, indices)
