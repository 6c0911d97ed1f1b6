"""What one key, one change, one charge, one request and one image cost: memory, bytes on disk, processor time.

Processor time and not time on the clock, so that other work on the machine changes little; a server's is in /proc.
"""

import asyncio
import io
import json
import os
import secrets
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from redis.asyncio import Redis

from benchmarks.serving.product import issue, serving
from keys.budget_store import Ask
from keys.connection import connect
from keys.embedded import EmbeddedStore
from keys.material import SECRET_BYTES, Keyring, Vault
from keys.records import Act, BudgetGrant, KeyGrant, Origin
from keys.service import KeyService
from keys.store import KeyStore
from keys.tokens import TokenMint

AT_ONCE, IMAGES = 32, 256
ONE = Ask(1, 1, "cifar10")
GRANT = KeyGrant(name="a partner of ours", scopes=frozenset({"distill"}), budget=BudgetGrant(limit=10**9))
Request = dict[str, Any]
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class StoreCosts:
    """Of the store: memory in bytes, bytes that reach disk and replicas, and µs of its one thread."""

    key_bytes: float
    """A client key that nobody has used, with what finds it."""
    audit_bytes: float
    """An entry of the audit log, in memory."""
    ledger_bytes: float
    """A line of a key's ledger; it keeps the last 10,000."""
    usage_bytes: float
    """What a key was used for on one day."""
    charge_us: float
    """Admit and settle one request, 32 at a time."""
    charge_written_bytes: float


@dataclass(frozen=True)
class ServerCosts:
    """Of a server: µs of processor time in all its threads, with the shipped model."""

    request_us: float
    """A public request for one small JPEG, without the image's own share."""
    charged_us: float
    """What a key and its budget add to that."""
    image_us: float
    """An image among 256 in one call."""


def measure_store(keys: int, charges: int) -> StoreCosts:
    """Make so many keys, and charge one of them so often."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedStore(Path(folder)) as store:
        return asyncio.run(_measure_store(store.url, Path(folder), keys, charges))


async def _measure_store(url: str, folder: Path, keys: int, charges: int) -> StoreCosts:
    secret = secrets.token_bytes(SECRET_BYTES)
    async with connect(url) as client:
        await client.config_set("auto-aof-rewrite-percentage", "0")  # what is written stays to be weighed
        ring = Keyring([secret])
        service = KeyService(KeyStore(client), Vault(ring), TokenMint(ring, 900, time.time), time.time)
        before = await _memory(client)
        issued = [await service.lifecycle.create(GRANT, Act("cli")) for _ in range(keys)]
        await _forget_retries(client)
        audit, grown = await _size(client, "sdb:audit"), await _memory(client) - before
        key, name = issued[0], f"sdb:{{{issued[0].record.id}}}"
        busy, written = await _busy_us(client), _written(folder)
        for _ in range(charges // AT_ONCE):
            await asyncio.gather(*(_charge(service, key.api_key) for _ in range(AT_ONCE)))
        charged = charges // AT_ONCE * AT_ONCE
        (day,) = [found async for found in client.scan_iter(f"{name}:usage:*")]
        return StoreCosts(
            key_bytes=(grown - audit) / keys,
            audit_bytes=audit / keys,
            ledger_bytes=await _size(client, f"{name}:ledger") / await client.llen(f"{name}:ledger"),
            usage_bytes=await _size(client, day),
            charge_us=(await _busy_us(client) - busy) / charged,
            charge_written_bytes=(_written(folder) - written) / charged,
        )


async def _charge(service: KeyService, api_key: str) -> None:
    admission = await service.admit(await service.recall(api_key, Origin()), ONE)
    await service.settle(admission)


async def _forget_retries(client: Redis) -> None:
    """What a change has told its admin is kept for ten minutes: many keys made at once are not what a store holds."""
    names = [name async for name in client.scan_iter("sdb:change:*", count=1000)]
    await client.unlink(*names)


async def _memory(client: Redis) -> float:
    return float((await client.info("memory"))["used_memory_dataset"])


async def _size(client: Redis, name: str) -> float:
    return float(await client.memory_usage(name, samples=0) or 0)


async def _busy_us(client: Redis) -> float:
    info = await client.info("cpu")
    return 1e6 * float(info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"])


def _written(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*.aof"))


def measure_server(requests: int) -> ServerCosts:
    """Ask a server of this machine for one image so often, with and without a key, and for 256 at once."""
    one, many = _request_of_one(), _request_of_many()
    with serving(SDB_LOG_FORMAT="json") as (server, state):
        issued, pid = issue(server, state, scopes=["distill"]), server.popen.pid
        keyed = one | {"headers": one["headers"] | {"Authorization": f"Bearer {issued['api_key']}"}}
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=60) as client:
            public, charged = (_cost_us(pid, client, request, requests) for request in (one, keyed))
            image_us = _cost_us(pid, client, many, max(10, requests // 50)) / IMAGES
    return ServerCosts(public - image_us, charged - public, image_us)


def _request_of_one() -> Request:
    file = io.BytesIO()
    Image.fromarray(_pixels(1)[0]).save(file, "JPEG")
    return {"url": "/v1/models/cifar10/predict", "content": file.getvalue(), "headers": {"Content-Type": "image/jpeg"}}


def _request_of_many() -> Request:
    """Pixels by the binary extension of the Open Inference Protocol, as Triton's client sends them."""
    pixels = _pixels(IMAGES)
    tensor = {
        "name": "image",
        "datatype": "UINT8",
        "shape": pixels.shape,
        "parameters": {"binary_data_size": pixels.nbytes},
    }
    asked = {"inputs": [tensor], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]}
    head = json.dumps(asked).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    return {"url": "/v2/models/cifar10/infer", "content": head + pixels.tobytes(), "headers": headers}


def _pixels(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), np.uint8)


def _cost_us(pid: int, client: httpx.Client, request: Request, times: int) -> float:
    """Processor time of the server for one such request, warm."""
    for _ in range(max(3, times // 10)):
        client.post(**request).raise_for_status()
    before = _processor_us(pid)
    for _ in range(times):
        client.post(**request).raise_for_status()
    return (_processor_us(pid) - before) / times


def _processor_us(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return 1e6 * (int(user) + int(system)) / TICKS
