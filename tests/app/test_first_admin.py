"""However many servers start on a new store, it gets one admin, whose key each of them has."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.settings import Settings
from app.state import State
from keys.embedded import EmbeddedStore
from keys.material import to_text
from keys.service import NOBODY
from tests.keys.conftest import MASTER
from tests.keys.services import service_on

SERVERS = 6


@pytest.mark.parametrize("folders", [SERVERS, 1], ids=["a folder each", "one folder"])
async def test_servers_that_start_together_on_a_new_store_make_one_admin(tmp_path: Path, folders: int) -> None:
    given = SecretStr(to_text(MASTER))
    states = [
        State(Settings(state_dir=tmp_path / str(number % folders), master_key=given)) for number in range(SERVERS)
    ]

    async def start(state: State, url: str) -> None:
        async with service_on(url) as keys:
            await state.first_admin(keys)

    with EmbeddedStore(tmp_path / "store") as store:
        await asyncio.gather(*(start(state, store.url) for state in states))
        async with service_on(store.url) as keys:
            assert [key.kind for key in (await keys.directory.page(None, 100))[0]] == ["admin"]
            found = [await keys.authenticate(state.admin_key.read_text().strip(), NOBODY) for state in states]
            assert {caller.key.kind for caller in found if caller.key} == {"admin"}
            assert not await states[0].first_admin(keys)
