"""What every request passes, tried on small ASGI applications."""

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Iterable, Mapping

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.journal import Journal
from app.middleware import Gate
from tests.conftest import Api, bearer

LIMIT = 1000
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
SOON = 30.0  # seconds after which a test that waits has failed


async def reader(_: Scope, receive: Receive, send: Send) -> None:
    """An application that reads its body and says how long it was."""
    received, more = 0, True
    while more:
        message = await receive()
        received += len(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, str(received).encode())


async def ignorer(_: Scope, __: Receive, send: Send) -> None:
    """An application that looks at nothing."""
    await answer(send, b"ok")


async def crasher(_: Scope, __: Receive, ___: Send) -> None:
    raise RuntimeError("the password is hunter2")


async def late_crasher(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    raise RuntimeError("the password is hunter2")


def gated(app: ASGIApp) -> Gate:
    return Gate(app, max_body_bytes=LIMIT, journal=Journal())


async def answer(send: Send, body: bytes) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


async def ask(
    app: ASGIApp,
    content: bytes | AsyncIterator[bytes] = b"",
    headers: Mapping[str, str] | None = None,
    params: Mapping[str, str] | None = None,
) -> httpx.Response:
    """One request to `app` behind the gate."""
    transport = httpx.ASGITransport(gated(app))
    async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
        return await client.post("/", content=content, headers=headers, params=params)


async def exchange(
    app: ASGIApp, parts: Iterable[Message], headers: Iterable[tuple[bytes, bytes]] = (), path: str = "/"
) -> list[Message]:
    """What `app` sends for a request of `parts`; like a real server, `receive` then waits for the answer's end."""
    incoming, sent, finished = iter(parts), list[Message](), asyncio.Event()

    async def receive() -> Message:
        for message in incoming:
            return message
        await finished.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            finished.set()

    scope = {"type": "http", "method": "POST", "path": path, "query_string": b"", "headers": list(headers)}
    scope |= {"raw_path": path.encode(), "http_version": "1.1", "scheme": "http", "root_path": ""}
    scope |= {"client": ("127.0.0.1", 1), "server": ("box", 80)}
    async with asyncio.timeout(SOON):
        await app(scope, receive, send)
    return sent


def part(size: int, more: bool) -> Message:
    return {"type": "http.request", "body": b"x" * size, "more_body": more}


async def chunks(count: int, size: int) -> AsyncIterator[bytes]:
    """A body that declares no length."""
    for _ in range(count):
        yield b"x" * size


def assert_problem(response: httpx.Response, status: int, code: str) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    body = response.json()
    assert (body["status"], body["code"]) == (status, code)
    assert body["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize("given", ["a", "A-b_c.d:9", "0" * 128])
async def test_a_well_formed_request_id_comes_back(given: str) -> None:
    assert (await ask(reader, headers={"X-Request-ID": given})).headers["x-request-id"] == given


@pytest.mark.parametrize(
    "given", [b"", b"0" * 129, b"two words", b"a\nb", b"a\r\nSet-Cookie: x=1", b"a\n", b"\xe9", b"<script>", b"a\x00"]
)
async def test_a_bad_request_id_is_replaced_by_a_new_one(given: bytes) -> None:
    seen = set()
    for _ in range(2):
        start = (await exchange(gated(ignorer), [part(0, False)], [(b"x-request-id", given)]))[0]
        seen.add(dict(start["headers"])[b"x-request-id"])
    assert len(seen) == 2
    assert all(re.fullmatch(rb"[0-9a-f]{32}", request_id) for request_id in seen)


async def test_a_trace_is_continued_in_a_span_of_our_own() -> None:
    given = f"00-{TRACE_ID}-{SPAN_ID}-01"
    seen = [(await ask(ignorer, headers={"traceparent": given})).headers["traceparent"] for _ in range(2)]
    for traceparent in seen:
        version, trace_id, span_id, flags = traceparent.split("-")
        assert (version, trace_id, flags) == ("00", TRACE_ID, "01")
        assert re.fullmatch(r"(?!0{16})[0-9a-f]{16}", span_id)
        assert span_id != SPAN_ID
    assert seen[0] != seen[1]


@pytest.mark.parametrize(
    "given",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
        f"ff-{TRACE_ID}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{SPAN_ID}-01-extra",
    ],
)
async def test_without_a_valid_trace_a_new_one_begins(given: str) -> None:
    traceparent = (await ask(ignorer, headers={"traceparent": given})).headers["traceparent"]
    assert re.fullmatch(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", traceparent)
    assert TRACE_ID not in traceparent


async def test_a_body_of_exactly_the_limit_passes() -> None:
    assert (await ask(reader, content=b"x" * LIMIT)).text == str(LIMIT)
    assert (await ask(reader, content=chunks(10, LIMIT // 10))).text == str(LIMIT)


@pytest.mark.parametrize("app", [reader, ignorer, crasher])
async def test_a_declared_length_over_the_limit_is_refused_whatever_the_application_does(app: ASGIApp) -> None:
    assert_problem(await ask(app, content=b"x" * (LIMIT + 1)), 413, "body-too-large")


@pytest.mark.parametrize("length", [b"1001", b"9" * 30, b"0001001"])
async def test_a_declared_length_is_refused_before_anything_is_read(length: bytes) -> None:
    sent = await exchange(gated(reader), [{"type": "http.disconnect"}], [(b"content-length", length)])
    assert sent[0]["status"] == 413


async def test_a_body_without_a_length_is_counted_while_it_is_read() -> None:
    assert_problem(await ask(reader, content=chunks(11, LIMIT // 10)), 413, "body-too-large")
    assert_problem(await ask(reader, content=chunks(1, LIMIT + 1)), 413, "body-too-large")


async def test_a_body_that_nobody_reads_is_nobodys_problem() -> None:
    response = await ask(ignorer, content=chunks(11, LIMIT // 10))
    assert (response.status_code, response.text) == (200, "ok")


async def test_a_body_that_ends_with_the_part_over_the_limit_is_refused_at_once() -> None:
    """Nothing follows that part, so whoever waits for more waits for ever."""
    sent = await exchange(gated(reader), [part(LIMIT, True), part(1, False)])
    assert sent[0]["status"] == 413
    assert json.loads(sent[1]["body"])["code"] == "body-too-large"


async def test_a_caller_who_sends_without_end_is_cut_off() -> None:
    def endless() -> Iterable[Message]:
        while True:
            yield part(LIMIT, True)

    sent = await exchange(gated(reader), endless())
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 413


async def test_a_caller_who_waits_for_leave_to_send_is_refused_without_sending() -> None:
    headers = [(b"content-length", b"5000"), (b"expect", b"100-continue")]
    sent = await exchange(gated(reader), [], headers)
    assert sent[0]["status"] == 413


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    async def early(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        await receive()

    for app in (early, late_crasher):
        sent = await exchange(gated(app), [part(LIMIT, True), part(LIMIT, True), part(0, False)])
        assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [200]


async def test_a_crash_is_a_problem_without_the_reason(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sdb.http"):
        response = await ask(crasher)
    assert_problem(response, 500, "internal-error")
    assert "hunter2" not in response.text
    assert "RuntimeError" not in response.text
    assert any(record.exc_info and response.json()["request_id"] in record.getMessage() for record in caplog.records)


async def test_every_answer_forbids_guessing_its_type() -> None:
    for app in (reader, crasher):
        headers = (await ask(app)).headers
        assert (headers["x-content-type-options"], headers["referrer-policy"]) == ("nosniff", "no-referrer")


async def test_a_request_is_one_log_line_whatever_its_path(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sdb.http"):
        await exchange(gated(ignorer), [part(0, False)], path="/a\r\nINFO forged\u2028\x85\x1b[31m")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.isprintable()
    assert line.startswith("POST /a%0D%0AINFO%20forged")
    assert " 200 " in line


async def test_no_log_record_holds_a_credential(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        for app in (reader, crasher):
            await ask(app, content=b"hunter3", params={"q": "hunter4"}, headers=bearer("hunter1"))
    ours = (record for record in caplog.records if record.name.startswith("sdb"))  # httpx logs what it sends
    text = "\n".join(logging.Formatter().format(record) for record in ours)
    assert "POST /" in text
    assert not {"hunter1", "hunter3", "hunter4"} & set(re.findall(r"hunter\d", text))


async def cut_off(app: ASGIApp) -> list[Message]:
    """What is sent when the server cancels a request whose body does not end, as uvicorn does at the end of a drain."""
    sent = list[Message]()

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    task = asyncio.create_task(gated(app)(scope, receive, send))
    await asyncio.sleep(0)
    task.cancel()
    await task
    return sent


async def test_a_request_that_is_cut_off_is_told_to_come_again(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sdb.http"):
        start, body = await cut_off(reader)
    headers = dict(start["headers"])
    assert (start["status"], headers[b"retry-after"]) == (503, b"5")
    assert headers[b"content-type"] == b"application/problem+json"
    assert json.loads(body["body"])["code"] == "draining"
    (record,) = caplog.records
    assert not record.exc_info
    assert " 503 " in record.getMessage()


async def test_an_answer_that_is_cut_off_is_not_begun_again() -> None:
    async def begun(_: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()

    assert [message["status"] for message in await cut_off(begun)] == [200]


async def test_what_is_not_http_passes_untouched() -> None:
    seen: list[Scope] = []

    async def app(scope: Scope, _: Receive, __: Send) -> None:
        seen.append(scope)

    async def receive() -> Message:
        return {"type": "lifespan.startup"}

    async def send(_: Message) -> None:
        return

    scope: Scope = {"type": "lifespan"}
    await gated(app)(scope, receive, send)
    assert seen == [{"type": "lifespan"}]


async def test_a_caller_who_hangs_up_while_sending_is_not_a_failure_of_the_server(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "sdb"):
        parts: list[Message] = [part(10, True), {"type": "http.disconnect"}]
        await exchange(api.app, parts, path="/v1/models/tiny/predict")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
