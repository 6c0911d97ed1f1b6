"""Where a server counts: requests that are over, calls to the store, batches of models, and how things are now.

Knows the journal's entries; knows no HTTP, no store and no model, but what it is told of them. One per process.
"""

import asyncio
import time
from collections.abc import Callable

from prometheus_client import ProcessCollector

from app.journal import Entry
from app.metrics import families
from app.metrics.exposition import Exposition
from app.metrics.families import GAUGES, REPLACES, Family
from app.metrics.series import Distributions, Labels, Number, Numbers
from app.metrics.share import Share
from app.metrics.tallies import Tallies

EVERY_S = 1.0  # how old may be what one process says of another
ELSEWHERE = "other"  # the route of a request that no route took
Source = Callable[[], float]


class Metrics:
    """The numbers of this process, beside those of its siblings."""

    def __init__(self, share: Share | None = None) -> None:
        share = share or Share.alone()
        self._own, self._exposition = Tallies(share.blocks[share.number]), Exposition(share)
        self._forget_gauges()
        numbers, distributions = self._numbers, self._distributions
        self._requests, self._seconds = numbers(families.REQUESTS), distributions(families.REQUEST_SECONDS)
        self._denied, self._stages = numbers(families.DENIED), distributions(families.STAGE_SECONDS)
        self._images, self._charged = numbers(families.IMAGES_ANSWERED), numbers(families.IMAGES_CHARGED)
        self._batches, self._sizes = distributions(families.PASS_SECONDS), distributions(families.PASS_IMAGES)
        self._store, self._errors = distributions(families.STORE_SECONDS)[()], numbers(families.STORE_ERRORS)
        self._alarms = numbers(families.WATCH_ALARMS)
        self._lag, self._process = distributions(families.LOOP_LAG)[()], ProcessCollector(registry=None)
        self._samples: list[tuple[Number, Source]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._threads = numbers(families.THREADS_LOST)
        numbers(families.WORKER_STARTS)[()].add()
        for reason in REPLACES:  # by who comes: who has gone cannot count any more
            numbers(families.WORKERS_REPLACED)[reason].add(float(reason == share.replaces))
        self.sample(families.HEARTBEAT, (), time.time)

    def _numbers(self, family: Family) -> Numbers:
        return Numbers(family, self._own)

    def _distributions(self, family: Family) -> Distributions:
        return Distributions(family, self._own)

    def _forget_gauges(self) -> None:
        """What this process, or the one before it, said of itself."""
        for name, row in list(self._own.rows()):
            if name[0] in GAUGES:
                self._own.values[self._own.row(name, len(row))] = 0.0

    # Told

    def answered(self, entry: Entry) -> None:
        """A request is over; a reader of the journal."""
        route, code = entry.route or ELSEWHERE, entry.code
        self._requests[route, entry.tier, code or ("ok" if entry.status else "left")].add()
        self._seconds[route].observe((entry.ended_ns - entry.began_ns) / 1e9)
        if code:
            self._denied[code].add()
        elif entry.tier:
            self._images[entry.model, entry.tier].add(entry.images)
            if entry.charge:
                self._charged[entry.model].add(entry.charge)
        ended, stages = entry.ended_ns, self._stages
        for name, began in reversed(entry.begun):
            stages[name].observe((ended - began) * 1e-9)
            ended = began

    def asked_store(self, seconds: float, error: str) -> None:
        """A round trip to the store took so long, and failed if `error` names a kind of failure."""
        self._store.observe(seconds)
        if error:
            self._errors[error].add()

    def alarm(self, model: str, caller: str, action: str) -> None:
        """A caller, "key" or "address", looks like one who extracts the model, and `action` was taken."""
        self._alarms[model, caller, action].add()

    def batches(self, model: str) -> Callable[[int, float], None]:
        """Where a model says of each batch how many images it had and how many seconds it took."""
        seconds, images = self._batches[model], self._sizes[model]

        def passed(count: int, took: float) -> None:
            images.observe(count)
            seconds.observe(took)

        return passed

    def threads_lost(self, model: str) -> Callable[[str], None]:
        """Where a model says of each thread that it gives up what became of it."""
        return lambda reason: self._threads[model, reason].add()

    def declare(self, family: Family, labels: Labels) -> None:
        """Show a counter before it counts: who watches for an increase would miss the first."""
        self._numbers(family)[labels].add(0.0)

    def sample(self, family: Family, labels: Labels, source: Source) -> None:
        """Read a gauge from `source`, in the event loop, whenever it is to be up to date."""
        self._samples.append((self._numbers(family)[labels], source))

    # Read

    def text(self, accept: str) -> tuple[bytes, str]:
        """The body of `/metrics`, of all processes, and its media type; see Exposition."""
        return self._exposition.text(accept)

    def refresh(self) -> None:
        """Read all gauges."""
        for number, source in self._samples:
            number.set(source())
        for metric in self._process.collect():
            for sample in metric.samples:
                self._own.values[self._own.row((sample.name,), 1)] = sample.value

    def start(self) -> None:
        """From now on do that every second; also counts by how much the event loop is late."""
        self.refresh()
        loop = asyncio.get_running_loop()
        due = loop.time() + EVERY_S

        def turn() -> None:
            self._lag.observe(max(0.0, loop.time() - due))
            self.start()

        self._timer = loop.call_at(due, turn)

    def close(self) -> None:
        """The process ends: it has counted, and how it is is nobody's concern any more."""
        if self._timer is not None:
            self._timer.cancel()
        self._forget_gauges()
