"""What a load has shown: answers counted inside a window, and every latency since it began.

Knows points in time and status codes; knows no connection.
"""

import sys
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Result:
    """Answers a second, latencies in ms; `errors`: no answer, or one that is not 200.

    Latencies are also of those who were still waiting when the window ended: the slowest must not be lost. `client_us`
    is the processor time that this generator itself took for a request.
    """

    per_second: float
    answered: int
    errors: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    max_ms: float
    client_us: float


class Recorder:
    """Takes down what is answered since `begin`, and errors at any time; up to `end` the load is whole.

    `connections` are always busy, or None where a schedule leaves them idle.
    """

    def __init__(self, begin: float, end: float, connections: int | None) -> None:
        self.begin, self.end, self._connections = begin, end, connections
        self.errors = self._inside = 0
        self.latencies: list[float] = []
        self.last_error = ""

    def answered(self, due: float, now: float, status: int) -> None:
        """One answer, to a request that was due at `due`."""
        if status != 200:
            self.failed(f"status {status}")
        elif now >= self.begin:
            self.latencies.append(now - due)
            self._inside += now < self.end

    def failed(self, why: str) -> None:
        """No answer, or a refusal."""
        self.errors += 1
        self.last_error = why

    def _rate(self) -> float:
        """By Little's law (N busy connections are N / mean latency): answers come in batches, and a few of those in a
        window make its mere count a matter of luck."""
        counted = self.latencies[: self._inside] or self.latencies
        if self._connections is None:
            return self._inside / (self.end - self.begin)
        return self._connections * len(counted) / sum(counted) if counted else 0.0

    def result(self, cpu_s: float, sent: int) -> Result:
        """What this run has shown; `cpu_s` was spent on `sent` requests."""
        if self.errors:
            print(f"the last of {self.errors} errors: {self.last_error}", file=sys.stderr)
        ms = 1000 * np.array(self.latencies or [0.0])
        p50, p90, p99 = (round(float(value), 3) for value in np.percentile(ms, (50, 90, 99)))
        return Result(
            per_second=round(self._rate(), 2),
            answered=len(self.latencies),
            errors=self.errors,
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            max_ms=round(float(ms.max()), 3),
            client_us=round(1e6 * cpu_s / max(1, sent), 1),
        )
