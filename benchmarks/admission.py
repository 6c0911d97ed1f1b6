"""What it costs to authenticate and charge a request, against the cheapest script that writes, `INCR`, on one store.

Both take turns, so that only their ratio matters on a shared machine. A request is measured as the server runs it in
steady state: the process has seen the credential, and one script judges and charges (keys/scripts/admit.lua). Making
the charge final, before the answer leaves, is a second trip and a row of its own. The bare script is called as anybody
would, with redis-py, and once more on connections like those of the key service, which cost the client less. Prints
tables and writes results/admission.json.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from benchmarks.rows import keep, show
from keys.budget_store import Ask, BudgetStore
from keys.connection import connect
from keys.embedded import EmbeddedStore
from keys.material import SECRET_BYTES, Keyring, Vault
from keys.pipelines import Argument, Pipelines
from keys.records import Act, Admission, BudgetGrant, KeyGrant, Origin, RateLimit
from keys.scripting import Call, Scripts
from keys.service import KeyService
from keys.store import KeyStore
from keys.tokens import TokenMint

TOGETHER = 32
BARE_NAME, BARE_LIKE_OURS = "bare INCR script", "bare INCR script, on connections like ours"
ONE = Ask(1, 1, "cifar10")
BARE = "return redis.call('INCR', KEYS[1])"
RATES = tuple(RateLimit(name=name, limit=10**9, window_s=s) for name, s in (("minute", 60), ("day", 86400)))
SECRET = bytes(range(SECRET_BYTES))
Row = dict[str, float | str]
Times = dict[str, list[float]]
Step = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Bench:
    """A store, a service on it, and the API keys to present: by name of what they are limited by."""

    client: Redis
    service: KeyService
    store: KeyStore
    api_keys: dict[str, str]
    bare: str
    pipelines: Pipelines

    async def call_bare(self) -> None:
        """The cheapest script."""
        await self.client.evalsha(self.bare, 1, "benchmark")

    def send_bare(self) -> Awaitable[object]:
        """The same on a connection like those of the key service."""
        return self.pipelines.send("benchmark", "EVALSHA", self.bare, 1, "benchmark")


async def opened(url: str) -> Bench:
    """A bench on the store at `url`; its scripts are loaded."""
    client = connect(url)
    store = KeyStore(client)
    service = KeyService(store, Vault(Keyring([SECRET])), TokenMint(Keyring([SECRET]), 900, time.time), time.time)
    api_keys = {}
    for name, rates in (("budget", ()), ("budget and two rate limits", RATES)):
        grant = KeyGrant(name=name, scopes=frozenset({"distill"}), budget=BudgetGrant(limit=10**12), rate_limits=rates)
        api_keys[name] = (await service.lifecycle.create(grant, Act("cli"))).api_key
    return Bench(client, service, store, api_keys, await client.script_load(BARE), Pipelines(client))


async def latencies(bench: Bench, rounds: int) -> list[Row]:
    """The median round trip of each kind, in turns."""
    taken: Times = {BARE_NAME: [], BARE_LIKE_OURS: []}
    for _ in range(rounds):
        await _timed(taken[BARE_NAME], bench.call_bare)
        await _timed(taken[BARE_LIKE_OURS], bench.send_bare)
        for name, api_key in bench.api_keys.items():
            await _requests(bench.service, api_key, taken, name, 1)
    return _rows(taken, "p50_us", lambda times: 1e6 * statistics.median(times))


async def bursts(bench: Bench, rounds: int) -> list[Row]:
    """Calls in a second of 32 callers who come at once, each on its own: what shares a round trip does so by itself."""
    taken: Times = {BARE_NAME: [], BARE_LIKE_OURS: []}
    for _ in range(rounds):
        await _timed(taken[BARE_NAME], lambda: asyncio.gather(*(bench.call_bare() for _ in range(TOGETHER))))
        await _timed(taken[BARE_LIKE_OURS], lambda: asyncio.gather(*(bench.send_bare() for _ in range(TOGETHER))))
        for name, api_key in bench.api_keys.items():
            await _requests(bench.service, api_key, taken, name, TOGETHER)
    return _rows(taken, "per_second", lambda times: TOGETHER / statistics.median(times))


async def _requests(service: KeyService, api_key: str, taken: Times, name: str, together: int) -> None:
    """Requests at once, charged all and then settled all."""
    held: list[Admission] = []

    async def admit() -> None:
        held.append(await service.admit(await service.recall(api_key, Origin()), ONE))

    charged = taken.setdefault(f"authenticate and charge, {name}", [])
    settled = taken.setdefault(f"settle, {name}", [])
    if together == 1:  # no task of its own: a request has one already
        await _timed(charged, admit)
        await _timed(settled, partial(service.settle, held[0]))
    else:
        await _timed(charged, lambda: asyncio.gather(*(admit() for _ in range(together))))
        await _timed(settled, lambda: asyncio.gather(*(service.settle(admission) for admission in held)))


async def _timed(times: list[float], step: Step) -> None:
    started = time.perf_counter()
    await step()
    times.append(time.perf_counter() - started)


async def throughputs(bench: Bench, rounds: int) -> list[Row]:
    """Calls in a second, 32 in one pipeline, in turns."""
    taken: Times = {BARE_NAME: [], BARE_LIKE_OURS: []}
    scripts = Scripts(bench.client)
    for _ in range(rounds):
        await _timed(taken[BARE_NAME], partial(_pipelined_bare, bench))
        await _timed(taken[BARE_LIKE_OURS], lambda: asyncio.gather(*(bench.send_bare() for _ in range(TOGETHER))))
        for name, api_key in bench.api_keys.items():
            charges, settlements = await _calls(bench, api_key)
            await _timed(taken.setdefault(f"charge, {name}", []), partial(scripts.run_many, "admit", charges))
            await _timed(taken.setdefault(f"settle, {name}", []), partial(scripts.run_many, "settle", settlements))
    return _rows(taken, "per_second", lambda times: TOGETHER / statistics.median(times))


async def _pipelined_bare(bench: Bench) -> None:
    async with bench.client.pipeline(transaction=False) as pipeline:
        for _ in range(TOGETHER):
            pipeline.evalsha(bench.bare, 1, "benchmark")
        await pipeline.execute()


class _Recorder(Scripts):
    """Runs nothing, and remembers what would be run."""

    def __init__(self, client: Redis) -> None:
        super().__init__(client)
        self.calls: list[Call] = []

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401, ARG002
        self.calls.append((keys, args))
        return ["held", "1", "0", ""]

    run_durably = run


async def _calls(bench: Bench, api_key: str) -> tuple[list[Call], list[Call]]:
    """The calls that charge and then settle 32 requests."""
    caller = await bench.service.recall(api_key, Origin())
    assert caller.key is not None
    charges, settlements = _Recorder(bench.client), _Recorder(bench.client)
    for _ in range(TOGETHER):
        admission = await BudgetStore(bench.client, charges).admit(caller.key, caller.proof, ONE)
        await BudgetStore(bench.client, settlements).settle(admission)
    return charges.calls, settlements.calls


def _rows(taken: Times, unit: str, figure: Callable[[list[float]], float]) -> list[Row]:
    bare = figure(taken[BARE_NAME])
    return [
        {"what": name, unit: round(figure(times), 1), "of_bare": round(figure(times) / bare, 2)}
        for name, times in taken.items()
    ]


async def measure(url: str, rounds: int) -> dict[str, list[Row]]:
    """All tables on the store at `url`, after a tenth of the rounds to warm up."""
    bench = await opened(url)
    async with bench.client:
        for _ in range(max(1, rounds // 10)):
            await _requests(bench.service, next(iter(bench.api_keys.values())), {}, "", 1)
        return {
            "one at a time": await latencies(bench, rounds),
            "32 at once": await bursts(bench, rounds // 8),
            "pipelined by 32": await throughputs(bench, rounds // 8),
        }


def main() -> None:
    """Measure with each way to reach the disk, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=4000)
    rounds = parser.parse_args().rounds
    found: dict[str, dict[str, list[Row]]] = {}
    for fsync in ("always", "no"):
        with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder)) as store:
            tables = asyncio.run(_with_fsync(store.url, fsync, rounds))
        found[f"appendfsync {fsync}"] = tables
        for title, rows in tables.items():
            show(f"{title}, appendfsync {fsync}", rows)
    keep(f"admission --rounds {rounds}", found)


async def _with_fsync(url: str, fsync: str, rounds: int) -> dict[str, list[Row]]:
    async with connect(url) as client:
        await client.config_set("appendfsync", fsync)
    return await measure(url, rounds)


if __name__ == "__main__":
    main()
