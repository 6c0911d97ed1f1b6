"""What is worth keeping between starts: a model's ONNX graph, and which engine was how fast on this machine.

Knows files and what makes them stale. A graph holds the keyed normalisation, so it lies there sealed. One folder per
model; what is written replaces what older weights, versions or machines have left there.
"""

import fcntl
import hashlib
import json
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from models.bundles import Manifest, write_atomically
from models.engines.cores import Cores
from models.engines.race import Timings
from models.environment import processor
from models.sealing import Seal, SealError

MODELS = Path(__file__).parent.parent
CODE = ("*.py", "engines/engine.py", "engines/graph.py")  # what a graph is made from, beside the bundle
EXPORTER = ("torch", "onnx", "onnxscript")
RUNTIMES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Memory:
    """The files of one model in `folder`, under names that change with whatever they depend on."""

    folder: Path
    graph_key: str
    timings_key: str
    seal: Seal

    @classmethod
    def of(
        cls,
        folder: Path,
        manifest: Manifest,
        device: torch.device,
        cores: Cores,
        seal: Seal,
        *,
        watched: bool = False,
    ) -> "Memory":
        """The memory of a bundle below `folder`, for one kind of device and one share of cores."""
        code = (path.read_text() for pattern in CODE for path in sorted(MODELS.glob(pattern)))
        graph = _key(manifest.model_dump_json(), *code, *map(_version, EXPORTER), *["watched"] * watched)
        kind = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
        timings = _key(graph, *map(_version, RUNTIMES), platform.machine(), kind, str(cores))
        return cls(folder / manifest.name, graph, timings, seal)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Of processes that start together, one measures while the others wait, and find what it has kept."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("wb")
        except OSError:
            yield
            return
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def graph(self) -> bytes | None:
        """The graph, if it is there and whole."""
        try:
            return self.seal.open(self._read(f"{self.graph_key}.onnx") or b"")
        except SealError:
            return None

    def keep_graph(self, content: bytes) -> None:
        """Remember the graph."""
        self._write(f"{self.graph_key}.onnx", self.seal.close(content))

    def timings(self) -> Timings | None:
        """What was measured, if it was."""
        content = self._read(f"{self.timings_key}.json")
        try:
            found = None if content is None else json.loads(content)
            return found and {name: {int(size): float(ms) for size, ms in row.items()} for name, row in found.items()}
        except (AttributeError, ValueError):
            return None

    def keep_timings(self, timings: Timings) -> None:
        """Remember what was measured."""
        self._write(f"{self.timings_key}.json", (json.dumps(timings, indent=2) + "\n").encode())

    def _read(self, name: str) -> bytes | None:
        try:
            return (self.folder / name).read_bytes()
        except OSError:
            return None

    def _write(self, name: str, content: bytes) -> None:
        """In the place of what was there under another key; whoever cannot write goes without."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for stale in self.folder.glob(f"*{Path(name).suffix}"):
                stale.unlink(missing_ok=True)
            write_atomically(self.folder / name, content)
        except OSError:
            return


def _key(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _version(package: str) -> str:
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"
