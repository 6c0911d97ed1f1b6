"""How many processor cores a process may use, and how its models share them.

Knows the scheduler's affinity and the container's quota; knows no engine.
"""

import math
import os
from dataclasses import dataclass
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Cores:
    """`workers` batches run at the same time, each in so many `threads`."""

    workers: int
    threads: int

    @classmethod
    def share(cls, count: int) -> "Cores":
        """All of `count` cores, between workers and threads.

        Batches side by side use cores better than threads within a batch, which wait for each other at each layer: an
        image through ResNet-18 at 224 took 18.6 ms of processor time with two workers of one thread, 22.5 with one of
        two (ONNX Runtime, batches of 8). Threads shorten the wait of a lone request. So workers come first, and threads
        grow with the machine: 2 → 2 × 1, 8 → 4 × 2, 32 → 8 × 4.
        """
        workers = min(count, 2 ** math.floor(math.log2(2 * count) / 2))
        return cls(workers, count // workers)


def available() -> int:
    """The cores this process may use: those it may be scheduled on, or fewer by the quota of its container."""
    allowed = len(os.sched_getaffinity(0))
    return max(1, min(allowed, round(_quota(CGROUPS / "cpu.max") or allowed)))


def _quota(limit: Path) -> float | None:
    """Cores by a cgroup's "quota period" in microseconds; None where there is no limit."""
    try:
        quota, period = limit.read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):  # no control groups of version 2, or "max"
        return None
