"""Numbers in shared memory: none is lost with the process that counted it, and a sum never falls."""

import logging
import time
from functools import partial

import pytest

from app.metrics import families
from app.metrics.families import REPLACES
from app.metrics.recorder import Metrics
from app.metrics.share import Share
from app.metrics.tallies import SIZE, UNREAD, Tallies
from tests.app.scraping import Scrape


def block() -> memoryview:
    return memoryview(bytearray(SIZE))


def seen(metrics: Metrics) -> Scrape:
    return Scrape.of(metrics.text("")[0].decode())


def test_who_comes_after_goes_on_where_the_one_before_ended() -> None:
    shared = block()
    first = Tallies(shared)
    first.values[first.row(("a", "x"), 1)] = 3.0
    first.values[first.row(("b", 'la"bel\n'), 4) + 2] = 5.0
    second = Tallies(shared)
    assert dict(second.rows()) == {("a", "x"): [3.0], ("b", 'la"bel\n'): [0.0, 0.0, 5.0, 0.0]}
    second.values[second.row(("a", "x"), 1)] += 1.0
    second.values[second.row(("c",), 1)] += 1.0
    assert dict(Tallies(shared).rows())["a", "x"] == [4.0]
    assert dict(first.rows())["c",] == [1.0]


def test_what_there_is_no_room_for_is_said_once_and_counted_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    tallies = Tallies(block())
    with caplog.at_level(logging.WARNING):
        rows = [tallies.row(("name", str(number)), 16) for number in range(4000)]
        again = tallies.row(("name", "3999"), 16)
    assert rows[-1] == again == UNREAD
    found = dict(tallies.rows())
    assert len({row for row in rows if row != UNREAD}) == len(found) < 4000
    tallies.values[again] = 1.0
    assert all(row == [0.0] * 16 for row in found.values())
    assert len(caplog.records) == 4000 - len(found)


def test_any_process_tells_the_sum_of_all() -> None:
    blocks = [block(), block(), block()]
    first, second = Metrics(Share(blocks, 0)), Metrics(Share(blocks, 2))
    for metrics, count in ((first, 2), (second, 3)):
        metrics.refresh()
        for _ in range(count):
            metrics.asked_store(0.02, "TimeoutError")
    for metrics in (first, second):
        now = seen(metrics)
        assert now.value("sdb_store_errors_total", error="TimeoutError") == 5
        assert now.value("sdb_store_seconds_bucket", le="0.025") == 5
        assert now.value("sdb_store_seconds_bucket", le="0.01") == 0
        assert now.value("sdb_store_seconds_sum") == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("family", "expected"), [(families.QUEUE, 8.0), (families.MODEL_READY, 1.0), (families.MODEL_INFO, 7.0)]
)
def test_gauges_of_several_are_summed_or_the_least_or_the_greatest(family: families.Family, expected: float) -> None:
    blocks = [block(), block()]
    labels = tuple("x" for _ in family.labels)
    for number, value in enumerate((1.0, 7.0)):
        metrics = Metrics(Share(blocks, number))
        metrics.sample(family, labels, partial(float, value))
        metrics.refresh()
    assert seen(metrics).value(family.name, **dict.fromkeys(family.labels, "x")) == expected


def test_how_it_was_with_a_process_that_has_ended_is_not_told_but_what_it_counted() -> None:
    blocks = [block(), block()]
    ended, other = Metrics(Share(blocks, 0)), Metrics(Share(blocks, 1))
    for metrics in (ended, other):
        metrics.sample(families.QUEUE, ("tiny",), lambda: 5.0)
        metrics.refresh()
        metrics.alarm("tiny", "key", "alarm")
    assert seen(other).value("sdb_queue_images", model="tiny") == 10
    ended.close()
    for _ in range(2):
        now = seen(other)
        assert now.value("sdb_queue_images", model="tiny") == 5
        assert now.value("process_resident_memory_bytes", worker="0") == 0
        assert now.value("sdb_watch_alarms_total", model="tiny", caller="key", action="alarm") == 2
        killed = Metrics(Share(blocks, 0))  # which says nothing at its end
        killed.sample(families.QUEUE, ("tiny",), lambda: 5.0)
        killed.sample(families.HEARTBEAT, (), lambda: time.time() - 60)
        killed.refresh()
    assert seen(other).value("sdb_worker_starts_total", worker="0") == 3


def test_who_takes_the_place_of_another_counts_why() -> None:
    """Who has gone cannot; and each reason is there from the first, or its first increase would not be seen."""
    blocks = [block(), block()]
    first = Metrics(Share(blocks, 0))
    assert [seen(first).value("sdb_workers_replaced_total", reason=reason) for reason in REPLACES] == [0, 0, 0]
    Metrics(Share(blocks, 0, "hung"))
    Metrics(Share(blocks, 1, "renewed"))
    Metrics(Share(blocks, 1, "renewed"))
    now = seen(first)
    counts = {reason: now.value("sdb_workers_replaced_total", reason=reason) for reason in REPLACES}
    assert counts == {"ended": 0, "hung": 1, "renewed": 2}
