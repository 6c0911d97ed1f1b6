"""A server under test, with its store, a key, its log, and the load that it is under when something breaks."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.app.scraping import Scrape
from tests.conftest import Server
from tests.faults.books import charged
from tests.faults.load import KEYED, PUBLIC, Load

LIMIT = 10**6
WELL = {(200, "")}
OUTAGE = WELL | {(503, "store-unavailable")}


@dataclass
class Box:
    """A running server."""

    server: Server
    photo: bytes
    store_url: str = ""
    loads: list[Load] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.key = self.issue()
        self._read = self._asked = 0

    @staticmethod
    def strangers_are_answered(server: Server, photo: bytes) -> bool:
        """Whether a caller without a key is."""
        return httpx.post(f"{server.url}/v1/models/tiny/predict", content=photo, timeout=30).status_code == 200

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.server.url

    @property
    def _log(self) -> Path:
        return self.server.state_dir.with_suffix(".log")

    def issue(self, limit: int = LIMIT, **fields: object) -> dict[str, str]:
        """A new key of scope distill."""
        grant = {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": limit}, **fields}
        answer = httpx.post(f"{self.url}/admin/v1/keys", json=grant, headers=self.server.admin, timeout=30)
        assert answer.status_code == 201, answer.text
        key: dict[str, str] = answer.json()
        return key

    def ask(self, credential: str = "") -> httpx.Response:
        """One prediction."""
        headers = {"Authorization": f"Bearer {credential}"} if credential else {}
        url = f"{self.url}/v1/models/tiny/predict"
        answer = httpx.post(url, content=self.photo, headers=headers, timeout=60)
        self._asked += answer.status_code == 200 and credential == self.key["api_key"]
        return answer

    def ready(self) -> bool:
        """Whether it says so."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    @contextmanager
    def under_load(self, **how: float) -> Iterator[Load]:
        """Callers with and without a key, until the body ends; it begins when they are answered."""
        with Load(self.url, self.photo, self.key["api_key"], **how) as load:  # type: ignore[arg-type]
            self.loads.append(load)
            load.wait(PUBLIC)
            load.wait(KEYED)
            yield load

    def logged(self) -> str:
        """What was logged since this was asked last."""
        text = self._log.read_text()
        new, self._read = text[self._read :], len(text)
        return new

    def counts(self, metric: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels, of all processes."""
        return Scrape.of(httpx.get(f"{self.url}/metrics", timeout=30).text).value(metric, **labels)

    def assert_nothing_lost(self) -> None:
        """Every answer that left is charged; what else is charged was refused while its settlement was on its way."""
        loaded = sum(load.answered(KEYED) for load in self.loads)
        refused = sum(sum(load.seen(KEYED).values()) for load in self.loads) - loaded
        answered = loaded + self._asked
        count = charged(self.server.state_dir, self.key["id"], self.store_url)
        assert answered <= count <= answered + refused


def in_background(work: Callable[[], object]) -> threading.Thread:
    """A thread that does it."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread
