"""How fast engines are at the batch sizes that matter, measured in turns and within a bounded time.

Knows engines and a clock.
"""

import itertools
import statistics
import time
from collections.abc import Mapping

import numpy as np

from models.engines.agreement import pictures
from models.engines.engine import Engine

SIZES = (1, 8, 32)  # a lone request, a little company, a full batch
MOST_ROUNDS = 8
SECONDS = 2.0  # for all sizes together; the round that has begun is finished

Timings = dict[str, dict[int, float]]  # engine → batch size → milliseconds


def race(engines: Mapping[str, Engine], height: int, width: int, most: int, seconds: float = SECONDS) -> Timings:
    """The median time in milliseconds of each engine for each size up to `most`, each round measuring all in turn.

    A size that would take longer than is left is not measured, except for the first.
    """
    timings: Timings = {name: {} for name in engines}
    ends = time.perf_counter() + seconds
    slowest = 0.0  # seconds of a round, for one image
    sizes = [size for size in SIZES if size <= most]
    for number, size in enumerate(sizes):
        left = ends - time.perf_counter()
        if slowest * size > left:
            break
        for name, rounds in _timed(engines, size, height, width, left / (len(sizes) - number)).items():
            timings[name][size] = 1000 * statistics.median(rounds)
        slowest = sum(times[size] for times in timings.values()) / 1000 / size
    return timings


def _timed(engines: Mapping[str, Engine], size: int, height: int, width: int, seconds: float) -> dict[str, list[float]]:
    """Seconds of each round; the first, in which an engine may still make room, counts only where it is alone."""
    pixels = pictures(size, height, width)
    right = np.arange(size) % 2 == 0
    times: dict[str, list[float]] = {name: [] for name in engines}
    stop = time.perf_counter() + seconds
    for number in itertools.count(1):
        for name, engine in engines.items():
            began = time.perf_counter()
            engine(pixels, right, right)
            times[name].append(time.perf_counter() - began)
        if number > MOST_ROUNDS or time.perf_counter() > stop:
            break
    return {name: rounds[1:] or rounds for name, rounds in times.items()}


def comparable(timings: Timings, reference: str) -> bool:
    """Whether there is a reference, and all engines have been measured at the same sizes and took some time."""
    sizes = {tuple(times) for times in timings.values()}
    took = all(ms > 0 for times in timings.values() for ms in times.values())
    return reference in timings and len(sizes) == 1 and () not in sizes and took


def fastest(timings: Timings, reference: str) -> str:
    """The engine of the smallest geometric mean of times, each as a share of the reference's at the same size.

    A race is noisy: an engine that is not clearly faster than the reference, by a twentieth, does not replace it.
    """
    shares = {
        name: statistics.geometric_mean(taken / timings[reference][size] for size, taken in times.items())
        for name, times in timings.items()
    }
    best = min(shares, key=lambda name: shares[name])
    return best if shares[best] < 0.95 else reference
