"""Several server processes on one socket of one host: started together, restarted one by one, stopped together.

Knows processes and signals; knows no HTTP. A worker is the server that `sdb serve` runs alone, with a socket and a
store that it shares with the others: a new connection goes to one that is free to take it.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing import connection, get_context, parent_process
from multiprocessing.context import ForkServerProcess
from multiprocessing.process import BaseProcess

from app import observability
from app.settings import Settings
from keys.errors import ConfigurationError

SERVER = "app.server"
STOP = (signal.SIGTERM, signal.SIGINT)
COULD_NOT_START = 3
AGAIN_AFTER_S = 1.0  # a worker that dies at once must not keep the machine busy with starting it

log = logging.getLogger("sdb.workers")


class Workers:
    """Processes that serve what the settings describe, on one socket.

    The settings, secrets and all, reach them through a pipe. All are forked from one process that has imported what
    they need and has done nothing else: a worker is there in a second, and the code is in memory once.
    """

    def __init__(self, settings: Settings, listener: socket.socket) -> None:
        self._settings, self._listener = settings, listener
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload([SERVER])
        self._running: list[ForkServerProcess] = []

    def serve(self) -> None:
        """Keep all workers running until SIGTERM or SIGINT; then let each of them finish what it has begun.

        Raises:
            ConfigurationError: one of the first could not start.
        """
        with _told_to_stop() as stop:
            self._running = [self._start() for _ in range(self._settings.workers)]
            first = set(self._running)
            try:
                while stop not in connection.wait([stop, *(worker.sentinel for worker in self._running)]):
                    self._replace_ended(first)
            finally:
                self._stop()

    def _replace_ended(self, first: set[ForkServerProcess]) -> None:
        for number, worker in enumerate(self._running):
            if worker.is_alive():
                continue
            if worker in first and worker.exitcode == COULD_NOT_START:
                raise ConfigurationError("a worker could not start; the log says why")
            log.warning("worker %s ended (%s), another one starts", worker.pid, worker.exitcode)
            time.sleep(AGAIN_AFTER_S)
            self._running[number] = self._start()

    def _start(self) -> ForkServerProcess:
        worker = self._context.Process(target=_work, args=(self._settings, self._listener))
        worker.start()
        return worker

    def _stop(self) -> None:
        for worker in self._running:
            worker.terminate()
        for worker in self._running:
            worker.join()


@contextmanager
def _told_to_stop() -> Iterator[socket.socket]:
    """What becomes readable when this process gets a signal of `STOP`."""
    here, there = socket.socketpair()
    with closing(here), closing(there):
        there.setblocking(False)
        signal.set_wakeup_fd(there.fileno())
        before = {number: signal.signal(number, lambda *_: None) for number in STOP}
        try:
            yield here
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(-1)


def _work(settings: Settings, listener: socket.socket) -> None:
    """The life of a worker; what an operator can mend ends it with one line."""
    from app.server import UNBUILDABLE, run  # noqa: PLC0415 - imports torch, which the parent does without

    observability.configure(settings.log_format)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        run(settings, listener)
    except UNBUILDABLE as error:
        sys.stderr.write(f"sdb: {error}\n")
        sys.exit(COULD_NOT_START)


def _end_with(parent: BaseProcess) -> None:
    """A parent that was killed leaves no server behind that would hold its port and write to its store."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
