"""How a command reaches keys: directly in the store, beside a running server and without one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar

from app.settings import Settings
from app.state import State, attach_keys, open_keys
from keys.directory import MAX_PAGE
from keys.embedded import StoreInUse
from keys.records import Act, KeyRecord
from keys.service import KeyService

ACT = Act("cli")
Result = TypeVar("Result")


@asynccontextmanager
async def key_service(settings: Settings) -> AsyncIterator[KeyService]:
    """The service over the store of `settings`; an embedded store that no server runs is run for so long."""
    state = State(settings)
    async with AsyncExitStack() as stack:
        try:
            service = await open_keys(settings, state, stack, wait_s=0)
        except StoreInUse:  # a server runs it; its socket is ours to use
            service = attach_keys(settings, state, stack)
        yield service


def run(work: Callable[[KeyService], Awaitable[Result]]) -> Result:
    """What `work` finds or does in the store that the environment names."""

    async def main() -> Result:
        async with key_service(Settings.from_environment()) as service:
            return await work(service)

    return asyncio.run(main())


async def every_key(keys: KeyService, search: str = "") -> list[KeyRecord]:
    """All keys, or those that `search` finds, newest first."""
    records, cursor = await keys.directory.page(None, MAX_PAGE, search)
    while cursor is not None:
        more, cursor = await keys.directory.page(cursor, MAX_PAGE, search)
        records += more
    return records
