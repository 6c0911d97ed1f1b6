"""What docs/guarantees.md promises of budgets while primaries are killed, paused and cut off.

Every store is a process, every kill is SIGKILL. The replica is behind by a lag, or a kill would lose nothing and prove
nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from keys.budget_store import Ask
from keys.errors import QuotaExceeded, StoreUnavailable
from keys.records import Act, Idempotency, IssuedKey, KeyRecord
from keys.service import KeyService
from tests.keys.conftest import ADMIN, issue
from tests.keys.replicas import Node, pair, redis, until, valkey, watched
from tests.keys.services import admitted, ledger_of, service_on

MODEL = "tiny"
ONE = Ask(1, 1, MODEL)
CLIENTS, TOP_UP = 12, 3
LAG_S = 0.05
JITTER_S = 0.1  # how late this process may notice a byte
BINARIES = [pytest.param(valkey, id="valkey"), pytest.param(redis, id="redis", marks=pytest.mark.slow)]


@dataclass
class Load:
    """Clients that ask without pause; what they, and an admin who tops up, were told."""

    services: list[KeyService]
    key: IssuedKey
    answered: list[float] = field(default_factory=list)
    """When each answer was admitted, of those that left."""
    failed: int = 0
    refused: int = 0
    granted: int = 0
    running: bool = True

    async def client(self, service: KeyService) -> None:
        while self.running:
            try:
                admission = await admitted(service, self.key.api_key, ONE)
                admitted_at = time.monotonic()
                await service.settle(admission)
            except StoreUnavailable:
                self.failed += 1
                await asyncio.sleep(0.02)
            except QuotaExceeded:
                self.refused += 1
                await asyncio.sleep(0.02)
            else:
                self.answered.append(admitted_at)

    async def admin(self, service: KeyService) -> None:
        while self.running:
            await insist(service, self.key.record.id, f"top-up {self.granted}")
            self.granted += TOP_UP
            await asyncio.sleep(0.05)


async def insist(service: KeyService, key_id: str, name: str) -> None:
    """Top up under one name until it is acknowledged."""
    while True:
        try:
            await service.lifecycle.top_up(key_id, TOP_UP, Act("cli", idempotency_key=name))
            return
        except StoreUnavailable:
            await asyncio.sleep(0.02)


@asynccontextmanager
async def under_load(url: str, limit: int, replicas: int, *, topped_up: bool = False) -> AsyncIterator[Load]:
    """A key of that limit that many clients use at once, by two services, until the body ends."""
    async with AsyncExitStack() as stack:
        services = [await stack.enter_async_context(service_on(url, replicas)) for _ in range(2)]
        load = Load(services, await issue(services[0], limit))
        work = [asyncio.ensure_future(load.client(services[number % 2])) for number in range(CLIENTS)]
        if topped_up:
            work.append(asyncio.ensure_future(load.admin(services[0])))
        try:
            yield load
        finally:
            load.running = False
            await asyncio.gather(*work)


async def charged(service: KeyService, key: KeyRecord) -> int:
    """How many answers the store has charged; its counters and its ledger say the same."""
    lines = await ledger_of(service, key.id)
    used = granted = 0
    for kind, count, used_then, granted_then in lines:
        change = (0, count) if kind == "top-up" else (used_then - used, granted_then - granted)
        assert kind == "top-up" or change[0] - change[1] == count
        used, granted = used + change[0], granted + change[1]
        assert (used, granted) == (used_then, granted_then)
    budget = (await service.directory.show(key.id)).budget
    assert budget.granted == granted
    assert budget.limit is not None
    assert budget.remaining == budget.limit - used + granted
    return sum(count for kind, count, _, _ in lines if kind != "top-up")


def topped_up(lines: list[tuple[str, int, int, int]]) -> int:
    return sum(count for kind, count, _, _ in lines if kind == "top-up")


# --- Sentinels promote


async def endure(folder: Path, binary: str, kills: int) -> None:
    """Kill the primary so many times under load; then no answer, and no top-up, is lost or counted twice."""
    async with pair(folder, binary, LAG_S) as nodes, watched(nodes, folder, binary) as cluster:
        async with under_load(cluster.url, 100, replicas=1, topped_up=True) as load:
            for _ in range(kills):
                await until(partial(_more, load, len(load.answered)), "answers leave")
                await cluster.fail_over()
        (primary,) = [node for node in nodes if await node.is_primary()]
        async with service_on(primary.url, replicas=1) as service:
            total = await charged(service, load.key.record)
            assert len(load.answered) <= total <= len(load.answered) + load.failed
            assert total <= 100 + load.granted
            assert topped_up(await ledger_of(service, load.key.record.id)) == load.granted
            assert (await service.audit.verify()).intact


async def _more(load: Load, before: int) -> bool:
    return len(load.answered) >= before + 20


@pytest.mark.parametrize("binary", BINARIES)
async def test_a_killed_primary_costs_no_budget_and_no_top_up(tmp_path: Path, binary: Callable[[], str]) -> None:
    await endure(tmp_path, binary(), kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("binary", [valkey, redis])
async def test_twenty_killed_primaries_cost_no_budget_and_no_top_up(tmp_path: Path, binary: Callable[[], str]) -> None:
    await endure(tmp_path, binary(), kills=20)


# --- The bound


async def lost_by_a_kill(folder: Path, replicas: int) -> tuple[int, int]:
    """How many answers left that the promoted replica does not know of; how many were admitted within the lag."""
    async with pair(folder, valkey(), 4 * LAG_S) as (primary, replica):
        async with under_load(primary.url, 10**6, replicas) as load:
            await asyncio.sleep(0.5)
            killed_at = time.monotonic()
            primary.kill()
            await replica.promote()
        async with service_on(replica.url) as service:
            lost = len(load.answered) - await charged(service, load.key.record)
        return lost, sum(admitted_at > killed_at - 4 * LAG_S - JITTER_S for admitted_at in load.answered)


async def test_no_answer_leaves_before_the_replica_has_its_charge(tmp_path: Path) -> None:
    lost, _ = await lost_by_a_kill(tmp_path, replicas=1)
    assert lost <= 0


async def test_without_waiting_a_kill_gives_back_at_most_what_was_admitted_within_the_lag(tmp_path: Path) -> None:
    lost, within_lag = await lost_by_a_kill(tmp_path, replicas=0)
    assert 0 < lost <= within_lag


async def test_a_restarted_primary_knows_every_answer(tmp_path: Path) -> None:
    """It writes to its disk before it replies."""
    async with pair(tmp_path, valkey()) as (primary, _), under_load(primary.url, 10**6, replicas=0) as load:
        await asyncio.sleep(0.5)
        primary.kill()
        primary.start()
        await until(partial(_more, load, len(load.answered)), "answers leave again")
        load.running = False
        await asyncio.sleep(0.5)
        assert (
            len(load.answered) <= await charged(load.services[0], load.key.record) <= len(load.answered) + load.failed
        )


# --- What a store that is alone may still say


async def test_a_deposed_primary_answers_nobody(tmp_path: Path) -> None:
    """Who still speaks to it is admitted by what it believes, and gets no answer."""
    async with pair(tmp_path, valkey()) as (old, new), service_on(old.url, replicas=1) as cut_off:
        key = await issue(cut_off, 10)
        old.link.part()
        await new.promote()
        async with service_on(new.url) as service:
            await service.lifecycle.revoke(key.record.id, ADMIN)
        admission = await admitted(cut_off, key.api_key, ONE)
        with pytest.raises(StoreUnavailable, match="0 of 1 replicas"):
            await cut_off.settle(admission)


Change = Callable[[KeyService, str, Act], Awaitable[object]]
CHANGES: dict[str, Change] = {
    "top-up": lambda service, key_id, act: service.lifecycle.top_up(key_id, TOP_UP, act),
    "rotate": lambda service, key_id, act: service.lifecycle.rotate(key_id, 0, act),
    "disable": lambda service, key_id, act: service.lifecycle.disable(key_id, act),
    "revoke": lambda service, key_id, act: service.lifecycle.revoke(key_id, act),
}


@asynccontextmanager
async def hanging_replica(folder: Path, limit: int) -> AsyncIterator[tuple[KeyService, IssuedKey, Node]]:
    """A service that waits for a replica which hangs; the primary, for who needs its link."""
    async with AsyncExitStack() as stack:
        primary, replica = await stack.enter_async_context(pair(folder, valkey()))
        service = await stack.enter_async_context(service_on(f"redis://127.0.0.1:{primary.link.port}", replicas=1))
        key = await issue(service, limit)
        await service.settle(await admitted(service, key.api_key, ONE))  # the store knows every script
        with replica.paused():
            yield service, key, primary


async def test_neither_a_change_nor_its_retry_is_acknowledged_before_the_replica_has_it(tmp_path: Path) -> None:
    async def refused(name: str, change: Change) -> None:
        folder = tmp_path / name
        folder.mkdir()
        async with hanging_replica(folder, 10) as (service, key, _):
            for _ in range(2):
                with pytest.raises(StoreUnavailable):
                    await change(service, key.record.id, Act("cli", idempotency_key="once"))

    async with asyncio.TaskGroup() as side_by_side:  # each on stores of its own: it is nothing but waiting
        for name, change in CHANGES.items():
            side_by_side.create_task(refused(name, change))


async def test_neither_an_answer_nor_its_replay_leaves_before_the_replica_has_its_charge(tmp_path: Path) -> None:
    named = Ask(1, 1, MODEL, Idempotency("once", "f"))
    async with hanging_replica(tmp_path, 10) as (service, key, _):
        for replayed in (False, True):
            admission = await admitted(service, key.api_key, named)
            assert admission.replayed is replayed
            with pytest.raises(StoreUnavailable):
                await service.settle(admission)


async def test_a_settlement_repeated_after_a_lost_reply_waits_for_the_replica_too(tmp_path: Path) -> None:
    async with hanging_replica(tmp_path, 10) as (service, key, primary):
        admission = await admitted(service, key.api_key, ONE)
        with primary.link.losing_the_reply_to("EVALSHA"), pytest.raises(StoreUnavailable):
            await service.settle(admission)


async def test_a_change_repeated_after_a_lost_reply_waits_for_the_replica_too(tmp_path: Path) -> None:
    async with hanging_replica(tmp_path, 10) as (service, key, primary):
        with primary.link.losing_the_reply_to("EVALSHA"), pytest.raises(StoreUnavailable):
            await service.lifecycle.top_up(key.record.id, TOP_UP, ADMIN)
