"""What each engine makes of a whole box: images a second by batch size, and by how cores are shared out.

Two models: the shipped one (ResNet-20 at 32, two passes) and a box of untrained weights (ResNet-18 at 224, one pass).
Engines take turns, the medians of the repetitions count. Prints a table and writes results/engines.json.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from app.settings import ZOO
from app.state import DEMO_SECRET
from benchmarks.rows import keep, show
from keys.material import parse_secret
from models import bundles
from models.bundles import GuardSpec, InputSpec, Manifest
from models.engines.agreement import pictures
from models.engines.choice import EngineName, Wanted
from models.engines.cores import Cores, available
from models.engines.engine import Engine
from models.key_stream import fingerprint
from models.predictor import Predictor, choose_device

SECRET = bytes(range(32))
BATCHES = (1, 8, 32)
ENGINES: tuple[EngineName, ...] = ("eager", "onnxruntime", "openvino", "compile", "graphs")


@dataclass(frozen=True)
class Cell:
    """One thing that is measured."""

    model: str
    engine: Engine
    cores: Cores
    batch: int
    side: int

    def images_per_second(self, seconds: float) -> float:
        """As many threads as there are workers ask for one batch after the other."""
        torch.set_num_threads(self.cores.threads)
        pixels, right = pictures(self.batch, self.side, self.side), np.arange(self.batch) % 2 == 0
        stop = time.perf_counter() + seconds

        def work(_: int) -> int:
            done = 0
            while not done or time.perf_counter() < stop:
                self.engine(pixels, right, right)
                done += self.batch
            return done

        began = time.perf_counter()
        with ThreadPoolExecutor(self.cores.workers) as workers:
            done = sum(workers.map(work, range(self.cores.workers)))
        return done / (time.perf_counter() - began)


def main() -> None:
    """Measure every engine that works here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--engines", nargs="+", default=["eager", "onnxruntime", "openvino"], choices=ENGINES)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    device, measured = choose_device(arguments.device), dict[Cell, list[float]]()
    with tempfile.TemporaryDirectory() as work:
        cells = [cell for folder in models(Path(work)) for cell in planned(folder, device, arguments.engines)]
        for cell in cells * arguments.repetitions:
            measured.setdefault(cell, []).append(cell.images_per_second(arguments.seconds))
    rows = [_row(cell, found) for cell, found in measured.items()]
    show("images a second through a whole box, medians", rows)
    runtimes = {package: version(package) for package in ("onnxruntime", "openvino") if find_spec(package)}
    file = "engines" if arguments.device == "cpu" else "engines-cuda"
    keep(f"engines --device {arguments.device}", {"runtimes": runtimes, "rows": rows}, file)


def models(work: Path) -> Iterator[Path]:
    """The folders of both bundles."""
    yield ZOO / "cifar10"
    guard = GuardSpec(passes=1, secret_fingerprint=fingerprint(SECRET))
    spec, classes = InputSpec(height=224, width=224), tuple(map(str, range(1000)))
    manifest = Manifest(name="resnet18", architecture="resnet18", classes=classes, input=spec, guard=guard)
    torch.manual_seed(0)
    bundles.save(work / "resnet18", manifest, bundles.assemble(manifest, SECRET).state_dict(), SECRET)
    yield work / "resnet18"


def planned(folder: Path, device: torch.device, engines: list[EngineName]) -> Iterator[Cell]:
    """Every engine on one core at each size of batch; then the ways to share all cores, at the smaller sizes."""
    demo = folder / DEMO_SECRET
    secret = parse_secret(demo.read_text(), "demo") if demo.exists() else SECRET
    count = available()
    shares = [Cores(count, 1), Cores(1, count), Cores(count, count)] if device.type == "cpu" and count > 1 else []
    with tempfile.TemporaryDirectory() as memory:
        for cores in (Cores(1, 1), *shares):
            torch.set_num_threads(cores.threads)
            for name in engines:
                wanted = Wanted(name, cores, BATCHES[-1], Path(memory))
                predictor = Predictor(folder, secret, device, b"", wanted)
                if predictor.choice.engine.name != name:
                    continue  # the log has said why
                spec = predictor.manifest.input
                for batch in BATCHES if cores == Cores(1, 1) else BATCHES[:2]:
                    yield Cell(predictor.manifest.name, predictor.choice.engine, cores, batch, spec.height)


def _row(cell: Cell, found: list[float]) -> dict[str, str | int | float]:
    return {
        "model": cell.model,
        "engine": cell.engine.name,
        "workers": cell.cores.workers,
        "threads": cell.cores.threads,
        "batch": cell.batch,
        "images_per_second": round(statistics.median(found), 1),
        "from": round(min(found), 1),
        "to": round(max(found), 1),
    }


if __name__ == "__main__":
    main()
