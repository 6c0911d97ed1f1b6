"""Traces, as a real collector receives them over OTLP/HTTP."""

import gzip
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from pydantic import SecretStr

from app.settings import Settings
from keys.errors import ConfigurationError
from tests.conftest import Api, application, bearer

URL, ROUTE = "/v1/models/tiny/predict", "/v1/models/{model}/predict"
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(ThreadingHTTPServer):
    """Takes what is sent to `/v1/traces`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Receiver)
        self.spans, self.resources, self.headers = list[Span](), list[dict[str, str]](), list[dict[str, str]]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, path: str, headers: dict[str, str], body: bytes) -> None:
        assert path == "/v1/traces"
        self.headers.append({name.lower(): value for name, value in headers.items()})
        unpacked = gzip.decompress(body) if headers.get("Content-Encoding") == "gzip" else body
        for resource in ExportTraceServiceRequest.FromString(unpacked).resource_spans:
            self.resources.append({one.key: one.value.string_value for one in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)


class _Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.take(self.path, dict(self.headers), body)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not on the terminal."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@asynccontextmanager
async def traced(settings: Settings, collector: Collector, **more: object) -> AsyncIterator[Api]:
    """The application that sends its traces there; all are sent when it has ended."""
    async with application(settings.model_copy(update={"otlp_endpoint": collector.url, **more})) as api:
        yield api


def attributes(span: Span) -> dict[str, str | int]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


async def test_a_prediction_is_a_span_of_its_callers_trace_with_a_span_for_each_step(
    settings: Settings, collector: Collector, photo: bytes
) -> None:
    async with traced(settings, collector, otlp_sample=0.0, otlp_headers=SecretStr("api-key=hunter5")) as api:
        key = await api.issue(5)
        given = {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-01", "X-Request-ID": "mine", **bearer(key["api_key"])}
        answer = await api.client.post(f"{URL}?top_k=2", content=photo, headers=given)
    root, *steps = collector.spans
    assert answer.headers["traceparent"] == f"00-{TRACE_ID}-{root.span_id.hex()}-01"
    assert (root.trace_id.hex(), root.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert (root.name, root.kind) == (f"POST {ROUTE}", Span.SPAN_KIND_SERVER)
    assert attributes(root) == {
        "http.request.method": "POST",
        "http.route": ROUTE,
        "http.response.status_code": 200,
        "sdb.request_id": "mine",
        "sdb.key_id": key["id"],
        "sdb.tier": "distill",
        "sdb.model": "tiny",
        "sdb.images": 1,
        "sdb.charge": 1,
    }
    names = [step.name for step in steps]
    assert [name for name in names if name not in {"mark", "watch"}] == [
        *("admit", "decode", "queue", "model", "settle", "answer")
    ]
    ends = [root.start_time_unix_nano]
    for step in steps:
        assert step.parent_span_id == root.span_id
        assert ends[-1] <= step.start_time_unix_nano <= step.end_time_unix_nano <= root.end_time_unix_nano
        ends.append(step.end_time_unix_nano)
    assert collector.resources[0]["service.name"] == "safe-distillation-box"
    assert collector.headers[0]["api-key"] == "hunter5"


async def test_without_a_callers_trace_the_setting_decides(
    settings: Settings, collector: Collector, photo: bytes
) -> None:
    for sample, flags in ((1.0, "01"), (0.0, "00")):
        async with traced(settings, collector, otlp_sample=sample) as api:
            answer = await api.client.post(URL, content=photo)
            assert answer.headers["traceparent"].endswith(f"-{flags}")
    assert [span.name for span in collector.spans if span.kind == Span.SPAN_KIND_SERVER] == [f"POST {ROUTE}"]
    assert answer.headers["traceparent"].split("-")[1] not in {span.trace_id.hex() for span in collector.spans}


async def test_a_trace_holds_no_secret_and_no_address(settings: Settings, collector: Collector, photo: bytes) -> None:
    async with traced(settings, collector) as api:
        key = await api.issue(5)
        await api.client.post(f"{URL}?temperature=hunter6", content=photo, headers=bearer(key["api_key"]))
        await api.client.post(URL, content=b"hunter7", headers=bearer("sdb_cli_hunter8"))
        await api.client.get("/hunter9")
    text = "\n".join(str(span) for span in collector.spans)
    assert "invalid-credential" in text
    for secret in (key["api_key"], api.admin_key, "hunter", "127.0.0.1"):
        assert secret not in text


async def test_headers_that_cannot_be_read_stop_the_start(settings: Settings, collector: Collector) -> None:
    with pytest.raises(ConfigurationError, match="SDB_OTLP_HEADERS") as refusal:
        async with traced(settings, collector, otlp_headers=SecretStr("hunter2")):
            pass
    assert "hunter2" not in str(refusal.value)
