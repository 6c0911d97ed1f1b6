"""What a state folder is for: one admin on a new store, however many servers start on it; the secrets of models."""

import asyncio
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.settings import Settings
from app.state import DEMO_SECRET, State
from keys.embedded import EmbeddedStore
from keys.errors import ConfigurationError
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


async def test_an_admin_whose_key_cannot_be_written_is_not_made_and_the_line_says_where(tmp_path: Path) -> None:
    state = State(Settings(state_dir=tmp_path))
    state.admin_key.mkdir()  # whoever runs the tests, no file takes its place
    with EmbeddedStore(tmp_path / "store") as store:
        async with service_on(store.url) as keys:
            with pytest.raises(ConfigurationError, match=r"admin\.key cannot be written"):
                await state.first_admin(keys)
            assert not await keys.has_admin()


def test_a_model_secret_that_cannot_be_read_is_one_line_that_names_the_model(tmp_path: Path) -> None:
    state = State(Settings(state_dir=tmp_path / "var"))
    (tmp_path / DEMO_SECRET).write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigurationError, match="secret of model tiny cannot be read"):
        state.model_secret("tiny", tmp_path)
    (tmp_path / "var" / "model-secrets" / "tiny.sealed").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="secret of model tiny cannot be read"):
        state.model_secret("tiny", tmp_path)
