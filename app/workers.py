"""Several server processes on one socket of one host: started together, replaced one by one, stopped together.

Knows processes and signals; knows no HTTP. A worker is the server that `sdb serve` runs alone, with a socket and a
store that it shares with the others: a new connection goes to one that is free to take it.
"""

import contextlib
import logging
import math
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess

from app import observability
from app.metrics.families import Replaces
from app.metrics.tallies import SIZE
from app.settings import Settings
from keys.errors import ConfigurationError

SERVER = "app.server"
STOP = (signal.SIGTERM, signal.SIGINT)
RENEW = signal.SIGHUP  # to the parent: replace all workers; to a worker: leave, others take the callers
COULD_NOT_START = 3
AGAIN_AFTER_S = 1.0  # a worker that dies at once must not keep the machine busy with starting it
SILENT_FOR_S = 10.0  # its beat is once a second
LEAVE_WITHIN_S = 15.0  # beyond what a drain may take

Blocks = Sequence[object]

log = logging.getLogger("sdb.workers")


@dataclass(frozen=True)
class Place:
    """The blocks that all count in, the number of one's own, and what became of whoever had this place before."""

    blocks: Blocks
    number: int
    replaces: Replaces | None


class Worker:
    """One of the processes, and when it was last heard of."""

    def __init__(self, context: ForkServerContext, settings: Settings, listener: socket.socket, place: Place) -> None:
        self.place = place
        self.pulse, pulse = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(settings, listener, pulse, place))
        self.process.start()
        pulse.close()  # the worker's end
        self.end_is: Replaces = "ended"
        """What becomes of it, or is about to."""
        self.heard_at = math.inf  # not yet: how long a start may take is for the models to say
        self.told_at = math.inf

    @property
    def serves(self) -> bool:
        """Whether it has begun to answer."""
        return self.heard_at < math.inf and self.process.is_alive()

    @property
    def hangs(self) -> bool:
        """Whether it was heard of once, and is not any more."""
        return time.monotonic() - self.heard_at > SILENT_FOR_S

    def listen(self) -> None:
        """Take note of its beats."""
        with contextlib.suppress(EOFError, OSError):
            while self.pulse.poll():
                self.pulse.recv_bytes()
                self.heard_at = time.monotonic()

    def tell(self, number: signal.Signals) -> None:
        """Send it a signal with which it ends when it has finished what it has begun."""
        self.told_at = time.monotonic()
        if self.process.pid is not None and self.process.is_alive():
            os.kill(self.process.pid, number)

    def end(self) -> None:
        """The descriptors of one that has ended are closed."""
        self.process.join()
        self.pulse.close()


class Workers:
    """Processes that serve what the settings describe, on one socket.

    The settings, secrets and all, reach them through a pipe. All are forked from one process that has imported what
    they need and has done nothing else: a worker is there in a second, and the code is in memory once.
    """

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings, self._listener = settings, listener
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([SERVER])
        # A new worker begins before the old one has left, and some may take their time to leave.
        self._blocks: Blocks = [self._context.RawArray("B", SIZE) for _ in range(2 * settings.workers + 1)]
        self._running: list[Worker] = []
        self._leaving: list[Worker] = []
        self._to_replace: deque[Worker] = deque()
        self._incoming: Worker | None = None

    def serve(self) -> None:
        """Keep all workers running until SIGTERM or SIGINT; then let each of them finish what it has begun.

        SIGHUP replaces them one by one, each when its successor answers: what is in the models folder then is served.

        Raises:
            ConfigurationError: one of the first could not start.
        """
        with _signals() as signals:
            for _ in range(self._settings.workers):
                self._running.append(self._start())
            first = set(self._running)
            try:
                while not self._told(signals):
                    self._listen(signals)
                    self._kill_hung()
                    self._replace_ended(first)
                    self._renew()
            finally:
                self._stop()

    def _told(self, signals: socket.socket) -> bool:
        """Whether it is time to stop."""
        try:
            numbers = signals.recv(64)
        except BlockingIOError:
            return False
        if RENEW in numbers and not self._to_replace:
            log.info("all %d workers are replaced, one by one", len(self._running))
            self._to_replace.extend(self._running)
        return any(number in numbers for number in STOP)

    def _listen(self, signals: socket.socket) -> None:
        """Wait until something happens, a second at most."""
        workers = self._all()
        connection.wait([signals, *(worker.process.sentinel for worker in workers), *_pulses(workers)], 1.0)
        for worker in workers:
            worker.listen()

    def _all(self) -> list[Worker]:
        return [*self._running, *self._leaving, *([] if self._incoming is None else [self._incoming])]

    def _kill_hung(self) -> None:
        limit = self._settings.drain_delay_s + self._settings.drain_timeout_s + LEAVE_WITHIN_S
        for worker in self._running:
            if worker.hangs and worker.process.is_alive():
                log.error("worker %s hangs and is killed", worker.process.pid)
                worker.end_is = "hung"
                worker.process.kill()
        for worker in self._leaving:
            if time.monotonic() - worker.told_at > limit:
                log.error("worker %s does not end and is killed", worker.process.pid)
                worker.process.kill()

    def _replace_ended(self, first: set[Worker]) -> None:
        for worker in [worker for worker in self._leaving if not worker.process.is_alive()]:
            worker.end()
            self._leaving.remove(worker)
        for number, worker in enumerate(self._running):
            if worker.process.is_alive():
                continue
            if worker in first and worker.process.exitcode == COULD_NOT_START:
                raise ConfigurationError("a worker could not start; the log says why")
            log.warning("worker %s ended (%s), another one starts", worker.process.pid, worker.process.exitcode)
            worker.end()
            time.sleep(AGAIN_AFTER_S)
            self._running[number] = self._start(worker.end_is)

    def _renew(self) -> None:
        """A step towards new workers: start one, or let it take the place of an old one when it answers."""
        while self._to_replace and self._to_replace[0] not in self._running:
            self._to_replace.popleft()  # it ended by itself: its successor is new
        if self._incoming is None:
            self._incoming = self._start("renewed") if self._to_replace else None
        elif not self._incoming.process.is_alive():
            log.error("a new worker could not start: the old ones stay")
            self._to_replace.clear()
            self._incoming.end()
            self._incoming = None
        elif self._incoming.serves:
            self._take_over(self._incoming)
            self._incoming = None

    def _take_over(self, successor: Worker) -> None:
        if not self._to_replace:
            self._leaving.append(successor)
            successor.tell(RENEW)
            return
        old = self._to_replace.popleft()
        self._running[self._running.index(old)] = successor
        self._leaving.append(old)
        old.tell(RENEW)
        log.info("worker %s takes the place of %s", successor.process.pid, old.process.pid)

    def _start(self, replaces: Replaces | None = None) -> Worker:
        """A worker that goes on counting where one that has ended left off."""
        taken = [worker.place.number for worker in self._all() if worker.process.is_alive()]
        number = min(range(len(self._blocks)), key=taken.count)
        return Worker(self._context, self._settings, self._listener, Place(self._blocks, number, replaces))

    def _stop(self) -> None:
        workers = self._all()
        for worker in workers:
            worker.tell(signal.SIGTERM)
        until = time.monotonic() + self._settings.drain_delay_s + self._settings.drain_timeout_s + LEAVE_WITHIN_S
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
            if worker.process.is_alive():
                log.error("worker %s does not end and is killed", worker.process.pid)
                worker.process.kill()
            worker.end()


def _pulses(workers: list[Worker]) -> list[Connection]:
    return [worker.pulse for worker in workers if worker.process.is_alive()]


@contextmanager
def _signals() -> Iterator[socket.socket]:
    """Whence the numbers of the signals that this process gets can be read, a byte each."""
    here, there = socket.socketpair()
    with closing(here), closing(there):
        here.setblocking(False)
        there.setblocking(False)
        signal.set_wakeup_fd(there.fileno())
        before = {number: signal.signal(number, lambda *_: None) for number in (*STOP, RENEW)}
        try:
            yield here
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)


def _work(settings: Settings, listener: socket.socket, pulse: Connection, place: Place) -> None:
    """The life of a worker; what an operator can mend ends it with one line."""
    from app.metrics.share import Share  # noqa: PLC0415
    from app.server import UNBUILDABLE, run  # noqa: PLC0415 - imports torch, which the parent does without

    signal.signal(RENEW, signal.SIG_IGN)  # until there is somebody who could leave
    observability.configure(settings.log_format)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    os.set_blocking(pulse.fileno(), False)
    try:
        run(settings, listener, lambda: _beat(pulse), Share.of(place.blocks, place.number, place.replaces))
    except UNBUILDABLE as error:
        sys.stderr.write(f"sdb: {error}\n")
        sys.exit(COULD_NOT_START)


def _beat(pulse: Connection) -> None:
    with contextlib.suppress(OSError):  # nobody reads: the parent hangs, or is gone
        pulse.send_bytes(b"!")


def _end_with(parent: BaseProcess) -> None:
    """A parent that was killed leaves no server behind that would hold its port and write to its store."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
