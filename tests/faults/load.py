"""Callers that ask a server without pause, some with a key and some without, and what became of each request."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import httpx

PUBLIC, KEYED = "public", "keyed"
CALLERS = 2  # of each kind
PAUSE_S = 0.03
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Outcome:
    """A request: of whom, when it began, how long it took, and what came: status 0 is a connection that broke."""

    kind: str
    at: float
    took_s: float
    status: int
    code: str


class Load:
    """A context manager: callers ask while the body runs."""

    def __init__(self, url: str, photo: bytes, key: str, *, callers: int = CALLERS, pause_s: float = PAUSE_S) -> None:
        self._url, self._photo, self._key, self._pause_s = url, photo, key, pause_s
        self.outcomes: list[Outcome] = []
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._ask, args=(kind,)) for kind in (PUBLIC, KEYED) for _ in range(callers)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Return when every caller has its last answer."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, kind: str) -> None:
        headers: Mapping[str, str] = {"Authorization": f"Bearer {self._key}"} if kind == KEYED else {}
        with httpx.Client(base_url=self._url, headers=headers, timeout=PATIENCE_S) as client:
            while not self._over.is_set():
                self.outcomes.append(self._once(client, kind))
                time.sleep(self._pause_s)

    def _once(self, client: httpx.Client, kind: str) -> Outcome:
        at = time.monotonic()
        try:
            answer = client.post("/v1/models/tiny/predict", content=self._photo)
        except httpx.TransportError as error:
            return Outcome(kind, at, time.monotonic() - at, 0, type(error).__name__)
        code = "" if answer.status_code == 200 else answer.json()["code"]
        return Outcome(kind, at, time.monotonic() - at, answer.status_code, code)

    def seen(self, kind: str, since: float = 0.0, until: float = float("inf")) -> Counter[tuple[int, str]]:
        """How often what was seen, of the requests that began then."""
        chosen = [one for one in list(self.outcomes) if one.kind == kind and since <= one.at < until]
        return Counter((one.status, one.code) for one in chosen)

    def answered(self, kind: str) -> int:
        """How many answers came."""
        return self.seen(kind)[200, ""]

    def slowest_s(self, kind: str, since: float = 0.0, until: float = float("inf")) -> float:
        """How long the longest of them took."""
        return max(one.took_s for one in list(self.outcomes) if one.kind == kind and since <= one.at < until)

    def wait(self, kind: str, count: int = 5, status: int = 200, within_s: float = 60.0) -> float:
        """Return when so many more have begun and ended so: how many seconds after the call the first of them began."""
        since = time.monotonic()
        while time.monotonic() < since + within_s:
            fitting = [one for one in list(self.outcomes) if (one.kind, one.status) == (kind, status)]
            new = [one.at - since for one in fitting if one.at >= since]
            if len(new) >= count:
                return min(new)
            time.sleep(0.02)
        raise AssertionError(f"not {count} x {status} for {kind} within {within_s} s: {self.seen(kind, since)}")
