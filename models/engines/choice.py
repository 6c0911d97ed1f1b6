"""Which engine a model runs on: the fastest of those that work here and agree with the eager one.

Knows what there is to choose from and in what order to find out; anything that fails costs one line of log.
"""

import logging
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch

from models.bundles import Manifest
from models.engines.agreement import check
from models.engines.cores import Cores
from models.engines.eager import Eager
from models.engines.engine import Answering, Engine
from models.engines.graph import export
from models.engines.halving import Halving
from models.engines.memory import Memory
from models.engines.race import Timings, comparable, fastest, race
from models.sealing import Seal

EngineName = Literal["auto", "eager", "onnxruntime", "openvino", "compile", "graphs"]
CANDIDATES = {"cpu": ("onnxruntime", "openvino"), "cuda": ("graphs",)}  # that "auto" tries besides eager
TOLERANCE, REDUCED = 1e-4, 3e-2  # of the largest logit: float32 in another order; bfloat16 has eight bits
ALONE = Cores(1, 1)
log = logging.getLogger("sdb.models")


@dataclass(frozen=True)
class Wanted:
    """What an operator asks for; without a `memory` folder, nothing is kept between starts.

    `watched`: engines say besides how sure the network was of each row.
    """

    engine: EngineName = "eager"
    cores: Cores = ALONE
    most: int = 32
    memory: Path | None = None
    watched: bool = False


@dataclass(frozen=True)
class Choice:
    """The engine, and what led to it: milliseconds by engine and batch size, empty where nothing was measured."""

    engine: Engine
    timings: Timings = field(default_factory=dict)

    def __str__(self) -> str:
        """Such as "onnxruntime; ms for 1, 8, 32 images: eager 2.69, 13.2, 46.8, onnxruntime 1.07, 8.24, 33.2"."""
        if not self.timings:
            return self.engine.name
        sizes = ", ".join(map(str, next(iter(self.timings.values()))))
        rows = (f"{name} {', '.join(f'{ms:.3g}' for ms in row.values())}" for name, row in self.timings.items())
        return f"{self.engine.name}; ms for {sizes} images: {', '.join(rows)}"


class Chooser:
    """Finds the engine of one box that lies on `device`; what is kept of it is closed by `seal`."""

    def __init__(
        self, answering: Answering, manifest: Manifest, device: torch.device, wanted: Wanted, seal: Seal
    ) -> None:
        self._answering, self._manifest, self._device, self._wanted = answering, manifest, device, wanted
        self._reference = Halving(Eager(answering, device))
        memory = wanted.memory
        self._memory = memory and Memory.of(memory, manifest, device, wanted.cores, seal, watched=wanted.watched)
        self._makers: dict[str, Callable[[], Engine]] = {
            "onnxruntime": self._onnxruntime,
            "openvino": self._openvino,
            "compile": self._compiled,
            "graphs": self._graphs,
        }

    def choose(self) -> Choice:
        """The engine that was asked for, or the fastest; the eager one where that does not work."""
        if self._wanted.engine == "eager":
            return Choice(self._reference)
        with self._memory.alone() if self._memory else nullcontext():
            return self._chosen(self._wanted.engine)

    def _chosen(self, wanted: EngineName) -> Choice:
        if wanted != "auto":
            return Choice(self._working(wanted) or self._reference)
        known = self._memory and self._memory.timings()
        if known and comparable(known, "eager"):
            best = fastest(known, "eager")
            engine = self._reference if best == "eager" else self._working(best)
            if engine is not None:
                return Choice(engine, known)
        return self._raced()

    def _raced(self) -> Choice:
        candidates = [name for name in CANDIDATES.get(self._device.type, ()) if self._installed(name)]
        working = {name: self._working(name) for name in candidates}
        engines: dict[str, Engine] = {"eager": self._reference, **{n: e for n, e in working.items() if e is not None}}
        if len(engines) == 1:
            return Choice(self._reference)
        spec = self._manifest.input
        timings = race(engines, spec.height, spec.width, self._wanted.most)
        if self._memory:
            self._memory.keep_timings(timings)
        return Choice(engines[fastest(timings, "eager")], timings)

    @staticmethod
    def _installed(name: str) -> bool:
        return name not in {"onnxruntime", "openvino"} or find_spec(name) is not None

    def _working(self, name: str) -> Engine | None:
        """The engine of that name, warm, if it agrees with the eager one; a line of log if not."""
        spec = self._manifest.input
        tolerance = REDUCED if name == "graphs" else TOLERANCE
        try:
            engine = Halving(self._makers[name]())
            check(engine, self._reference, spec.height, spec.width, tolerance, classes=len(self._manifest.classes))
        except Exception as error:  # whatever an exporter, a compiler or a runtime has against a network
            reason = " ".join(str(error).split())[:200]
            log.warning("model %s does not run on %s: %s: %s", self._manifest.name, name, type(error).__name__, reason)
            return None
        return engine

    def _onnxruntime(self) -> Engine:
        from models.engines.ort import OnnxRuntime  # noqa: PLC0415 - not every installation has it

        return OnnxRuntime(self._answering, self._graph(), self._wanted.cores)

    def _openvino(self) -> Engine:
        from models.engines.ov import OpenVino  # noqa: PLC0415

        return OpenVino(self._answering, self._graph(), self._wanted.cores)

    def _compiled(self) -> Engine:
        from models.engines.compiled import Compiled  # noqa: PLC0415

        return Compiled(self._answering, self._device)

    def _graphs(self) -> Engine:
        from models.engines.graphs import CudaGraphs  # noqa: PLC0415

        return CudaGraphs(self._answering, self._manifest.input, self._device, self._wanted.most)

    def _graph(self) -> bytes:
        """The ONNX graph: remembered, or exported now."""
        if self._device.type != "cpu":
            raise ValueError("it is for models on the CPU")
        found = self._memory and self._memory.graph()
        if found:
            return found
        made = export(self._answering, self._manifest.input.height, self._manifest.input.width)
        if self._memory:
            self._memory.keep_graph(made)
        return made
