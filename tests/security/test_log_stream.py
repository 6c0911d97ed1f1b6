"""Whoever reads the log, or does not, holds up nobody."""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from app.observability import WAITS_MS, Unwaiting


@dataclass
class Log:
    """A logger that writes into a pipe, and the pipe's other end."""

    logger: logging.Logger
    reader: int

    def read(self) -> list[str]:
        """The lines that are in the pipe."""
        return os.read(self.reader, 2**20).decode().splitlines()


@pytest.fixture
def log() -> Iterator[Log]:
    reader, writer = os.pipe()
    handler, logger = Unwaiting(writer), logging.Logger("log", logging.INFO)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    logger.addHandler(handler)
    with closing(os.fdopen(writer, "wb")):
        yield Log(logger, reader)


def test_a_log_that_nobody_reads_is_waited_for_once_and_then_dropped(log: Log) -> None:
    began = time.monotonic()
    for number in range(5000):
        log.logger.info("line %d of many that nobody reads", number)
    assert time.monotonic() - began < 3 * WAITS_MS / 1000
    written = log.read()
    assert written == [f"INFO line {number} of many that nobody reads" for number in range(len(written))]
    log.logger.info("somebody reads again")
    lost, again = log.read()
    assert lost == f"WARNING {5000 - len(written)} lines were lost: nobody read this log"
    assert again == "INFO somebody reads again"
    os.close(log.reader)


def test_a_long_line_is_written_whole(log: Log) -> None:
    log.logger.error("x" * 50_000)
    assert log.read() == ["ERROR " + "x" * 50_000]
    os.close(log.reader)


def test_a_reader_that_has_gone_is_no_failure(log: Log) -> None:
    os.close(log.reader)
    log.logger.error("into the void")
