"""What the same work comes to without a server: decode and forward pass in this process, on all cores.

Two kinds: this product's, with the decoder, the engine and the number of workers that its server would choose, and the
peers' (`benchmarks/peers/work.py`), one thread in each of two processes. Runs in processes of its own, so that threads
are set as in a server: each says when it is ready, and begins when it is told to.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from app import images
from app.hosting import HostedModel, Models
from app.settings import Settings
from app.state import State
from benchmarks.peers.work import Work
from models.data import Pixels
from models.engines.engine import Logits

BATCHES = (1, 8, 32)
PIXELS = 10**6
Step = Callable[[], object]


@dataclass(frozen=True)
class Ceiling:
    """Images a second by batch size, whole and without decoding; a lone forward pass in ms; the right answers.

    `confidence` is the probability of each right answer; empty where a server may say another one.
    """

    runtime: str
    decode_and_forward: dict[str, float]
    forward: dict[str, float]
    forward_1_ms: float
    top1: list[int]
    confidence: list[float]

    @property
    def best(self) -> float:
        """Decode and forward at the best batch size."""
        return max(self.decode_and_forward.values())

    @property
    def best_forward(self) -> float:
        """Forward alone at the best batch size."""
        return max(self.forward.values())


def rate(step: Step, per_step: int, seconds: float) -> float:
    """Images a second of `step`, which does `per_step`, over at least `seconds`."""
    step()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() < begun + seconds:
        step()
        done += per_step
    return done / (time.perf_counter() - begun)


def of_product(models_dir: Path, state: Path, pictures: Sequence[bytes], seconds: float) -> Ceiling:
    """The ceiling of the bundle in `models_dir`; its engine is the one that a server with this state folder takes."""
    settings = Settings(models_dir=models_dir, state_dir=state)
    [model] = Models.load(settings, State(settings))
    assert isinstance(model, HostedModel)
    predictor = model.replicas[0]

    def decoded(count: int) -> Pixels:
        return np.stack([_shown(model, picture) for picture in islice(cycle(pictures), count)])

    def together(step: Step, batch: int) -> float:
        with ThreadPoolExecutor(predictor.at_once) as pool:
            return sum(pool.map(rate, *([one] * predictor.at_once for one in (step, batch, seconds))))

    def predicted(pixels: Pixels) -> Logits:
        logits: Logits = predictor(pixels, np.zeros(len(pixels), bool))
        return logits

    def whole(count: int) -> Logits:
        return predicted(decoded(count))

    _begin()
    batches = {batch: decoded(batch) for batch in BATCHES}
    return Ceiling(
        str(predictor.choice),
        {str(batch): together(partial(whole, batch), batch) for batch in BATCHES},
        {str(batch): together(partial(predicted, pixels), batch) for batch, pixels in batches.items()},
        median_ms(partial(predicted, batches[1]), seconds),
        predicted(decoded(len(pictures))).argmax(1).tolist(),
        [],
    )


def _shown(model: HostedModel, encoded: bytes) -> Pixels:
    """What the model is shown of an encoded image: resized only if it is not of the right size."""
    pixels = np.asarray(images.decode(encoded, PIXELS))
    spec = model.manifest.input
    return pixels if pixels.shape[:2] == (spec.height, spec.width) else model.fit(Image.fromarray(pixels))


def of_peer(folder: Path, pictures: Sequence[bytes], seconds: float) -> Ceiling:
    """The share of one process of plain PyTorch and Pillow."""
    work = Work(folder)
    decoded = [work.decode(picture) for picture in islice(cycle(pictures), max(BATCHES))]

    def whole(batch: int) -> None:
        work.predict([work.decode(picture) for picture in islice(cycle(pictures), batch)])

    answers = work.probabilities([work.decode(picture) for picture in pictures]).max(1)
    _begin()
    return Ceiling(
        "eager torch, Pillow",
        {str(batch): rate(partial(whole, batch), batch, seconds) for batch in BATCHES},
        {str(batch): rate(partial(work.predict, decoded[:batch]), batch, seconds) for batch in BATCHES},
        median_ms(partial(work.predict, decoded[:1]), seconds),
        answers.indices.tolist(),
        answers.values.tolist(),
    )


def median_ms(step: Step, seconds: float) -> float:
    """The median time of `step`."""
    times = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        begun = time.perf_counter()
        step()
        times.append(1000 * (time.perf_counter() - begun))
    return statistics.median(times)


def _begin() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


def measured(arguments: Sequence[str], processes: int, environ: Mapping[str, str]) -> Ceiling:
    """The ceiling that so many processes of this module reach together, all begun at once."""
    command = [sys.executable, "-m", "benchmarks.serving.ceiling", *arguments]
    started = [
        subprocess.Popen(command, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        for _ in range(processes)
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the ceiling cannot be measured"
    found = [Ceiling(**json.loads(process.communicate("\n")[0])) for process in started]
    return replace(
        found[0],
        decode_and_forward=_summed([part.decode_and_forward for part in found]),
        forward=_summed([part.forward for part in found]),
    )


def _summed(rates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {batch: round(sum(part[batch] for part in rates), 1) for batch in rates[0]}


def main() -> None:
    """Measure one ceiling and print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=("product", "peer"))
    parser.add_argument("folder", type=Path, help="bundles, or what a peer is given")
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--state", type=Path, help="the state folder of a server that has chosen its engine")
    parser.add_argument("--seconds", type=float, default=1.0)
    asked = parser.parse_args()
    pictures = [path.read_bytes() for path in sorted(asked.pictures.iterdir())]
    if asked.kind == "product":
        found = of_product(asked.folder, asked.state, pictures, asked.seconds)
    else:
        found = of_peer(asked.folder, pictures, asked.seconds)
    print(json.dumps(asdict(found)))


if __name__ == "__main__":
    main()
