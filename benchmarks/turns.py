"""Things that are timed in turns, so that what disturbs one disturbs all, and their ratios mean something.

Knows callables and a clock.
"""

import statistics
import time
from collections.abc import Callable, Mapping

Times = dict[str, list[float]]


def in_turns(
    parts: Mapping[str, Callable[[], object]],
    turns: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Times:
    """Seconds of each part in each turn, after `warm_up` turns that do not count."""
    times: Times = {name: [] for name in parts}
    for number in range(warm_up + turns):
        for name, part in parts.items():
            began = clock()
            part()
            took = clock() - began
            if number >= warm_up:
                times[name].append(took)
    return times


def ratio(times: Times, name: str, reference: str) -> float:
    """How many times as long as the reference: the median of the ratios of single turns."""
    return statistics.median(own / of for own, of in zip(times[name], times[reference], strict=True))


def compared(parts: Mapping[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """The medians of two parts in microseconds, and what share of the first the second takes."""
    whole, part = parts
    times = in_turns(parts, turns)
    medians = {f"{name}_us": round(median_us(times, name)) for name in parts}
    return {**medians, "share": round(ratio(times, part, whole), 4)}


def median_us(times: Times, name: str) -> float:
    """The median in microseconds."""
    return 1e6 * statistics.median(times[name])
