"""A load generator in a process of its own: HTTP/1.1 requests over kept connections, every latency kept.

Closed loop: each connection sends its next request when it has its answer. Open loop (`--rate`): requests are due by a
schedule that does not wait for the server, and a latency counts from when its request was due, so that a stalled
server cannot hide its stall ("coordinated omission"). Every request that was sent is waited for, so that nothing of one
run is left to do in the next. Knows bytes and status codes; knows no model and does not look into answers.
"""

import argparse
import asyncio
import json
import os
import random
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Literal, cast

import httptools
import uvloop

from benchmarks.latencies import Recorder, Result

Arrivals = Literal["even", "poisson"]
GIVE_UP_S = 120.0  # after the end of a run, for what is still unanswered


@dataclass(frozen=True)
class Load:
    """What to send: `connections` at once for `seconds` after a warm-up; by schedule when `rate` (1/s) is given."""

    port: int
    connections: int
    seconds: float
    warm_up_s: float = 0.5
    rate: float | None = None
    arrivals: Arrivals = "even"


class Connection(asyncio.Protocol):
    """One kept connection with one request under way at a time; `done` is called with it after each answer."""

    def __init__(self, recorder: Recorder, done: Callable[["Connection"], None]) -> None:
        self._recorder, self._done = recorder, done
        self.open = False
        self._transport: asyncio.Transport | None = None
        self._due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102 - asyncio.Protocol
        transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._transport, self.open = transport, True

    def send(self, request: bytes, due: float) -> None:
        """Send a request that was due at `due` (perf_counter)."""
        assert self._transport is not None
        self._due = due
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:  # noqa: D102 - asyncio.Protocol
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:  # noqa: D102 - httptools' callback
        assert self._due is not None
        due, self._due = self._due, None
        self._recorder.answered(due, time.perf_counter(), self._parser.get_status_code())
        self._done(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102 - asyncio.Protocol
        self.open = False
        if self._due is not None:
            self._recorder.failed(f"connection lost: {exc}")
            self._due = None
            self._done(self)

    def close(self) -> None:
        """Close it."""
        assert self._transport is not None
        self._transport.close()


class Generator:
    """Sends the requests in turn over its connections until the window ends."""

    def __init__(self, load: Load, requests: Sequence[bytes], recorder: Recorder) -> None:
        self._load, self._recorder = load, recorder
        self._requests = cycle(requests)
        self._under_way = self.sent = 0
        self._idle: deque[Connection] = deque()
        self._overdue: deque[float] = deque()
        self._finished, self._all_sent = asyncio.Event(), False

    async def run(self) -> None:
        """Connect, send, wait for every answer, close."""
        loop = asyncio.get_running_loop()
        connect = partial(loop.create_connection, partial(Connection, self._recorder, self._answered))
        made = [await connect("127.0.0.1", self._load.port) for _ in range(self._load.connections)]
        connections = [connection for _, connection in made]
        self._idle.extend(connections)
        if self._load.rate is None:
            for _ in connections:
                self._send(time.perf_counter())
        else:
            await self._keep_to(schedule(self._load))
        try:
            async with asyncio.timeout(GIVE_UP_S):
                await self._finished.wait()
        except TimeoutError:
            self._recorder.failed(f"{self._under_way} without an answer {GIVE_UP_S:.0f} s after the end")
        for connection in connections:
            connection.close()
        await asyncio.sleep(0)  # a transport closes in the loop's next turn

    async def _keep_to(self, due_times: Iterator[float]) -> None:
        for due in due_times:
            await asyncio.sleep(due - time.perf_counter())
            self._send(due)
        self._all_sent = True
        if not self._under_way:
            self._finished.set()

    def _send(self, due: float) -> None:
        while self._idle and not self._idle[0].open:
            self._idle.popleft()
        if not self._idle:
            self._overdue.append(due)
            return
        self._under_way += 1
        self.sent += 1
        self._idle.popleft().send(next(self._requests), due)

    def _answered(self, connection: Connection) -> None:
        self._under_way -= 1
        self._idle.append(connection)
        now = time.perf_counter()
        if self._overdue:
            self._send(self._overdue.popleft())
        elif self._load.rate is None and now < self._recorder.end:
            self._send(now)
        elif not self._under_way and (self._all_sent or self._load.rate is None):
            self._finished.set()


def schedule(load: Load) -> Iterator[float]:
    """When each request is due (perf_counter): evenly, or at random with the same mean (seeded, exponential gaps)."""
    assert load.rate is not None
    draw = random.Random(0)
    due = time.perf_counter()
    end = due + load.warm_up_s + load.seconds
    while due < end:
        yield due
        due += draw.expovariate(load.rate) if load.arrivals == "poisson" else 1 / load.rate


def run(load: Load, requests: Sequence[bytes]) -> Result:
    """Put `load` on the server; blocks until every request that was sent is answered."""
    precise = partial(asyncio.SelectorEventLoop, selectors.SelectSelector())  # its timers have µs, uvloop's ms
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if load.rate is None else precise) as runner:
        return runner.run(_run(load, requests))


async def _run(load: Load, requests: Sequence[bytes]) -> Result:
    begin = time.perf_counter() + load.warm_up_s
    recorder = Recorder(begin, begin + load.seconds, load.connections if load.rate is None else None)
    generator = Generator(load, requests, recorder)
    cpu = time.process_time()
    await generator.run()
    return recorder.result(time.process_time() - cpu, generator.sent)


def main() -> None:
    """Run one load and print its result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("requests", type=Path, help="a folder of files, each a whole HTTP/1.1 request")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--warm-up", type=float, default=0.5)
    parser.add_argument(
        "--rate", type=float, help="requests a second, by schedule; as fast as answers come if left out"
    )
    parser.add_argument("--arrivals", choices=("even", "poisson"), default="even")
    parser.add_argument("--core", type=int, help="run on this core alone")
    asked = parser.parse_args()
    if asked.core is not None:
        os.sched_setaffinity(0, {asked.core})
    requests = [path.read_bytes() for path in sorted(asked.requests.iterdir())]
    load = Load(asked.port, asked.connections, asked.seconds, asked.warm_up, asked.rate, asked.arrivals)
    print(json.dumps(asdict(run(load, requests))))


if __name__ == "__main__":
    main()
