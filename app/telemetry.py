"""Traces for OpenTelemetry: an entry of the journal becomes a span, and each of its steps a span below it, over OTLP.

Knows the journal's entries; imported only where `SDB_OTLP_ENDPOINT` is set, for it needs the extra `telemetry`. Spans
are made when a request is over, so that one which is not recorded costs nothing; they are sent by a thread of its own,
and what its queue has no room for is dropped.
"""

import os
import secrets
import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from app.journal import Entry
from app.settings import Settings
from keys.errors import ConfigurationError

SERVICE, TRACES = "safe-distillation-box", "/v1/traces"
SCOPE = InstrumentationScope("sdb")


class Telemetry:
    """Sends what is sampled to the collector of the settings."""

    def __init__(self, settings: Settings, version: str) -> None:
        exporter = OTLPSpanExporter(_endpoint(settings.otlp_endpoint), headers=_headers(settings))
        self._processor = BatchSpanProcessor(exporter)
        instance = f"{socket.gethostname()}:{os.getpid()}"
        names = {"service.name": SERVICE, "service.version": version, "service.instance.id": instance}
        self._resource = Resource.create(names)

    def answered(self, entry: Entry) -> None:
        """A request is over; a reader of the journal."""
        if entry.trace.sampled:
            for span in self._spans(entry):
                self._processor.on_end(span)

    def _spans(self, entry: Entry) -> Iterator[ReadableSpan]:
        """OpenTelemetry would have a tracer make them, with ids of its own; our caller was told this span's already."""
        trace = entry.trace
        context = _context(trace.trace_id, trace.span_id)
        unix = entry.at_ns - entry.began_ns  # what a time of the entry lacks to be a Unix time
        yield ReadableSpan(
            f"{entry.method} {entry.route}".strip(),
            context,
            _context(trace.trace_id, trace.parent_id, remote=True) if trace.parent_id else None,
            self._resource,
            _attributes(entry),
            kind=SpanKind.SERVER,
            status=Status(StatusCode.ERROR) if entry.status >= 500 else Status(),
            start_time=entry.at_ns,
            end_time=entry.ended_ns + unix,
            instrumentation_scope=SCOPE,
        )
        for name, began, ended in entry.stages():
            yield ReadableSpan(
                name,
                _context(trace.trace_id, secrets.token_hex(8)),
                context,
                self._resource,
                start_time=began + unix,
                end_time=ended + unix,
                instrumentation_scope=SCOPE,
            )

    def close(self) -> None:
        """Send what is left; takes a while where the collector does not answer."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]


def _context(trace_id: str, span_id: str, *, remote: bool = False) -> SpanContext:
    return SpanContext(int(trace_id, 16), int(span_id, 16), remote, TraceFlags(TraceFlags.SAMPLED))


def _attributes(entry: Entry) -> dict[str, AttributeValue]:
    """By OpenTelemetry's conventions for HTTP servers, but for the caller's address, which is nobody's concern here."""
    known: dict[str, AttributeValue] = {
        "http.request.method": entry.method,
        "http.route": entry.route,
        "http.response.status_code": entry.status,
        "error.type": entry.code,
        "sdb.request_id": entry.request_id,
        "sdb.key_id": entry.key_id,
        "sdb.tier": entry.tier,
        "sdb.model": entry.model,
        "sdb.images": entry.images,
        "sdb.charge": entry.charge,
    }
    return {name: value for name, value in known.items() if value not in {"", 0}}


def _endpoint(url: str) -> str:
    """Where traces go: by the specification of OTLP/HTTP, below the address of a collector."""
    return url if urlsplit(url).path.endswith(TRACES) else url.rstrip("/") + TRACES


def _headers(settings: Settings) -> dict[str, str]:
    """`NAME=VALUE`, separated by commas, as in OTEL_EXPORTER_OTLP_HEADERS.

    Raises:
        ConfigurationError: they cannot be read.
    """
    pairs = [pair.partition("=") for pair in settings.otlp_headers.get_secret_value().split(",") if pair.strip()]
    if not all(name.strip() and equals for name, equals, _ in pairs):
        raise ConfigurationError("SDB_OTLP_HEADERS must read NAME=VALUE[,NAME=VALUE]")
    return {name.strip().lower(): value.strip() for name, _, value in pairs}
