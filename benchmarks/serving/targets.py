"""The targets of the serving benchmark, and whether a run has met them.

Knows figures, those of the last `make gpu` among them; knows no server.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.figures import P50, P99, SPEED, Figures, median, ratio

GPU = Path(__file__).parents[1] / "results" / "gpu.json"

SHIPPED, ONE_PASS, NO_GUARD = "ours/shipped", "ours/one pass", "ours/no guard"
TWO_PROCESSES, BY_HAND = "ours/two processes", "fastapi_batch"
GUARDED = (SHIPPED, ONE_PASS, TWO_PROCESSES)


@dataclass(frozen=True)
class Target:
    """A ratio (or a time) that shall be at least, or at most, so much."""

    what: str
    measured: float | None
    least: float | None = None
    most: float | None = None
    unit: str = ""

    @property
    def wanted(self) -> str:
        """Such as "≥ 2.5"."""
        return f"≥ {self.least:g}{self.unit}" if self.least is not None else f"≤ {self.most:g}{self.unit}"

    @property
    def verdict(self) -> str:
        """Met, missed, or not measured."""
        if self.measured is None:
            return "not measured"
        least = float("-inf") if self.least is None else self.least
        most = float("inf") if self.most is None else self.most
        return "met" if least <= self.measured <= most else "missed"


def targets(figures: Figures) -> list[Target]:
    """All of them, in the order of the table that set them."""
    of_this_run = (_throughput, _answers, _latency, _protection, _steadiness)
    return [*(target for part in of_this_run for target in part(figures)), _device()]


def _throughput(figures: Figures) -> Iterator[Target]:
    yield from _against_peers(figures, "small", GUARDED, 2.5)
    yield from _against_peers(figures, "large", (ONE_PASS, TWO_PROCESSES), 1.5)
    for name in (ONE_PASS, TWO_PROCESSES):
        own, ceiling = figures.rounds(name, "large", "32"), figures.ceiling(name, "large", "best")
        what = f"large model, 32 connections, share of the ceiling of the runtime in use: {name}"
        yield Target(what, ratio(own, ceiling), 0.92)


def _against_peers(figures: Figures, workload: str, names: Sequence[str], least: float) -> Iterator[Target]:
    """Against all, and against what can be had: one peer was written by hand for this comparison."""
    for what, but in (("the best peer", ()), (f"the best peer but {BY_HAND}", (BY_HAND,))):
        best = figures.best_peer(workload, "32", SPEED, max, but)
        for name in names:
            own = figures.rounds(name, workload, "32")
            yield Target(
                f"{workload} model, 32 connections, throughput against {what}: {name}", ratio(own, best), least
            )


def _answers(figures: Figures) -> Iterator[Target]:
    for name in GUARDED:
        own, ceiling = figures.rounds(name, "small", "bulk"), figures.ceiling(name, "small", "best_forward")
        yield Target(f"bulk, binary, small model, share of the forward-only ceiling: {name}", ratio(own, ceiling), 0.85)
    theirs = figures.rounds("fastapi_naive", "wide", "32")
    for name in (ONE_PASS, TWO_PROCESSES):
        own = figures.rounds(name, "wide", "32")
        what = f"JSON of 1,000 classes against FastAPI returning the dict, throughput: {name}"
        yield Target(what, ratio(own, theirs), 5)


def _latency(figures: Figures) -> Iterator[Target]:
    best = figures.best_peer("small", "1", P50, min)
    for name in GUARDED:
        own = figures.rounds(name, "small", "1", P50)
        forward = figures.ceiling(name, "small", "forward_1_ms")
        overhead = [whole - bare for whole, bare in zip(own, forward, strict=False)]
        yield Target(f"small model, one connection, p50 against the best peer's: {name}", ratio(own, best), most=1)
        middle = ratio(overhead, [1.0] * len(overhead))
        yield Target(f"small model, one connection, p50 beyond the forward pass: {name}", middle, most=1.5, unit=" ms")


def _protection(figures: Figures) -> Iterator[Target]:
    guarded, bare = figures.rounds(ONE_PASS, "small", "32"), figures.rounds(NO_GUARD, "small", "32")
    yield Target("guard on against the bare model, both in one pass, throughput", ratio(guarded, bare), 0.97)
    for name in GUARDED:
        distill, public = (figures.rounds(name, "small", tier) for tier in ("distill", "public"))
        yield Target(f"authorised tier against the public tier, throughput: {name}", ratio(distill, public), 0.9)


def _steadiness(figures: Figures) -> Iterator[Target]:
    for name in GUARDED:
        for arrivals, told in (("even", "evenly"), ("poisson", "at random")):
            p99, p50 = (figures.rounds(name, "small", arrivals, number) for number in (P99, P50))
            yield Target(f"p99 / p50 at 70 % load, requests due {told}: {name}", ratio(p99, p50), most=3)


def _device() -> Target:
    """The one that `make gpu` measures."""
    document: dict[str, Any] = json.loads(GPU.read_text()) if GPU.exists() else {"gpu": "GPU"}
    shares = [row["of_ceiling"] for row in document.get("served", []) if row["load"] == "bulk"]
    what = f"{document['gpu']}, ResNet-50 in bfloat16, bulk over HTTP, share of the forward-only ceiling (make gpu)"
    return Target(what, median(shares), 0.9)
