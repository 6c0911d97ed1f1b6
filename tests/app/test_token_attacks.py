"""Access tokens at the door: the attack list over HTTP, and tokens that were good once and are shown again."""

import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from app.settings import Settings
from app.state import State
from keys.embedded import EmbeddedStore
from keys.material import to_text
from keys.records import Act
from tests.app.test_introspection import INTROSPECT, pair
from tests.app.test_revocation import REVOKE
from tests.conftest import Api, application
from tests.forgery import ATTACKS, Forger

SELF = "/v1/keys/self"
Replica = Callable[..., AbstractAsyncContextManager[Api]]
OLD, NEW, MASTER = (bytes(range(first, first + 32)) for first in (1, 50, 100))


async def status(api: Api, credential: str | bytes) -> int:
    """What the server answers to whoever presents this; every refusal has the one text."""
    raw = credential if isinstance(credential, bytes) else credential.encode()
    answer = await api.client.get(SELF, headers=[(b"Authorization", b"Bearer " + raw)])
    if answer.status_code != 200:
        problem = answer.json()
        said = (answer.status_code, problem["code"], problem["detail"], answer.headers["www-authenticate"])
        assert said == (401, "invalid-credential", "the presented credential is not valid", "Bearer")
    return answer.status_code


async def test_every_attack_is_refused_at_the_door_with_one_text(api: Api) -> None:
    key = await api.issue()
    (secret,) = State(api.app.state.services.settings).token_keys
    forger = Forger(secret, bytes(32), key["id"], epoch=0)
    assert await status(api, forger.signed()) == 200, "what is not changed is right"
    tokens = {name: attack(forger).encode(errors="surrogatepass") for name, attack in ATTACKS.items()}
    assert {name: seen for name, token in tokens.items() if (seen := await status(api, token)) != 401} == {}


async def test_a_refusal_takes_no_longer_for_a_longer_token(api: Api) -> None:
    """A token of a megabyte is refused by its length: it is not decoded, hashed or parsed."""
    attacks: list[Callable[[Forger], str]] = [ATTACKS["1 MB, signed"], ATTACKS["header of 1 MB"]]
    tokens = [attack(Forger(bytes(range(32)), OLD)) for attack in attacks]
    started = time.process_time()
    for token in tokens * 5:
        await status(api, token)
    assert time.process_time() - started < 2


# --- tokens shown again


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[str]:
    with EmbeddedStore(tmp_path / "shared") as store:
        yield store.url


@pytest.fixture
def replica(shared: str, tmp_path: Path, zoo: Path) -> Replica:
    """How to start a replica on the shared store, with these signing keys."""

    @asynccontextmanager
    async def start(*token_keys: bytes) -> AsyncIterator[Api]:
        settings = Settings.model_validate(
            {
                "state_dir": tmp_path / "var",
                "redis_url": shared,
                "models_dir": zoo,
                "device": "cpu",
                "engine": "eager",
                "master_key": to_text(MASTER),
                "token_keys": ",".join(map(to_text, token_keys)),
            }
        )
        async with application(settings) as api:
            yield api

    return start


async def test_the_signing_key_rotates_with_no_token_lost_and_the_old_one_opens_nothing_afterwards(
    replica: Replica,
) -> None:
    """docs/tokens.md: announce the new key, sign with it, drop the old one; replicas restart one after the other."""
    async with replica(OLD) as first, replica(OLD, NEW) as second:
        key = await first.issue()
        tokens = [await first.token(key), await second.token(key)]
        for token in tokens:
            assert [await status(first, token), await status(second, token)] == [200, 200]
    async with replica(OLD, NEW) as first, replica(NEW, OLD) as second:
        tokens += [await first.token(key), await second.token(key)]
        for token in tokens:
            assert [await status(first, token), await status(second, token)] == [200, 200]
    async with replica(NEW) as last:
        assert [await status(last, token) for token in tokens] == [401, 401, 401, 200]
        for token in tokens[:3]:
            answer = await last.client.post(INTROSPECT, data={"token": token}, headers=last.admin)
            assert answer.content == b'{"active":false}'


async def test_a_token_revoked_on_one_replica_is_dead_on_the_other(replica: Replica) -> None:
    async with replica(OLD) as first, replica(OLD) as second:
        key = await first.issue()
        token = await first.token(key)
        assert await status(second, token) == 200
        assert (await first.client.post(REVOKE, data={"token": token}, auth=pair(key))).status_code == 200
        assert await status(second, token) == 401
    async with replica(OLD) as later:
        assert await status(later, token) == 401


async def test_a_token_is_dead_on_every_replica_when_its_api_key_is_rotated(replica: Replica) -> None:
    async with replica(OLD) as first, replica(OLD) as second:
        key = await first.issue()
        token = await first.token(key)
        rotated = await first.app.state.services.keys.lifecycle.rotate(key["id"], 60, Act(actor="test"))
        assert [await status(first, token), await status(second, token)] == [401, 401]
        for api_key in (key["api_key"], rotated.api_key):  # the old one in its overlap
            fresh = await second.token({"id": key["id"], "api_key": api_key})
            assert await status(first, fresh) == 200


@pytest.mark.parametrize("end", ["revoke", "disable"])
async def test_a_token_does_not_come_back_with_its_key(replica: Replica, end: str) -> None:
    async with replica(OLD) as api:
        key = await api.issue()
        token = await api.token(key)
        service, act = api.app.state.services.keys, Act(actor="test")
        await getattr(service.lifecycle, end)(key["id"], act)
        assert await status(api, token) == 401
        if end == "disable":
            await service.lifecycle.enable(key["id"], act)
            assert await status(api, key["api_key"]) == 200
            assert await status(api, token) == 401
