"""The load generator as the benchmark calls it: in a process of its own, on a core of its own choice.

Knows requests as bytes; knows no model.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.latencies import Result
from benchmarks.load import Arrivals
from benchmarks.serving.product import ROOT


@dataclass(frozen=True)
class Pace:
    """How long a load lasts after its warm-up, and the core that its generator runs on."""

    seconds: float
    warm_up_s: float
    core: int

    @classmethod
    def of(cls, seconds: float) -> "Pace":
        """The generator has the last core that this process may use; servers may use all."""
        return cls(seconds, min(0.5, seconds / 4), max(os.sched_getaffinity(0)))


class Generator:
    """Puts loads on the server at `port`; its requests lie in `folder` meanwhile."""

    def __init__(self, port: int, folder: Path, pace: Pace) -> None:
        self._port, self._folder, self._pace = port, folder, pace
        folder.mkdir(exist_ok=True)

    def load(
        self,
        requests: Sequence[bytes],
        connections: int,
        *,
        rate: float | None = None,
        arrivals: Arrivals = "even",
        seconds: float | None = None,
    ) -> Result:
        """One load, by schedule when `rate` (1/s) is given; returns when every request is answered."""
        self._write(requests)
        pace = self._pace
        command = [sys.executable, "-m", "benchmarks.load", str(self._folder), "--port", str(self._port)]
        command += ["--connections", str(connections), "--seconds", str(seconds or pace.seconds)]
        command += ["--warm-up", str(pace.warm_up_s), "--core", str(pace.core)]
        if rate is not None:
            command += ["--rate", str(rate), "--arrivals", arrivals]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True)  # noqa: S603 - ours
        return Result(**json.loads(done.stdout))

    def _write(self, requests: Sequence[bytes]) -> None:
        for path in self._folder.iterdir():
            path.unlink()
        for number, request in enumerate(requests):
            (self._folder / f"{number:03}.http").write_bytes(request)
