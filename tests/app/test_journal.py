"""One request, one line: for people in words, for machines in fields, in either nothing that is nobody's concern."""

import json
import logging
from collections.abc import Iterator

import pytest

from app.journal import Entry, Journal, Trace, current
from app.observability import ConsoleFormatter, JsonFormatter
from tests.conftest import Api, bearer

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
URL = "/v1/models/tiny/predict"


class Keeper(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@pytest.fixture
def records(caplog: pytest.LogCaptureFixture) -> Iterator[list[logging.LogRecord]]:
    """What the journal writes."""
    keeper, log = Keeper(), logging.getLogger("sdb.http")
    log.addHandler(keeper)
    with caplog.at_level(logging.INFO, "sdb.http"):
        yield keeper.kept
    log.removeHandler(keeper)


def fields(record: logging.LogRecord) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(JsonFormatter().format(record))
    return parsed


async def test_a_line_names_the_request_the_key_and_what_it_came_to(
    api: Api, photo: bytes, records: list[logging.LogRecord]
) -> None:
    key = await api.issue(5)
    headers = {**bearer(key["api_key"]), "X-Request-ID": "mine", "traceparent": TRACEPARENT}
    records.clear()
    await api.client.post(f"{URL}?top_k=3", content=photo, headers=headers)
    (record,) = records
    known = fields(record)
    assert (
        known.items()
        >= {
            "level": "info",
            "method": "POST",
            "path": URL,
            "status": 200,
            "tier": "distill",
            "model": "tiny",
            "images": 1,
            "charge": 1,
            "key": key["id"],
            "request_id": "mine",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        }.items()
    )
    assert isinstance(known["ms"], float)
    line = record.getMessage()
    assert line.startswith(f"POST {URL} 200 ")
    assert line.endswith(f" ms distill images=1 charge=1 key={key['id']} mine")
    for secret in (key["api_key"], "127.0.0.1", "top_k"):
        assert secret not in JsonFormatter().format(record)


async def test_a_refusal_is_told_by_its_code(api: Api, photo: bytes, records: list[logging.LogRecord]) -> None:
    await api.client.post(URL, content=photo, headers=bearer("sdb_cli_forged"))
    await api.client.post("/v1/models/none/predict", content=photo)
    lines = [fields(record) for record in records]
    assert [(line["status"], line["code"]) for line in lines] == [(401, "invalid-credential"), (404, "unknown-model")]
    assert not any({"model", "tier", "key", "charge"} & line.keys() for line in lines)


async def test_who_manages_keys_and_who_fetches_tokens_is_named_too(api: Api, records: list[logging.LogRecord]) -> None:
    key = await api.issue(5)
    records.clear()
    await api.token(key)
    await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))
    await api.client.get("/admin/v1/keys", headers=api.admin)
    *holder, admin = [fields(record)["key"] for record in records]
    assert holder == [key["id"]] * 2
    assert str(admin).startswith("key_")
    assert admin != key["id"]


def finished(journal: Journal, ms: float) -> Entry:
    """A request that took so long."""
    entry = journal.begin("POST", URL, "mine", "")
    entry.status = 200
    entry.stage("admit")
    entry.stage("model")
    entry.began_ns -= int(ms * 1e6)
    entry.begun = [("admit", entry.began_ns), ("model", entry.began_ns + 2_000_000)]
    journal.end(entry)
    return entry


def test_a_slow_request_is_a_warning_that_says_where_the_time_went(records: list[logging.LogRecord]) -> None:
    finished(Journal(slow_ms=100.0), 99.0)
    finished(Journal(slow_ms=100.0, log_requests=False), 150.0)
    finished(Journal(slow_ms=0.0, log_requests=False), 150.0)
    quick, slow = records
    assert (quick.levelno, slow.levelno) == (logging.INFO, logging.WARNING)
    assert "slow: admit 2.0 ms, model 14" in slow.getMessage()
    assert fields(slow)["stages_ms"] == {"admit": 2.0, "model": pytest.approx(148, abs=20)}


def test_every_reader_sees_every_entry_and_how_many_are_open() -> None:
    journal, read = Journal(log_requests=False), list[Entry]()
    journal.readers.append(read.append)
    first, second = (journal.begin("GET", "/livez", "", "") for _ in range(2))
    assert (journal.open, current() is second) == (2, True)
    journal.end(second)
    journal.end(first)
    assert (journal.open, read) == (0, [second, first])


def test_a_new_trace_is_recorded_as_often_as_asked_and_a_callers_as_the_caller_has_chosen() -> None:
    assert not any(Trace.of("", 0.0).sampled for _ in range(100))
    assert all(Trace.of("", 1.0).sampled for _ in range(100))
    assert 400 < sum(Trace.of("", 0.5).sampled for _ in range(1000)) < 600
    for sample in (0.0, 1.0):
        assert Trace.of(TRACEPARENT, sample).sampled
        assert not Trace.of(TRACEPARENT[:-2] + "00", sample).sampled
        assert Trace.of(TRACEPARENT, sample).parent_id == "00f067aa0ba902b7"


def test_a_line_for_people_has_the_time_of_its_own_second() -> None:
    record = logging.makeLogRecord({"levelname": "INFO", "name": "sdb", "msg": "said"})
    formatter, plain = ConsoleFormatter(), logging.Formatter("%(asctime)s", "%H:%M:%S")
    for created in (1e9 + 0.1, 1e9 + 0.9, 1e9 + 1.0, 1e9 - 5):
        record.created = created
        assert formatter.format(record) == f"{plain.format(record)} INFO    sdb  said"
