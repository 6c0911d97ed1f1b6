"""What the store says of a key when all is over: counters, ledger and audit log, each against the others."""

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from pydantic import SecretStr

from app.settings import Settings
from app.state import State, attach_keys, open_keys
from keys.service import KeyService
from tests.keys.services import ledger_of


def charged(state_dir: Path, key_id: str, url: str = "") -> int:
    """How many answers a key was charged for; ledger and counters agree on it, and the audit log is whole.

    `url` is where the store is; an embedded one otherwise.
    """
    return asyncio.run(_charged(state_dir, key_id, url))


async def _charged(state_dir: Path, key_id: str, url: str) -> int:
    settings = Settings(state_dir=state_dir, redis_url=SecretStr(url))
    async with AsyncExitStack() as stack:
        state = State(settings)
        if url:
            service = await open_keys(settings, state, stack, wait_s=0)
        else:
            service = attach_keys(settings, state, stack)
        assert (await service.audit.verify()).intact
        return await _agreed(service, key_id)


async def _agreed(service: KeyService, key_id: str) -> int:
    budget = (await service.directory.show(key_id)).budget  # and what nobody settled in time goes to the ledger
    lines = await ledger_of(service, key_id)
    used = granted = before = 0
    if lines:  # the oldest of a long ledger are gone: what was charged before the first that is left follows from it
        kind, count, used, granted = lines[0]
        before = used - granted - (-count if kind == "top-up" else count)
    for kind, count, used_then, granted_then in lines[1:]:
        assert kind == "top-up" or (used_then - used) - (granted_then - granted) == count, (
            "a line is the change it says"
        )
        used, granted = used_then, granted_then
    assert budget.limit is not None
    assert budget.remaining == budget.limit - used + granted, "the counter is what the ledger comes to"
    return before + sum(count for kind, count, _, _ in lines if kind not in {"top-up", "refill"})
