"""The measurements: every contestant is started, checked, put under load and stopped in each round, one at a time.

Knows loads and their results; knows nothing of ratios and targets.
"""

import json
import os
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.latencies import Result
from benchmarks.load import Arrivals
from benchmarks.peers.work import Subject
from benchmarks.serving import doors, product
from benchmarks.serving.ceiling import Ceiling, measured
from benchmarks.serving.contestants import ONE_THREAD, Contestant
from benchmarks.serving.doors import ours
from benchmarks.serving.generator import Generator, Pace
from benchmarks.serving.processes import Memory, NotStarted, Process, free_port, running, wait_until
from benchmarks.serving.workloads import Workload

USUAL, BULK, BULK_CALLS = 32, "bulk", 4
BULK_IMAGES, BULK_BYTES = 256, 15 * 2**20  # of a call, at most: less than the server takes by default
WARM_UP_S = 1.0
SCHEDULES: tuple[Arrivals, ...] = ("even", "poisson")
TOLERANCE = 0.01  # of a probability: decoders may differ by a grey value


@dataclass(frozen=True)
class Cell:
    """One load on one server in one round; `load` names it: connections, a tier, a schedule or bulk."""

    server: str
    workload: str
    load: str
    result: Result


@dataclass(frozen=True)
class Start:
    """What a server took to give its first right answer, and what it weighs after all loads."""

    server: str
    workload: str
    seconds: float
    memory: Memory


class Session:
    """One contestant with one workload; its folder stays over rounds."""

    def __init__(self, contestant: Contestant, workload: Workload, pace: Pace) -> None:
        self.contestant, self.workload, self._pace = contestant, workload, pace
        self._folder = _folder(workload, contestant.name)
        self._state = self._folder / "var"

    def play(self, right: Ceiling | None) -> Iterator[Cell | Start]:
        """One round: start, check every picture (against the ceiling's answers, if there are any), load, weigh, stop.

        Raises:
            NotStarted: it never gives the right answers.
            NotInstallable: its packages cannot be had here.
        """
        with self._running() as process:
            seconds = wait_until(process, lambda: self._answers(process, right))
            yield from self._loads(process)
            yield Start(self.contestant.name, self.workload.name, round(seconds, 2), process.memory())

    @contextmanager
    def _running(self) -> Iterator[Process]:
        port = free_port()
        command, environ = self.contestant.command(port), self.contestant.environ(self.workload, self._state, port)
        with running(command, port, self.workload.folder, environ, self._folder / "log") as process:
            yield process

    def _answers(self, process: Process, right: Ceiling | None) -> bool:
        door = self.contestant.door_of(self.workload)
        answers = []
        for picture in self.workload.pictures:
            status, body = process.ask(door.request(picture))
            if status != 200:
                return False
            answers.append(door.probabilities(json.loads(body)))
        found = np.array(answers)
        if abs(found.sum(1) - 1).max() > TOLERANCE:
            raise NotStarted(f"probabilities that come to {found.sum(1)}")
        if right and found.argmax(1).tolist() != right.top1:
            raise NotStarted(f"wrong answers: {found.argmax(1)} where {right.top1} is right")
        if right and right.confidence and abs(found.max(1) - right.confidence).max() > TOLERANCE:
            raise NotStarted(f"wrong probabilities: {found.max(1)} where {right.confidence} is right")
        return True

    def _loads(self, process: Process) -> Iterator[Cell]:
        door = self.contestant.door_of(self.workload)
        requests = [door.request(picture) for picture in self.workload.pictures]
        generator = Generator(process.port, self._folder / "requests", self._pace)
        generator.load(requests, 8, seconds=WARM_UP_S)
        for connections in self.workload.connections:
            result = generator.load(requests, connections)
            yield self._cell(str(connections), result)
            if connections == USUAL:
                rate = result.per_second
        ways = self.workload.ways if self.contestant.kind == "ours" and self.contestant.guarded else ()
        if "tiers" in ways:
            yield from self._tiers(process, generator)
        if "schedules" in ways:
            for arrivals in SCHEDULES:
                yield self._cell(arrivals, generator.load(requests, USUAL, rate=0.7 * rate, arrivals=arrivals))
        if "bulk" in ways:
            yield self._cell(BULK, self._bulk(generator))

    def _tiers(self, process: Process, generator: Generator) -> Iterator[Cell]:
        """Both tiers once more, one after the other: their ratio is what counts."""
        scopes = ("predict", "distill")
        header = f"Bearer {product.token(process, self._state, scopes)}"
        for tier, door in {
            "public": ours(self.workload.model),
            "distill": ours(self.workload.model, Authorization=header),
        }.items():
            requests = [door.request(picture) for picture in self.workload.pictures]
            yield self._cell(tier, generator.load(requests, USUAL))

    def _bulk(self, generator: Generator) -> Result:
        side = Subject.read(self.workload.folder).side
        count = min(BULK_IMAGES, BULK_BYTES // (3 * side * side))
        draw = np.random.default_rng(0)
        calls = [draw.integers(0, 256, (count, side, side, 3), np.uint8) for _ in range(BULK_CALLS)]
        result = generator.load([doors.bulk(self.workload.model, call) for call in calls], BULK_CALLS)
        return replace(result, per_second=round(count * result.per_second, 1))  # images are what is counted

    def _cell(self, load: str, result: Result) -> Cell:
        return Cell(self.contestant.name, self.workload.name, load, result)


def ceilings(workload: Workload, names: Container[str], seconds: float) -> Iterator[tuple[str, Ceiling]]:
    """What this workload comes to without a server, by name: of our variants and of the peers, those in `names`."""
    pictures = workload.folder / "pictures"
    pictures.mkdir(exist_ok=True)
    for number, picture in enumerate(workload.pictures):
        (pictures / f"{number:03}.jpg").write_bytes(picture)
    common = [str(pictures), "--seconds", str(seconds)]
    environ = {"PYTHONPATH": str(product.ROOT), "PATH": os.defpath}
    for variant in (variant for variant in workload.variants if f"ours/{variant}" in names):
        state = _folder(workload, f"ours/{variant}") / "var"  # the server's own: it finds the engine that was chosen
        arguments = ["product", str(workload.models_dir(variant)), *common, "--state", str(state)]
        yield f"ours/{variant}", measured(arguments, 1, environ)
    if "peer" in names:
        yield "peer", measured(["peer", str(workload.folder), *common], 2, {**environ, **ONE_THREAD})


def _folder(workload: Workload, name: str) -> Path:
    """What a server keeps over rounds."""
    folder = workload.folder / "servers" / name.replace("/", "-").replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
