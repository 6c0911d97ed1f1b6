"""Log lines for people or for machines. Credentials never reach a logger: no caller passes one."""

import io
import logging
import os
import select
import sys
from datetime import UTC, datetime
from typing import TextIO

import orjson

WAITS_MS = 500  # for a reader of the log who is behind; one who has gone to sleep is not waited for twice


class Unwaiting(logging.Handler):
    """Writes to a descriptor, and drops what nobody reads: a pipe that is full would stop the event loop for good."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor, self._lost, self._poll = descriptor, 0, select.poll()
        self._poll.register(descriptor, select.POLLOUT)

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it as lost; how many were, is said before the next that is not."""
        try:
            if self._lost and self._writable():
                lost, self._lost = self._lost, 0
                self._write(logging.makeLogRecord(_lost(lost)))
            self._write(record)
        except OSError:  # whoever read it has gone: no reason to stop, and there is nowhere to say so
            pass
        except Exception:
            self.handleError(record)

    def _write(self, record: logging.LogRecord) -> None:
        text = f"{self.format(record)}\n".encode(errors="backslashreplace")
        for begin in range(0, len(text), select.PIPE_BUF):  # there is room for so much if there is any
            if not self._writable():
                self._lost += 1
                return
            os.write(self._descriptor, text[begin : begin + select.PIPE_BUF])

    def _writable(self) -> bool:
        return bool(self._poll.poll(0 if self._lost else WAITS_MS))


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
            **getattr(record, "fields", {}),
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


def _handler(stream: TextIO) -> logging.Handler:
    try:
        return Unwaiting(stream.fileno())
    except io.UnsupportedOperation:  # no file of the system's: what is written stays in this process
        return logging.StreamHandler(stream)
