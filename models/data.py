"""Labelled images from an image folder or from parquet, as uint8 pixels of one size.

Knows files and pixels. Two layouts, told apart by what lies at the path:

* a folder with `train/` and `test/` (or `val/`), each with one folder per class;
* parquet: `PATH_train.parquet` and `PATH_test.parquet`, or `train.parquet` and `test.parquet` in the folder `PATH`;
  columns `image` (encoded bytes) and `label` (integer), class names as JSON in the schema metadata `class_names`.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from rich.console import Console
from rich.progress import track
from sdb_client.fitting import Pixels, fit, upright_rgb
from torch import Tensor

__all__ = ["DataError", "LabelledImages", "Pixels", "check_classes", "fit", "load", "upright_rgb"]

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

    def split(self, held_out: int, seed: int) -> tuple["LabelledImages", "LabelledImages"]:
        """A random (rest, held out) pair; the same seed gives the same pair."""
        if not 0 < held_out < len(self):
            raise DataError(f"cannot hold {held_out} of {len(self)} images out")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        return self.subset(order[held_out:]), self.subset(order[:held_out])


def check_classes(path: Path) -> None:
    """Make sure that both splits at `path` number the same classes alike.

    Raises:
        DataError: they do not, or one of them is missing.
    """
    training, test = (_listing(path, split)[0] for split in ("train", "test"))
    if training != test:
        different = ", ".join(sorted(set(training) ^ set(test))) or "their order"
        raise DataError(f"the train and test splits of {path} differ in their classes: {different}")


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
    console = Console(stderr=True)
    for number, source in enumerate(track(sources, f"reading {split} images", console=console, transient=True)):
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
    metadata = table.schema.metadata or {}
    labels: list[int] = table.column("label").to_numpy().tolist()
    if not labels:
        raise DataError(f"{file} holds no image")
    if b"class_names" in metadata:
        names = tuple(str(name) for name in json.loads(metadata[b"class_names"]))
    else:
        names = tuple(str(number) for number in range(max(labels) + 1))
    if min(labels) < 0 or max(labels) >= len(names):
        raise DataError(f"{file} has a label outside its {len(names)} classes")
    encoded: list[bytes] = table.column("image").to_numpy().tolist()
    return names, encoded, labels


def _folder(path: Path, split: str) -> Listing:
    candidates = [path / split] if split == "train" else [path / split, path / "val"]
    root = next((folder for folder in candidates if folder.is_dir()), None)
    if root is None:
        raise DataError(f"no {split} split at {path}: neither parquet nor an image folder")
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
