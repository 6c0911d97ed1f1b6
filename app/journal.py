"""What becomes known of a request while it is answered: for a line of the log, and for whoever counts or traces.

Knows no HTTP but its words, and no caller but by the id of a key: neither a credential nor an address comes here.
"""

import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import quote

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}", re.ASCII)
TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-((?!0{16})[0-9a-f]{16})-([0-9a-f]{2})", re.ASCII)
SAMPLED = 1  # the bit of W3C Trace Context's flags
OF_PREDICTIONS = ("code", "tier", "model", "images", "charge")
LAST_64_BITS = 16  # in hexadecimal digits

log = logging.getLogger("sdb.http")


def _name(bits: int) -> str:
    """A name that no other has, in hexadecimal digits: no secret, so the system is not asked for each."""
    return f"{random.getrandbits(bits):0{bits // 4}x}"


@dataclass(frozen=True)
class Trace:
    """The trace that a request belongs to, and its own place in it (W3C Trace Context); `parent_id` may be empty."""

    trace_id: str
    span_id: str
    parent_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether its spans are to be recorded."""
        return bool(self.flags & SAMPLED)

    @property
    def parent(self) -> str:
        """The header `traceparent` that names this request."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    @classmethod
    def of(cls, traceparent: str, sample: float) -> "Trace":
        """A span of the caller's trace if that is valid, else of a new one; of those, a share `sample` is recorded.

        The choice is OpenTelemetry's: the caller's where it has made one, else by the last 64 bits of the trace's id.
        """
        trace_id, span_id = _name(128), _name(64)
        if given := TRACEPARENT.fullmatch(traceparent):
            return cls(given[1], span_id, given[2], int(given[3], 16))
        return cls(trace_id, span_id, "", SAMPLED if int(trace_id[LAST_64_BITS:], 16) < sample * 2**64 else 0)


@dataclass(slots=True)
class Entry:
    """One request. Times are `time.perf_counter_ns()`, but for `at_ns`, which is the beginning's Unix time.

    `code` is that of a refusal; `tier`, `model`, `images` and `charge` are a prediction's, as far as it came.
    """

    method: str
    path: str
    request_id: str
    trace: Trace
    at_ns: int = field(default_factory=time.time_ns)
    began_ns: int = field(default_factory=time.perf_counter_ns)
    ended_ns: int = 0
    status: int = 0
    route: str = ""
    code: str = ""
    key_id: str = ""
    tier: str = ""
    model: str = ""
    images: int = 0
    charge: int = 0
    begun: list[tuple[str, int]] = field(default_factory=list)

    def stage(self, name: str, since_ns: int | None = None) -> None:
        """A step of the work begins now, or began then; the one before it ends."""
        self.begun.append((name, time.perf_counter_ns() if since_ns is None else since_ns))

    @property
    def latest_ns(self) -> int:
        """When the step that goes on began."""
        return self.begun[-1][1]

    def stages(self) -> Iterator[tuple[str, int, int]]:
        """Each step with its beginning and its end; the last ends with the request."""
        ends = [began for _, began in self.begun[1:]] + [self.ended_ns]
        for (name, began), ended in zip(self.begun, ends, strict=False):
            yield name, began, ended

    @property
    def ms(self) -> float:
        """How long it took."""
        return (self.ended_ns - self.began_ns) / 1e6

    def steps_ms(self) -> dict[str, float]:
        """How long each step took."""
        return {name: round((ended - began) / 1e6, 1) for name, began, ended in self.stages()}

    def fields(self, **more: object) -> dict[str, object]:
        """What a log says of it, where there is something to say."""
        path = quote(self.path)  # a decoded path may hold line breaks
        known: dict[str, object] = {"method": self.method, "path": path, "status": self.status, "ms": round(self.ms, 1)}
        known |= {name: value for name in OF_PREDICTIONS if (value := getattr(self, name))}
        if self.key_id:
            known["key"] = self.key_id
        return {**known, "request_id": self.request_id, "trace_id": self.trace.trace_id, **more}


_current: ContextVar[Entry] = ContextVar("entry")


def current() -> Entry:
    """The entry of the request that is being answered; outside of any, one that nobody reads."""
    entry = _current.get(None)
    return Entry("", "", "", Trace("", "", "", 0)) if entry is None else entry


Reader = Callable[[Entry], None]


class Journal:
    """Opens and closes entries; one that is closed is written to the log and shown to all `readers`.

    A request that took `slow_ms` or longer (0: none) is a warning, with the time of each of its steps.
    """

    def __init__(self, *, log_requests: bool = True, slow_ms: float = 0.0, sample: float = 0.0) -> None:
        self.open, self.readers = 0, list[Reader]()
        self._log_requests, self._slow_ms, self._sample = log_requests, slow_ms, sample

    def begin(self, method: str, path: str, request_id: str, traceparent: str) -> Entry:
        """The entry of a request, and from here on the current one; a name of its caller's is kept if well-formed."""
        name = request_id if REQUEST_ID.fullmatch(request_id) else _name(128)
        entry = Entry(method, path, name, Trace.of(traceparent, self._sample))
        self.open += 1
        _current.set(entry)
        return entry

    def end(self, entry: Entry) -> None:
        """All of it is known."""
        entry.ended_ns = time.perf_counter_ns()
        self.open -= 1
        for read in self.readers:
            read(entry)
        if self._slow_ms and entry.ms >= self._slow_ms:
            _write(logging.WARNING, entry)
        elif self._log_requests:
            _write(logging.INFO, entry)


def _write(level: int, entry: Entry) -> None:
    """One line for each request."""
    if not log.isEnabledFor(level):
        return
    line = f"{entry.method} {quote(entry.path)} {entry.status} {entry.ms:.1f} ms"
    for text in (entry.code, entry.tier):
        line += f" {text}" if text else ""
    for name, value in (("images", entry.images), ("charge", entry.charge), ("key", entry.key_id)):
        line += f" {name}={value}" if value else ""
    line += f" {entry.request_id}"
    fields: Callable[[], object] = entry.fields
    if level == logging.WARNING and entry.begun:
        steps = entry.steps_ms()
        fields = partial(entry.fields, stages_ms=steps)
        line += " slow: " + ", ".join(f"{name} {ms} ms" for name, ms in steps.items())
    # What `log.log` does, but for the search of the stack for its caller, who is always the same.
    log.handle(log.makeRecord(log.name, level, __file__, 0, line, (), None, extra={"fields": fields}))
