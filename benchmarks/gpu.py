"""`make gpu`: the tests marked gpu, and a ResNet-50 at 224 px on CUDA against its bare forward pass and LitServe.

Says so and ends well where there is no CUDA device. The ceiling is the network alone in bfloat16, channels last, on
pixels that are on the device already; what is served has to get them there. Writes results/gpu.json.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch

from app.hosting import HostedModel, Models
from app.settings import Settings
from app.state import State
from benchmarks.peers.work import Subject, Work
from benchmarks.rows import keep
from benchmarks.serving import workloads
from benchmarks.serving.ceiling import rate
from benchmarks.serving.contestants import ALL
from benchmarks.serving.environments import NotInstallable
from benchmarks.serving.generator import Pace
from benchmarks.serving.processes import NotStarted
from benchmarks.serving.rounds import Cell, Session
from benchmarks.serving.workloads import Workload

BATCHES = (1, 8, 32, 64, 128, 256)
SECONDS = 2.0
ROUNDS = 3
SERVERS = ("ours/one pass", "litserve")
Row = dict[str, Any]


def main() -> int:
    """Test, time, write."""
    if not torch.cuda.is_available():
        print("no CUDA device here: nothing to check")
        return 0
    failed = pytest.main(["-m", "gpu", "-q", "tests"])
    with TemporaryDirectory() as folder:
        workload = workloads.gpu(Path(folder))
        swept = list(sweep(workload))
        served = [row for number in range(ROUNDS) for row in serve(workload, number)]
    best = max(row["forward_only"] for row in swept)
    for row in served:
        row["of_ceiling"] = round(row["images_per_second"] / best, 3)
    measured = {"sweep": swept, "served": served}
    keep("gpu", measured)
    print(json.dumps(measured, indent=1))
    return int(failed)


def sweep(workload: Workload) -> Iterator[Row]:
    """Images a second by batch size: the network alone, and the product's predictor with copies both ways."""
    settings = Settings(models_dir=workload.models_dir("one pass"), state_dir=workload.folder / "var")
    [model] = Models.load(settings, State(settings))
    assert isinstance(model, HostedModel)
    predictor, side = model.replicas[0], Subject.read(workload.folder).side
    for batch in BATCHES:
        pixels = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
        public = np.zeros(batch, bool)
        own = rate(lambda p=pixels, r=public: predictor(p, r), batch, SECONDS)  # type: ignore[misc]
        bare = forward_only(workload, batch, SECONDS)
        yield {
            "batch": batch,
            "engine": str(predictor.choice).partition(";")[0],
            "images_per_second": round(own),
            "forward_only": round(bare),
            "of_forward_only": round(own / bare, 3),
        }


@torch.inference_mode()
def forward_only(workload: Workload, batch: int, seconds: float) -> float:
    """Images a second of the bare network in bfloat16 on a batch that lies on the device; waits for it at each step."""
    work = Work(workload.folder)
    images = torch.rand(batch, 3, work.subject.side, work.subject.side, device="cuda")
    images = images.to(torch.bfloat16, memory_format=torch.channels_last)
    steps = max(1, 512 // batch)  # between two waits, so that the wait itself costs nothing

    def step() -> None:
        for _ in range(steps):
            work.network(images)
        torch.cuda.synchronize()

    return rate(step, batch * steps, seconds)


def serve(workload: Workload, number: int) -> Iterator[Row]:
    """One round over HTTP: bulk calls to this server, JPEGs to both; a server that cannot run here is left out."""
    for contestant in (contestant for contestant in ALL if contestant.name in SERVERS):
        try:
            for found in Session(contestant, workload, Pace.of(SECONDS)).play(None):
                if isinstance(found, Cell):
                    told = {"server": found.server, "round": number, "load": found.load}
                    yield {**told, "images_per_second": found.result.per_second, **asdict(found.result)}
        except (NotInstallable, NotStarted) as error:
            print(f"{contestant.name} is left out: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
