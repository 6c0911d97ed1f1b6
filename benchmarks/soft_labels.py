"""What `SoftLabels` costs: fetching against bulk requests to the same server, epochs against those of the plain data.

Client and server share the machine. Bulk is the same images in bodies that are made before, sent by as many connections
at once, and nothing done with the answers: what the server alone can do. The ways take turns, medians count.
"""

import argparse
import io
import os
import statistics
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sdb_client import Client, SoftLabels
from sdb_client.png import png
from torch.utils.data import DataLoader, Dataset, TensorDataset

from benchmarks.rows import keep, show
from benchmarks.serving.doors import bulk
from benchmarks.serving.processes import Process
from benchmarks.serving.product import issue, serving
from benchmarks.turns import in_turns
from models.data import Pixels, load, pixels_of

MODEL, CONNECTIONS = "cifar10", 4


class Files(Dataset[tuple[torch.Tensor, int]]):
    """Images as most data sets have them: encoded, decoded when they are asked for."""

    def __init__(self, pixels: Pixels) -> None:
        self._files = [png(image) for image in pixels]

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, int]:
        image = np.array(Image.open(io.BytesIO(self._files[number])))
        return torch.from_numpy(image).permute(2, 0, 1), number % 10


def main() -> None:
    """Measure, print a table and write results/soft_labels.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--data", type=Path, help="the PATH of PATH_train.parquet; noise when left out")
    arguments = parser.parse_args()
    pixels, rows = _pixels(arguments.data, arguments.images), []
    with serving() as (server, state), tempfile.TemporaryDirectory() as folder:
        api_key = issue(server, state, scopes=["predict", "distill"])["api_key"]
        with Client(api_key, f"http://127.0.0.1:{server.port}") as client:
            bodies = _bodies(pixels, arguments.batch_size, api_key)
            caches = iter(Path(folder) / str(number) for number in range(arguments.rounds + 1))

            def labelled(data: Dataset[Any], cache: Path) -> SoftLabels:
                options = {"batch_size": arguments.batch_size, "concurrency": CONNECTIONS}
                return SoftLabels(data, client, model=MODEL, cache=cache, **options)

            data = {"files": Files(pixels), "tensors": _tensors(pixels)}
            ways: dict[str, Callable[[], object]] = {
                "server alone, bulk": lambda: _sent(server, bodies),
                "fetch": lambda: labelled(data["files"], next(caches)).fetch(),
            }
            rows += _ratios(ways, arguments.rounds, arguments.images)
            for name, plain in data.items():
                ready = labelled(plain, Path(folder) / "0")
                ready.fetch()
                ways = {f"epoch of {name}": partial(_read, plain), f"{name}, soft labels": partial(_read, ready)}
                rows += _ratios(ways, arguments.rounds, len(ready))
    show(f"soft labels of {MODEL} on {os.cpu_count()} cores, medians", rows)
    keep("soft_labels", {"rows": rows})


def _pixels(data: Path | None, count: int) -> Pixels:
    if data is None:
        return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)
    return pixels_of(load(data, "train", 32, 32).images[:count])


def _tensors(pixels: Pixels) -> Dataset[Any]:
    return TensorDataset(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.arange(len(pixels)) % 10)


def _bodies(pixels: Pixels, batch_size: int, api_key: str) -> list[bytes]:
    """Whole HTTP requests."""
    parts = (pixels[start : start + batch_size] for start in range(0, len(pixels), batch_size))
    credential = f"\r\nAuthorization: Bearer {api_key}\r\n\r\n".encode()
    return [bulk(MODEL, part).replace(b"\r\n\r\n", credential, 1) for part in parts]


def _sent(server: Process, bodies: list[bytes]) -> None:
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        assert {status for status, _ in pool.map(server.ask, bodies)} == {200}


def _read(data: Dataset[Any]) -> None:
    for _ in DataLoader(data, batch_size=128):
        pass


def _ratios(ways: dict[str, Callable[[], object]], rounds: int, images: int) -> list[dict[str, object]]:
    """Images a second of each way, and its share of the first; a round before the first is not counted."""
    rates = {name: images / statistics.median(times) for name, times in in_turns(ways, rounds).items()}
    first = next(iter(rates.values()))
    return [
        {"way": name, "per_second": round(rate, 1), "share": round(rate / first, 3)} for name, rate in rates.items()
    ]


if __name__ == "__main__":
    main()
