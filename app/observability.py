"""Log lines for people or for machines. Credentials never reach a logger: no caller passes one."""

import asyncio
import io
import logging
import os
import select
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import TextIO

import orjson

WAITS_MS = 500  # for a reader of the log who is behind; one who has gone to sleep is not waited for twice


class Unwaiting(logging.Handler):
    """Writes to a descriptor, and drops what nobody reads: a pipe that is full would stop the event loop for good.

    What an event loop logs in one turn is written in its next: each write takes as long as all that made the line. What
    is more than information is written at once, and all that waits before it.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor, self._lost, self._poll = descriptor, 0, select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._lines: list[bytes] = []
        self._writes: asyncio.AbstractEventLoop | None = None  # them, in its next turn

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, soon."""
        try:
            self._lines.append(self._line(record))
            if record.levelno > logging.INFO or not self._in_turn():
                self.flush()
        except Exception:
            self.handleError(record)

    def _line(self, record: logging.LogRecord) -> bytes:
        return f"{self.format(record)}\n".encode(errors="backslashreplace")

    def _in_turn(self) -> bool:
        """Whether an event loop will write what waits."""
        loop = asyncio._get_running_loop()  # None outside of one, where the public function raises
        if loop is not self._writes:
            self._writes = loop
            if loop is not None:
                loop.call_soon(self.flush)
        return loop is not None

    def flush(self) -> None:
        """Write what waits, or count it as lost; how much was, is said before the next that is not."""
        self.acquire()
        try:
            lines, self._lines, self._writes = self._lines, [], None
            if lines and self._lost and self._writable():
                lost, self._lost = self._lost, 0
                lines.insert(0, self._line(logging.makeLogRecord(_lost(lost))))
            for before, piece in _pieces(lines):
                if not self._writable():
                    self._lost += len(lines) - before
                    break
                os.write(self._descriptor, piece)
        except OSError:  # whoever read it has gone: no reason to stop, and there is nowhere to say so
            pass
        finally:
            self.release()

    def _writable(self) -> bool:
        return bool(self._poll.poll(0 if self._lost else WAITS_MS))


def _pieces(lines: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines in pieces that there is room for if there is any for them, and how many are whole before each."""
    piece, before = b"", 0
    for number, line in enumerate(lines):
        if piece and len(piece) + len(line) > select.PIPE_BUF:
            yield before, piece
            piece, before = b"", number
        piece += line
        while len(piece) > select.PIPE_BUF:
            yield before, piece[: select.PIPE_BUF]
            piece = piece[select.PIPE_BUF :]
    if piece:
        yield before, piece


def _lost(count: int) -> dict[str, object]:
    return {
        "name": "sdb.log",
        "levelno": logging.WARNING,
        "levelname": "WARNING",
        "msg": "%d lines were lost: nobody read this log",
        "args": (count,),
    }


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", dict)(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line).decode()


class ConsoleFormatter(logging.Formatter):
    """A line for people, with the time of day to the second, which is written once for all lines of it."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s  %(message)s", "%H:%M:%S")
        self._last = (0, "")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 - logging's name
        """The time of day, local."""
        second, text = self._last
        if int(record.created) != second:
            second, text = self._last = int(record.created), super().formatTime(record, datefmt)
        return text


def configure(log_format: str) -> None:
    """Send the root logger to standard error in `log_format`, "console" or "json"."""
    handler = _handler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=logging.INFO, force=True)
    # What no line of ours has; each would be looked up for every record.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def _handler(stream: TextIO) -> logging.Handler:
    try:
        return Unwaiting(stream.fileno())
    except io.UnsupportedOperation:  # no file of the system's: what is written stays in this process
        return logging.StreamHandler(stream)
