"""Labelled images from an image folder or from parquet, as uint8 pixels of one size.

Knows files and pixels. Two layouts, told apart by what lies at the path:

* a folder with `train/` and `test/` (or `val/`), each with one folder per class;
* parquet: `PATH_train.parquet` and `PATH_test.parquet`, or `train.parquet` and `test.parquet` in the folder `PATH`;
  columns `image` (encoded bytes) and `label` (integer), class names as JSON in the schema metadata `class_names`.
"""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from sdb_client.fitting import Pixels, fit, upright_rgb
from torch import Tensor

from models.progress import followed

__all__ = [
    "DataError",
    "LabelledImages",
    "Pixels",
    "check_classes",
    "check_same_classes",
    "fit",
    "load",
    "pixels_of",
    "upright_rgb",
]

MOST_HELD_OUT = 5000  # where nobody says how many
SHOWN_CLASSES = 10  # in a message
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp"}


class DataError(ValueError):
    """The data set is missing, empty or inconsistent; the message says where."""


@dataclass(frozen=True)
class LabelledImages:
    """Images uint8 [N, 3, H, W], labels int64 [N] and the names of the classes, all in memory."""

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def subset(self, indices: Tensor) -> "LabelledImages":
        """The images at `indices` int64 [M], in that order."""
        return LabelledImages(self.images[indices], self.labels[indices], self.classes)

    def split(self, held_out: int | None, seed: int) -> tuple["LabelledImages", "LabelledImages"]:
        """A random (rest, held out) pair; the same seed gives the same pair.

        None holds out a tenth, but no more than MOST_HELD_OUT.

        Raises:
            DataError: nothing is left on one of the two sides.
        """
        count = min(len(self) // 10, MOST_HELD_OUT) if held_out is None else held_out
        if not 0 < count < len(self):
            raise DataError(f"cannot hold {count} of {len(self)} images out")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[count:]), self.subset(order[:count])


def pixels_of(images: Tensor) -> Pixels:
    """Images uint8 [N, C, H, W] as a server is sent them: [N, H, W, C], contiguous."""
    pixels: Pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    return pixels


def check_classes(path: Path) -> None:
    """Make sure that both splits at `path` number the same classes alike.

    Raises:
        DataError: they do not, or one of them is missing.
    """
    training, test = (_listing(path, split)[0] for split in ("train", "test"))
    if training != test:
        different = ", ".join(sorted(set(training) ^ set(test))) or "their order"
        raise DataError(f"the train and test splits of {path} differ in their classes: {different}")


def check_same_classes(path: Path, found: Sequence[str], model: Sequence[str]) -> None:
    """Make sure that images at `path` number their classes as a model does.

    Raises:
        DataError: they do not; the message names what is missing and what the model does not know.
    """
    sides = {"missing": sorted(set(model) - set(found)), "unknown": sorted(set(found) - set(model))}
    told = "; ".join(f"{side}: {_some(names)}" for side, names in sides.items() if names) or "another order"
    if tuple(found) != tuple(model):
        raise DataError(f"{path} has other classes than the model ({told})")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[:SHOWN_CLASSES])
    return shown if len(names) <= SHOWN_CLASSES else f"{shown} and {len(names) - SHOWN_CLASSES} more"


def load(path: Path, split: str, height: int, width: int, *, share: float = 1.0, seed: int = 0) -> LabelledImages:
    """The "train" or "test" split at `path`, in memory, with a progress bar on a terminal.

    Of every class only this `share` in (0, 1], at least one image, which `seed` chooses; the others are not read.

    Raises:
        DataError: nothing of either layout lies there, or a picture cannot be read.
    """
    names, everything, every_label = _listing(path, split)
    chosen = _chosen(every_label, share, seed)
    sources, labels = [everything[place] for place in chosen], [every_label[place] for place in chosen]
    images = np.empty((len(sources), 3, height, width), dtype=np.uint8)
    for number, source in enumerate(followed(sources, f"reading {split} images")):
        try:
            with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
                images[number] = fit(upright_rgb(image), height, width).transpose(2, 0, 1)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{split} image {number} of {path} cannot be read: {error}") from error
    return LabelledImages(torch.from_numpy(images), torch.tensor(labels, dtype=torch.int64), names)


def _chosen(labels: list[int], share: float, seed: int) -> list[int]:
    """The places of a share of each class, ascending."""
    if share == 1:
        return list(range(len(labels)))
    draw, of_class = np.random.default_rng(seed), np.array(labels)
    places = [draw.permutation(np.flatnonzero(of_class == label)) for label in np.unique(of_class)]
    parts = [found[: max(1, round(share * len(found)))] for found in places]
    return sorted(np.concatenate(parts).tolist())


Listing = tuple[tuple[str, ...], Sequence[bytes | Path], list[int]]


def _listing(path: Path, split: str) -> Listing:
    return _parquet(path, split) or _folder(path, split)


def _parquet(path: Path, split: str) -> Listing | None:
    beside = path.with_name(f"{path.name}_{split}.parquet")
    file = beside if beside.is_file() else path / f"{split}.parquet"
    if not file.is_file():
        return None
    try:
        table = pq.read_table(file, columns=["image", "label"])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{file} cannot be read: {error}") from error
    image, label = table.column("image"), table.column("label")
    bytes_ = pa.types.is_binary(image.type) or pa.types.is_large_binary(image.type)
    if not (bytes_ and pa.types.is_integer(label.type)) or image.null_count or label.null_count:
        raise DataError(f"{file}: `image` must hold encoded images as bytes and `label` integers, in every row")
    labels: list[int] = label.to_numpy().tolist()
    if not labels:
        raise DataError(f"{file} holds no image")
    names = _names(file, table.schema.metadata or {}) or tuple(str(number) for number in range(max(labels) + 1))
    if min(labels) < 0 or max(labels) >= len(names):
        raise DataError(f"{file} has a label outside its {len(names)} classes")
    encoded: list[bytes] = image.to_numpy().tolist()
    return names, encoded, labels


def _names(file: Path, metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The classes that the metadata name; none if they do not."""
    try:
        return tuple(str(name) for name in json.loads(metadata.get(b"class_names", b"[]")))
    except (TypeError, ValueError) as error:
        raise DataError(f"{file}: `class_names` in its metadata is no JSON list of names") from error


def _folder(path: Path, split: str) -> Listing:
    candidates = [path / split] if split == "train" else [path / split, path / "val"]
    root = next((folder for folder in candidates if folder.is_dir()), None)
    if root is None:
        raise DataError(f"no {split} split at {path}: neither {path}/{split}/CLASS/… nor {path}_{split}.parquet")
    names = tuple(sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith(".")))
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(file for file in (root / name).rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        files += found
        labels += [label] * len(found)
    if not files:
        raise DataError(f"{root} holds no image")
    return names, files, labels
