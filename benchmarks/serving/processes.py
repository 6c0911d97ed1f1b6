"""A server as a process: started, waited for until it answers, weighed, ended with everything that it has started.

A server's processes are its descendants, and those with a variable in their environment that descendants inherit: some
detach themselves, and some write over what the system shows of their environment. Reads Linux's /proc.
"""

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

MARK = "SERVING_BENCHMARK"
START_S, STOP_S, ORPHANS_S = 180.0, 30.0, 3.0


class NotStarted(RuntimeError):
    """The server has ended, or gives no answer that can be used."""


@dataclass(frozen=True)
class Memory:
    """Resident memory of all processes in MiB; `proportional` divides what several share among them (PSS)."""

    processes: int
    resident: float
    proportional: float


@dataclass(frozen=True)
class Process:
    """A server that listens on `port` of 127.0.0.1."""

    port: int
    mark: str
    popen: subprocess.Popen[bytes]

    def ask(self, request: bytes) -> tuple[int, bytes]:
        """Status and body of the answer to a whole HTTP request."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=60)) as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return answer.status, answer.read()

    def memory(self) -> Memory:
        """What it takes now."""
        found = [_rollup(pid) for pid in _family(self.popen.pid, self.mark)]
        return Memory(len(found), *(round(sum(sizes[kind] for sizes in found) / 1024, 1) for kind in ("Rss:", "Pss:")))


def free_port() -> int:
    """A port that nobody listens on."""
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def running(
    command: Sequence[str], port: int, folder: Path, environ: Mapping[str, str], log: Path
) -> Iterator[Process]:
    """The server that `command` starts in `folder`; it may not answer yet. Its log is part of what it raises."""
    mark = uuid.uuid4().hex
    with log.open("wb") as output:
        popen = subprocess.Popen(  # noqa: S603 - ours
            command,
            cwd=folder,
            env={"PATH": os.defpath, MARK: mark, **environ},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield Process(port, mark, popen)
    except NotStarted as error:
        raise NotStarted(f"{error}\n{log.read_text(errors='replace')[-1500:]}") from error
    finally:
        _stop(popen, mark)


def wait_until(process: Process, right: Callable[[], bool]) -> float:
    """Seconds until the server gives the answer that is expected of it.

    Raises:
        NotStarted: it never does.
    """
    begun = time.perf_counter()
    while time.perf_counter() < begun + START_S:
        if process.popen.poll() is not None:
            raise NotStarted(f"the server has ended with {process.popen.returncode}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if right():
                return time.perf_counter() - begun
        time.sleep(0.05)
    raise NotStarted(f"no answer after {START_S:.0f} s")


def _stop(popen: subprocess.Popen[bytes], mark: str) -> None:
    family = _family(popen.pid, mark)
    popen.send_signal(signal.SIGTERM)
    give_up = time.monotonic() + STOP_S
    while family:
        time.sleep(0.05)
        ended = popen.poll() is not None
        family = _alive(family) | _family(-1 if ended else popen.pid, mark)  # its number may be another's by now
        if ended:
            give_up = min(give_up, time.monotonic() + ORPHANS_S)
        if time.monotonic() > give_up:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    popen.wait()


def _family(pid: int, mark: str) -> dict[int, str]:
    """The processes that carry `mark` or descend from `pid`, with when each was started: a number may be used again."""
    parents = {int(path.parent.name): _stat(path) for path in Path("/proc").glob("[0-9]*/stat")}
    needle = f"{MARK}={mark}".encode()
    found = {one for one in parents if one == pid or needle in _read(Path(f"/proc/{one}/environ"))}
    grown = 0
    while grown < len(found):
        grown = len(found)
        found |= {one for one, (parent, _) in parents.items() if parent in found}
    return {one: parents[one][1] for one in found if one in parents and parents[one][1]}


def _alive(family: Mapping[int, str]) -> dict[int, str]:
    return {pid: begun for pid, begun in family.items() if _stat(Path(f"/proc/{pid}/stat"))[1] == begun}


def _stat(path: Path) -> tuple[int, str]:
    """The parent of a process and when it was started; (0, "") of one that has ended, a zombie too."""
    fields = _read(path).rpartition(b")")[2].split()
    return (int(fields[1]), fields[19].decode()) if fields and fields[0] != b"Z" else (0, "")


def _rollup(pid: int) -> dict[str, int]:
    """Sizes in KiB by name, 0 for a process that has gone."""
    lines = (line.split() for line in _read(Path(f"/proc/{pid}/smaps_rollup")).decode().splitlines()[1:])
    return {"Rss:": 0, "Pss:": 0} | {name: int(size) for name, size, *_ in lines}


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended, or is not ours
        return b""
