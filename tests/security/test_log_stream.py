"""Whoever reads the log, or does not, holds up nobody."""

import asyncio
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


async def test_what_an_event_loop_says_in_one_turn_is_written_together_and_in_order(log: Log) -> None:
    for number in range(3):
        log.logger.info("line %d", number)
    os.set_blocking(log.reader, False)
    with pytest.raises(BlockingIOError):
        log.read()
    await asyncio.sleep(0)
    assert log.read() == ["INFO line 0", "INFO line 1", "INFO line 2"]
    log.logger.info("before")
    await asyncio.to_thread(log.logger.info, "in a thread")
    assert log.read() == ["INFO before", "INFO in a thread"]
    log.logger.info("before")
    log.logger.warning("a warning does not wait")
    assert log.read() == ["INFO before", "WARNING a warning does not wait"]
    os.close(log.reader)


def test_what_a_loop_that_has_ended_left_is_written_by_the_next(log: Log) -> None:
    for text in ("left", "behind"):
        loop = asyncio.new_event_loop()

        def say_and_stop(text: str = text, loop: asyncio.AbstractEventLoop = loop) -> None:
            loop.stop()
            log.logger.info(text)

        loop.call_soon(say_and_stop)
        loop.run_forever()
        loop.close()
    log.logger.handlers[0].flush()
    assert log.read() == ["INFO left", "INFO behind"]
    os.close(log.reader)


async def test_lines_are_lost_whole(log: Log) -> None:
    for number in range(2000):
        log.logger.info("%d %s", number, "x" * 100)
    await asyncio.sleep(0)
    log.logger.info("%s", "y" * 3 * 2**12)
    await asyncio.sleep(0)
    written = log.read()
    assert all(len(line) >= 100 + len("INFO 0 ") for line in written)
    log.logger.info("read again")
    await asyncio.sleep(0)
    assert log.read() == [f"WARNING {2001 - len(written)} lines were lost: nobody read this log", "INFO read again"]
    os.close(log.reader)
