"""What it costs to observe a request: processor time per request of the journal, of the metrics and of a span.

`python -m benchmarks.observing` prints a table: the least of several rounds, for what else runs on the machine only
adds. A prediction with a key is taken: seven steps, two round trips to the store, a batch of its own. Without
`--telemetry` no span is made.
"""

import argparse
import logging
import time
from collections.abc import Callable
from functools import partial

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from app.journal import Entry, Journal, Trace
from app.metrics.recorder import Metrics
from app.settings import Settings
from keys.connection import WatchedRetry

ROUNDS, CALLS = 20, 5_000
STEPS = ("admit", "decode", "queue", "model", "mark", "settle", "answer")
ROUTE = "/v1/models/{model}/predict"


def cost_us(call: Callable[[], object], calls: int = CALLS) -> float:
    """Processor time of a call, µs."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time_ns()
        for _ in range(calls):
            call()
        best = min(best, (time.process_time_ns() - began) / calls / 1000)
    return best


def finished() -> Entry:
    """A prediction that is over."""
    entry = Entry("POST", "/v1/models/cifar10/predict", "mine", Trace.of("", 1.0))
    entry.route, entry.status, entry.tier, entry.model = ROUTE, 200, "distill", "cifar10"
    entry.images, entry.charge, entry.key_id = 1, 1, "key_0123456789abcdefghij"
    steps(entry)
    entry.ended_ns = time.perf_counter_ns()
    return entry


def steps(entry: Entry) -> None:
    """All steps of a prediction."""
    for step in STEPS:
        entry.stage(step)


def fresh() -> None:
    """The steps of a request that has none yet."""
    entry = finished_once
    entry.begun.clear()
    steps(entry)


async def _nothing() -> None: ...
async def _failed(error: Exception) -> None: ...


def turns(retry: Retry) -> None:
    """Two round trips that take no time."""
    for _ in range(2):
        try:
            retry.call_with_retry(_nothing, _failed).send(None)
        except StopIteration:
            continue


finished_once = finished()


def rows(telemetry: bool) -> dict[str, float]:
    """What each part costs, µs per request."""
    metrics, entry = Metrics(), finished()
    watched, plain = WatchedRetry(metrics.asked_store), Retry(NoBackoff(), 2)
    passed, quiet = metrics.batches("cifar10"), Journal(log_requests=False)
    parts: dict[str, Callable[[], object]] = {
        "metrics: the request and its steps": lambda: metrics.answered(entry),
        "metrics: two round trips to the store": partial(turns, watched),
        "(two round trips that nobody watches)": partial(turns, plain),
        "metrics: its batch": lambda: passed(1, 1e-3),
        "journal: its steps": fresh,
        "journal: names of request and trace, begin, end": lambda: quiet.end(quiet.begin("POST", "/", "", "")),
    }
    if telemetry:
        from app.telemetry import Telemetry  # noqa: PLC0415 - needs the extra

        logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)  # nobody listens there
        sender = Telemetry(Settings(otlp_endpoint="http://127.0.0.1:1"), "")
        parts["a trace, if it is recorded"] = lambda: sender.answered(entry)
    return {name: cost_us(part) for name, part in parts.items()}


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--telemetry", action="store_true")
    costs = rows(parser.parse_args().telemetry)
    for name, us in costs.items():
        print(f"| {name} | {us:.2f} |")
    metrics = sum(us for name, us in costs.items() if name.startswith("metrics"))
    metrics -= costs["(two round trips that nobody watches)"]
    print(f"| **metrics in all** | **{metrics:.2f}** |")


if __name__ == "__main__":
    main()
