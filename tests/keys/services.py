"""Key services as server processes have them: on one store, each with a memory of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from keys.budget_store import Ask
from keys.connection import connect
from keys.errors import KeyChanged
from keys.records import Admission
from keys.service import NOBODY, KeyService
from tests.keys.conftest import another_service

LEDGER_LINES = 20_000
Line = tuple[str, int, int, int]
"""Of a ledger: kind, count, and what of the limit is used and of the grants is left after it."""


@asynccontextmanager
async def service_on(url: str, replicas: int = 0) -> AsyncIterator[KeyService]:
    """The service of one process."""
    async with connect(url) as client:
        service = another_service(client, replicas=replicas)
        yield service
        await service.close()


async def admitted(service: KeyService, credential: str, ask: Ask) -> Admission:
    """What a server does with a request: recall who asks, admit, and look again if the key has changed since."""
    caller = await service.recall(credential, NOBODY)
    try:
        return await service.admit(caller, ask)
    except KeyChanged:
        return await service.admit(await service.renewed(caller), ask)


async def ledger_of(service: KeyService, key_id: str) -> list[Line]:
    """Every change of a key's budget, oldest first."""
    lines = await service._store.budgets.ledger(key_id, LEDGER_LINES)  # no user reads it: it is for the operator
    return [(line.kind, line.count, line.used, line.granted) for line in lines]
