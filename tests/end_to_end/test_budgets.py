"""Budgets on four server processes that share one store: exact, changed at once, and refused in one way.

Each test's docstring says in which way other key servers are known to fail it. Replies that the store's network loses
are in tests/keys/test_lost_replies.py.
"""

import asyncio
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import pytest

from keys.connection import connect
from keys.embedded import EmbeddedStore
from keys.layout import hash_of
from keys.material import to_text
from tests.conftest import Server, bearer, free_port, start_server
from tests.keys.conftest import MASTER, SIGNING
from tests.keys.replicas import until
from tests.keys.services import ledger_of, service_on

SERVERS = 4
PREDICT = "/v1/models/tiny/predict"
Key = dict[str, Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedStore]:
    with EmbeddedStore(tmp_path_factory.mktemp("shared")) as store:
        yield store


@pytest.fixture(scope="module")
def servers(store: EmbeddedStore, zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    """Replicas: one store, one master key, one signing key; the first has made the first admin."""
    folder = tmp_path_factory.mktemp("replicas")
    shared = {
        "SDB_REDIS_URL": f"unix://{Path(store.socket).absolute()}",
        "SDB_MASTER_KEY": to_text(MASTER),
        "SDB_TOKEN_KEYS": to_text(SIGNING),
    }

    def start(number: int) -> Server:
        return start_server(folder / str(number), zoo, free_port(), **shared)

    running = [start(0)]
    try:
        with ThreadPoolExecutor() as pool:
            running += pool.map(start, range(1, SERVERS))
        yield running
    finally:
        for server in running:
            server.process.send_signal(signal.SIGTERM)
        for server in running:
            server.process.wait(40)


@dataclass
class Replicas:
    """Calls to the servers, each to the next."""

    client: httpx.AsyncClient
    servers: list[Server]
    store_url: str

    def __post_init__(self) -> None:
        self._turns = cycle(self.servers)

    async def admin(self, method: str, path: str, **fields: object) -> Key:
        """An admin's call; it must be obeyed."""
        url = f"{next(self._turns).url}/admin/v1/keys{path}"
        answer = await self.client.request(method, url, json=fields or None, headers=self.servers[0].admin)
        assert answer.is_success, answer.text
        found: Key = answer.json()
        return found

    async def issue(self, limit: int) -> Key:
        return await self.admin("POST", "", name="partner", scopes=["distill"], budget={"limit": limit})

    async def token(self, key: Key) -> str:
        form = {"grant_type": "client_credentials"}
        url = f"{next(self._turns).url}/oauth2/token"
        answer = await self.client.post(url, data=form, auth=(key["id"], key["api_key"]))
        return str(answer.json()["access_token"])

    async def predict(self, photo: bytes, credential: str, count: int = 1) -> httpx.Response:
        """Ask the next server."""
        parts = [("image", photo)] * count
        return await self.client.post(f"{next(self._turns).url}{PREDICT}", files=parts, headers=bearer(credential))

    async def charged(self, key: Key) -> int:
        """What the counter says, the ledger says too."""
        budget = (await self.admin("GET", f"/{key['id']}"))["budget"]
        async with service_on(self.store_url) as service:
            lines = await ledger_of(service, key["id"])
        used = sum(count for kind, count, _, _ in lines if kind in {"charge", "release", "lapse"})
        granted = sum(count for kind, count, _, _ in lines if kind == "top-up")
        assert budget["remaining"] == max(0, budget["limit"] + granted - used)
        return used


@pytest.fixture
async def replicas(servers: list[Server], store: EmbeddedStore) -> AsyncIterator[Replicas]:
    async with httpx.AsyncClient(timeout=60) as client:
        yield Replicas(client, servers, store.url)


async def test_two_hundred_parallel_calls_to_four_servers_serve_exactly_a_budget_of_fifty(
    replicas: Replicas, photo: bytes
) -> None:
    """Check-then-increment, and counters of one process each, let more pass."""
    key = await replicas.issue(50)
    credentials = [key["api_key"], await replicas.token(key)]
    calls = (replicas.predict(photo, credentials[turn % 2]) for turn in range(200))
    answers = Counter(answer.status_code for answer in await asyncio.gather(*calls))
    assert answers == {200: 50, 429: 150}
    assert await replicas.charged(key) == 50


async def test_no_request_that_begins_after_a_revocation_has_returned_is_answered(
    replicas: Replicas, photo: bytes
) -> None:
    """Every server remembers the caller, and none relies on it."""
    key = await replicas.issue(10**6)
    credentials = [key["api_key"], await replicas.token(key)]
    begun: list[tuple[float, int]] = []
    revoked_at = float("inf")

    async def client(credential: str) -> None:
        while time.monotonic() < revoked_at + 0.5:
            at = time.monotonic()
            begun.append((at, (await replicas.predict(photo, credential)).status_code))

    clients = [asyncio.ensure_future(client(credentials[number % 2])) for number in range(8)]

    async def answered() -> bool:
        return sum(status == 200 for _, status in begun) >= 40

    await until(answered, "answers leave")
    await replicas.admin("POST", f"/{key['id']}/revoke")
    revoked_at = time.monotonic()
    await asyncio.gather(*clients)
    late = {status for at, status in begun if at > revoked_at}
    assert late == {401}
    assert {status for at, status in begun if at <= revoked_at} <= {200, 401}


async def test_a_new_limit_and_a_top_up_count_with_the_next_request_on_every_server(
    replicas: Replicas, photo: bytes
) -> None:
    """Counters that are cached stay spent after an admin has reset them."""
    key = await replicas.issue(0)
    for change in ("limit", "top-up"):
        assert {(await replicas.predict(photo, key["api_key"])).status_code for _ in range(SERVERS)} == {429}
        if change == "limit":
            await replicas.admin("PATCH", f"/{key['id']}", budget={"limit": SERVERS})
        else:
            await replicas.admin("POST", f"/{key['id']}/top-up", answers=SERVERS)
        assert {(await replicas.predict(photo, key["api_key"])).status_code for _ in range(SERVERS)} == {200}
    await replicas.admin("PATCH", f"/{key['id']}", budget={"limit": 2})
    assert {(await replicas.predict(photo, key["api_key"])).status_code for _ in range(SERVERS)} == {429}
    assert await replicas.charged(key) == 2 * SERVERS


async def test_a_caller_who_hangs_up_leaves_no_charge_for_an_answer_that_never_left(
    replicas: Replicas, photo: bytes
) -> None:
    """Reservations of callers who are gone stay pinned elsewhere."""
    key = await replicas.issue(1000)
    patience = [0.002 * number for number in range(1, 25)]
    calls = (asyncio.wait_for(replicas.predict(photo, key["api_key"], count=20), wait_s) for wait_s in patience)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert any(isinstance(outcome, TimeoutError) for outcome in outcomes)
    async with connect(replicas.store_url) as client:

        async def none_held() -> bool:
            return not [field for field in await client.hkeys(hash_of(key["id"])) if str(field).startswith("held:")]

        await until(none_held, "every charge is final or given back")
    assert await replicas.charged(key) % 20 == 0, "each request was charged whole or not at all"


async def test_a_spent_budget_is_refused_in_one_way_whoever_asks_and_however(replicas: Replicas, photo: bytes) -> None:
    """Elsewhere it is an authentication error, a bad request or a rate limit, depending on the version."""
    key = await replicas.issue(1)
    token = await replicas.token(key)
    assert (await replicas.predict(photo, key["api_key"])).status_code == 200
    answers = [
        await replicas.predict(photo, credential, count) for credential in (key["api_key"], token) for count in (1, 7)
    ]
    assert {(answer.status_code, answer.json()["code"]) for answer in answers} == {(429, "quota-exceeded")}
    assert {answer.headers.get("x-should-retry") for answer in answers} == {"false"}
    assert {answer.headers.get("retry-after") for answer in answers} == {None}
    assert await replicas.charged(key) == 1
