"""When and how often both clients ask again, and under which name."""

import logging
from datetime import UTC, datetime
from itertools import pairwise

import httpx
import pytest
from sdb_client.errors import (
    APIConnectionError,
    APIError,
    APITimeoutError,
    InvalidRequest,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    SdbError,
)
from sdb_client.transport import retries
from sdb_client.transport.credentials import Credentials
from sdb_client.transport.exchange import Exchange
from sdb_client.transport.request import Request, named
from sdb_client.transport.steps import Pause, Send

from tests.client.asking import BOTH, URL, Answer, Asking, Box, answer, blocking, refusal
from tests.client.test_client_calls import CARD, PREDICTIONS

BUSY = refusal("overloaded", 503, Retry_After="0")
NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize("asking", BOTH)
@pytest.mark.parametrize(
    "trouble",
    [
        BUSY,
        refusal("rate-limited", 429, Retry_After="0"),
        refusal("idempotency-in-progress", 409, Retry_After="0"),
        httpx.Response(408, headers={"Retry-After": "0"}),
        httpx.Response(502, headers={"Retry-After": "Sun, 22 Nov 2026 00:00:00 GMT"}),
        refusal("invalid-request", 400, x_should_retry="true", Retry_After="0"),
    ],
)
def test_what_passes_is_asked_again_under_the_same_name_and_in_the_same_bytes(asking: Asking, trouble: Answer) -> None:
    box = Box.of(trouble, trouble, answer(PREDICTIONS))
    assert asking(box, lambda c: c.predict([b"one", b"two"], "m")).model == "m"
    first, *others = box.asked
    assert len(others) == 2
    for other in others:
        assert other.content == first.content
        assert other.headers["Idempotency-Key"] == first.headers["Idempotency-Key"]
    asking(box, lambda c: c.predict(b"one", "m"))
    assert box.asked[-1].headers["Idempotency-Key"] != first.headers["Idempotency-Key"], "the next request is another"


@pytest.mark.parametrize("asking", BOTH)
@pytest.mark.parametrize(
    ("trouble", "expected"),
    [
        (refusal("quota-exceeded", 429, x_should_retry="false"), QuotaExceeded),
        (refusal("rate-limited", 429, x_should_retry="false", Retry_After="0"), RateLimited),
        (refusal("rate-limited", 429, Retry_After="61"), RateLimited),
        (refusal("invalid-request", 400, Retry_After="0"), InvalidRequest),
        (httpx.Response(409), APIError),
        (httpx.InvalidURL("no host"), APIConnectionError),
        (httpx.UnsupportedProtocol("gopher"), APIConnectionError),
        (httpx.DecodingError("no gzip"), APIConnectionError),
        (UnicodeError("label too long"), APIConnectionError),
    ],
)
def test_what_does_not_pass_is_asked_once(asking: Asking, trouble: Answer, expected: type[Exception]) -> None:
    box = Box.of(trouble)
    with pytest.raises(expected):
        asking(box, lambda c: c.models.list())
    assert len(box.asked) == 1


@pytest.mark.parametrize("asking", BOTH)
@pytest.mark.parametrize("most", [0, 1, 4])
def test_a_server_that_stays_busy_is_asked_so_often_and_no_more(asking: Asking, most: int) -> None:
    box = Box.of(BUSY)
    with pytest.raises(Overloaded) as caught:
        asking(box, lambda c: c.models.list(), max_retries=most)
    assert (len(box.asked), caught.value.retry_after) == (1 + most, 0.0)


@pytest.mark.parametrize("asking", BOTH)
def test_other_patience_is_for_the_client_made_with_it(asking: Asking) -> None:
    box = Box.of(BUSY)
    with pytest.raises(Overloaded):
        asking(box, lambda c: c.with_options(max_retries=0, timeout=3.0).models.list(), max_retries=4, timeout=7.0)
    assert len(box.asked) == 1
    assert box.asked[0].extensions["timeout"]["read"] == 3.0
    with pytest.raises(Overloaded):
        asking(box, lambda c: c.with_options().models.list(), max_retries=1, timeout=7.0)
    assert len(box.asked) == 3
    assert box.asked[-1].extensions["timeout"]["read"] == 7.0


def pauses_before(troubles: list[Answer], max_retries: int) -> list[float]:
    """A flow before these answers, without a clock: the pauses that it asks for."""
    with httpx.Client() as http:
        credentials = Credentials(None, "token", lambda: 0.0)
        exchange = Exchange(http, URL, credentials, httpx.Timeout(1), max_retries, "test")
        request = Request("POST", "/", lambda response: response, headers=named(None))
        flow = exchange.ask(request)
        pauses: list[float] = []
        step = next(flow)
        try:
            while True:
                if isinstance(step, Pause):
                    pauses.append(step.seconds)
                    step = flow.send(None)
                    continue
                assert isinstance(step, Send)
                trouble = troubles.pop(0)
                step = flow.throw(trouble) if isinstance(trouble, Exception) else flow.send(trouble)
        except (StopIteration, APIError, APIConnectionError):
            return pauses


@pytest.mark.parametrize(
    "trouble", [httpx.ConnectError("refused"), httpx.ReadTimeout("slow"), httpx.Response(500), httpx.Response(429)]
)
def test_pauses_double_up_to_a_bound_and_no_two_callers_take_the_same(trouble: Answer) -> None:
    pauses = pauses_before([trouble] * 8, max_retries=7)
    assert len(pauses) == 7
    for pause, longest in zip(pauses, [0.5, 1, 2, 4, 8, 8, 8], strict=True):
        assert 0.75 * longest <= pause <= longest
    assert all(earlier != later for earlier, later in pairwise(pauses))


def test_the_server_decides_how_long_we_wait() -> None:
    pauses = pauses_before([refusal("rate-limited", 429, Retry_After="60"), httpx.Response(204)], max_retries=1)
    assert pauses == [60.0]


@pytest.mark.parametrize("asking", BOTH)
def test_silence_has_errors_of_its_own(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SDB_BASE_URL", raising=False)
    with pytest.raises(APITimeoutError, match=f"{URL} does not answer: ReadTimeout"):
        asking(Box.of(httpx.ReadTimeout("")), lambda c: c.models.list(), max_retries=0)
    with pytest.raises(APIConnectionError, match="refused") as caught:
        asking(Box.of(httpx.ConnectError("refused")), lambda c: c.models.list(), max_retries=0)
    assert isinstance(caught.value.__cause__, httpx.ConnectError)
    with pytest.raises(APIConnectionError, match="refused; SDB_BASE_URL names another server"):
        asking(Box.of(httpx.ConnectError("refused")), lambda c: c.models.list(), base_url=None, max_retries=0)


@pytest.mark.parametrize("asking", BOTH)
@pytest.mark.parametrize("url", ["http://box:port", "http://[::1", "http://b\nox"])
def test_what_is_no_address_is_a_connection_error(asking: Asking, url: str) -> None:
    with pytest.raises(APIConnectionError, match="does not answer"):
        asking(Box.of(answer({})), lambda c: c.models.list(), base_url=url, max_retries=0)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 86400 ", 86400.0),
        ("Sun, 22 Nov 2026 12:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 11:00:00 GMT", 0.0),
        ("Sun, 22 Nov 2026 12:00:30", 30.0),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("٣", None),
        ("soon", None),
        ("Sun, 22 Nov 99999999999999999999 12:00:30 GMT", None),
        ("9" * 5000, None),
    ],
)
def test_a_pause_is_given_in_seconds_or_as_a_date(header: str, seconds: float | None) -> None:
    assert retries.retry_after({"Retry-After": header}, NOW) == seconds


@pytest.mark.parametrize("name", ["", "two words", "line\nbreak", "ключ", "n" * 256])
def test_a_name_that_no_header_can_hold_is_refused_before_anything_is_sent(name: str) -> None:
    box = Box.of(answer(PREDICTIONS))
    with pytest.raises(SdbError, match="idempotency key"):
        blocking(box, lambda c: c.predict(b"one", "m", idempotency_key=name))
    assert not box.asked


def test_a_retry_is_told_to_whoever_reads_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sdb_client"):
        blocking(Box.of(BUSY, answer({"models": [CARD]})), lambda c: c.models.list())
    assert [record.getMessage() for record in caplog.records if record.name == "sdb_client"] == [
        "GET /v1/models again in 0.0 s: overloaded: about overloaded (request r-1)"
    ]
