"""What is asked of the store again because its reply was lost is counted once.

Other key servers count a request whose reply timed out twice, and refuse too early.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from keys.budget_store import Ask
from keys.embedded import EmbeddedStore
from keys.records import IssuedKey
from keys.service import KeyService
from tests.keys.conftest import ADMIN, issue
from tests.keys.links import Link
from tests.keys.services import admitted, ledger_of, service_on

TWO = Ask(2, 2, "tiny")


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with EmbeddedStore(tmp_path_factory.mktemp("lossy")) as store:
        yield Path(store.socket)


@pytest.fixture
async def link(socket: Path) -> AsyncIterator[Link]:
    async with Link(socket) as link:
        yield link


@pytest.fixture
async def service(link: Link) -> AsyncIterator[KeyService]:
    """A service that has used every script, so that the store knows them all."""
    async with service_on(f"redis://127.0.0.1:{link.port}") as service:
        key = await issue(service)
        await service.settle(await admitted(service, key.api_key, TWO))
        await service.release(await admitted(service, key.api_key, TWO))
        yield service


@pytest.fixture
async def key(service: KeyService) -> IssuedKey:
    """A key that this service remembers."""
    key = await issue(service, 10)
    await service.authenticate(key.api_key)
    return key


async def kinds(service: KeyService, key: IssuedKey) -> list[tuple[str, int]]:
    return [(kind, count) for kind, count, _, _ in await ledger_of(service, key.record.id)]


async def test_a_charge_is_counted_once(service: KeyService, key: IssuedKey, link: Link) -> None:
    with link.losing_the_reply_to("EVALSHA"):
        admission = await admitted(service, key.api_key, TWO)
    assert admission.budget.remaining == 8
    await service.settle(admission)
    assert (await service.directory.show(key.record.id)).budget.remaining == 8
    assert await kinds(service, key) == [("charge", 2)]


async def test_a_charge_is_settled_once(service: KeyService, key: IssuedKey, link: Link) -> None:
    admission = await admitted(service, key.api_key, TWO)
    with link.losing_the_reply_to("EVALSHA"):
        await service.settle(admission)
    (bucket,) = await service.directory.usage(key.record.id, "day")
    assert (bucket.outcome, bucket.images) == ("served", 2)
    assert (await service.directory.show(key.record.id)).budget.remaining == 8


async def test_a_charge_is_given_back_once(service: KeyService, key: IssuedKey, link: Link) -> None:
    admission = await admitted(service, key.api_key, TWO)
    with link.losing_the_reply_to("EVALSHA"):
        await service.release(admission)
    assert (await service.directory.show(key.record.id)).budget.remaining == 10
    assert await kinds(service, key) == [("charge", 2), ("release", -2)]


async def test_a_top_up_is_granted_once(service: KeyService, key: IssuedKey, link: Link) -> None:
    with link.losing_the_reply_to("EVALSHA"):
        record = await service.lifecycle.top_up(key.record.id, 5, ADMIN)
    assert record.budget.remaining == 15
    assert await kinds(service, key) == [("top-up", 5)]
    assert (await service.audit.verify()).intact


async def test_a_key_is_created_once(service: KeyService, link: Link) -> None:
    before, _ = await service.directory.page(None, 200)
    with link.losing_the_reply_to("EVALSHA"):
        issued = await issue(service)
    after, _ = await service.directory.page(None, 200)
    assert [record.id for record in after] == [issued.record.id, *(record.id for record in before)]
    assert (await service.authenticate(issued.api_key)).key == issued.record
