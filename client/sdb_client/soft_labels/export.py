"""Images with their soft labels for tools that know nothing of this client: parquet, and WebDataset's tar shards.

Knows files; the images and soft labels come from the data set. Each shard and file is written as a whole.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sdb_client.fitting import Pixels
from sdb_client.png import png

CHUNK = 1024  # images that are in memory at once
ABOUT = "soft_labels"


@dataclass(frozen=True)
class Labelling:
    """An image as the model was shown it, its label, its soft label float32 [K], and its key in the cache."""

    pixels: Pixels
    label: int
    soft: NDArray[np.float32]
    key: bytes


def to_parquet(path: Path, labellings: Iterable[Labelling], about: Mapping[str, object]) -> int:
    """Write `image` (PNG), `label`, `soft_label` and `key` to one file; how many rows. Needs the extra `parquet`.

    The schema's metadata say in `soft_labels` what the numbers are (`about`), and in `class_names` what the labels are.
    """
    import pyarrow as pa  # noqa: PLC0415 - an extra
    import pyarrow.parquet as pq  # noqa: PLC0415

    metadata: dict[bytes | str, bytes | str] = {ABOUT: json.dumps(about), "class_names": json.dumps(about["classes"])}
    fields = (
        pa.field("image", pa.binary()),
        pa.field("label", pa.int64()),
        pa.field("soft_label", pa.list_(pa.float32())),
        pa.field("key", pa.binary(32)),
    )
    schema = pa.schema(fields, metadata)
    source, rows = iter(labellings), 0
    partial = _partial(path)
    with pq.ParquetWriter(partial, schema) as file:
        while chunk := list(islice(source, CHUNK)):
            columns: dict[str, list[Any]] = {
                "image": [png(item.pixels) for item in chunk],
                "label": [item.label for item in chunk],
                "soft_label": [item.soft for item in chunk],
                "key": [item.key for item in chunk],
            }
            file.write_table(pa.table(columns, schema))
            rows += len(chunk)
    partial.replace(path)
    return rows


def to_webdataset(
    folder: Path, labellings: Iterable[Labelling], about: Mapping[str, object], *, shard: int = 10_000
) -> list[Path]:
    """Write shards `000000.tar`, … of so many images to `folder`: of each `png`, `cls`, `soft.npy` and `json`.

    `json` says what the numbers are (`about`) and names the image's key; `cls` is the label in decimal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    source, written, number = iter(labellings), list[Path](), 0
    while first := next(source, None):
        path = folder / f"{len(written):06}.tar"
        partial = _partial(path)
        with tarfile.open(partial, "w") as tar:
            for item in chain([first], islice(source, shard - 1)):
                for name, content in _members(item, about):
                    _add(tar, f"{number:09}.{name}", content)
                number += 1
        partial.replace(path)
        written.append(path)
    return written


def _members(item: Labelling, about: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    array = io.BytesIO()
    np.save(array, item.soft, allow_pickle=False)
    yield "png", png(item.pixels)
    yield "cls", str(item.label).encode()
    yield "soft.npy", array.getvalue()
    yield "json", json.dumps({**about, "key": item.key.hex()}).encode()


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _partial(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.partial")
