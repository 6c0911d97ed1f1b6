"""The master key and the signing key are changed while callers ask, and no caller notices.

Applications share a store; a new one starts beside the old one before that ends, as servers behind a balancer do. That
a server process ends without a failed request is shown in tests/faults/.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from sdb_client.sealed import MEDIA_TYPE, seal

from app.main import create_app
from app.settings import Settings
from keys.embedded import EmbeddedStore
from keys.material import from_text, to_text
from keys.rewrap import Tally
from tests.conftest import Api, bearer

pytestmark = pytest.mark.slow

OLD, NEW = to_text(bytes(range(40, 72))), to_text(bytes(range(90, 122)))
OLD_TOKENS, NEW_TOKENS = to_text(bytes(range(140, 172))), to_text(bytes(range(190, 222)))
PREDICT = "/v1/models/tiny/predict"
CALLERS, BESIDE_S = 8, 0.3
Asking = Callable[["Deployment"], Awaitable[int]]


@dataclass
class Server:
    """An application, what ends it, how many requests it has open, and whether it has none."""

    api: Api
    stack: AsyncExitStack
    open: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Deployment:
    """The applications that take callers; each caller comes to the next of them."""

    settings: Settings
    servers: list[Server] = field(default_factory=list)
    asked: int = 0

    async def ask(self, method: str, path: str, **how: Any) -> httpx.Response:  # noqa: ANN401 - httpx's own options
        """One request, to whichever application has its turn."""
        self.asked += 1
        server = self.servers[self.asked % len(self.servers)]
        server.open += 1
        server.idle.clear()
        try:
            return await server.api.client.request(method, path, **how)
        finally:
            server.open -= 1
            if not server.open:
                server.idle.set()

    async def replace(self, master: str, tokens: str) -> None:
        """Start an application with these keys beside the one that there is; after a while end that one."""
        keys = Settings.from_environment({"SDB_MASTER_KEY": master, "SDB_TOKEN_KEYS": tokens})
        given = self.settings.model_copy(update=keys.model_dump(exclude_unset=True))
        stack = AsyncExitStack()
        app = create_app(given)
        await stack.enter_async_context(app.router.lifespan_context(app))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://box"))
        server = Server(Api(client, app, (given.state_dir / "admin.key").read_text().strip()), stack)
        server.idle.set()
        self.servers.append(server)
        await asyncio.sleep(BESIDE_S)
        if len(self.servers) > 1:
            await self.retire(self.servers.pop(0))
        await asyncio.sleep(BESIDE_S)

    async def retire(self, server: Server) -> None:
        """End an application when what it has begun is answered."""
        await server.idle.wait()
        await server.stack.aclose()

    async def rewrap(self) -> Tally:
        """Seal what the store holds under the newest master key, as `sdb keys rewrap` does."""
        services = self.servers[-1].api.app.state.services
        tally: Tally
        tally, _ = await services.keys.rewrap()
        await services.keys.rewrap_tracing()
        return tally


@pytest.fixture
async def deployment(settings: Settings, tmp_path: Path) -> AsyncIterator[Deployment]:
    with EmbeddedStore(tmp_path / "shared") as store:
        url = Settings.from_environment({"SDB_REDIS_URL": store.url}).redis_url
        deployment = Deployment(settings.model_copy(update={"redis_url": url}))
        await deployment.replace(OLD, OLD_TOKENS)
        yield deployment
        for server in deployment.servers:
            await deployment.retire(server)


@asynccontextmanager
async def asking(deployment: Deployment, work: Asking) -> AsyncIterator[Counter[int]]:
    """Callers who ask one after the other until the body ends; what they were answered."""
    answers, enough = Counter[int](), asyncio.Event()

    async def call() -> None:
        while not enough.is_set():
            answers[await work(deployment)] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())
        try:
            yield answers
        finally:
            enough.set()


async def issued(deployment: Deployment) -> dict[str, Any]:
    scopes = ["predict", "distill", "decrypt"]
    return dict(await deployment.servers[0].api.issue(None, scopes=scopes, image_key={"scheme": "sealed"}))


async def test_the_master_key_is_rotated_with_no_request_failed(deployment: Deployment, photo: bytes) -> None:
    key = await issued(deployment)
    headers, own = bearer(key["api_key"]) | {"Content-Type": MEDIA_TYPE}, key["image_key"]

    async def ask(deployment: Deployment) -> int:
        message = seal(photo, from_text(own["secret"]), kid=own["kid"], model="tiny")
        return (await deployment.ask("POST", PREDICT, content=message, headers=headers)).status_code

    async with asking(deployment, ask) as answers:
        await deployment.replace(f"{OLD},{NEW}", OLD_TOKENS)  # it can read what the next one seals
        await deployment.replace(f"{NEW},{OLD}", OLD_TOKENS)
        assert (await deployment.ask("GET", "/admin/v1/keys", headers=deployment.servers[0].api.admin)).is_success
        assert (await deployment.rewrap()).resealed == 1
        before = answers.total()
        await deployment.replace(NEW, OLD_TOKENS)
        assert answers.total() > before, "the new master key alone opens what was made under the old one"
    assert set(answers) == {200}
    assert answers[200] > 50


async def test_the_signing_key_is_rotated_with_no_request_failed(deployment: Deployment, photo: bytes) -> None:
    key = await issued(deployment)
    tokens: set[str] = set()

    async def ask(deployment: Deployment) -> int:
        """As a client does: a token, which it uses a few times."""
        form = {"grant_type": "client_credentials"}
        answer = await deployment.ask("POST", "/oauth2/token", data=form, auth=(key["id"], key["api_key"]))
        tokens.add(token := answer.json()["access_token"])
        statuses = [
            (await deployment.ask("POST", PREDICT, content=photo, headers=bearer(token))).status_code for _ in range(3)
        ]
        return max(statuses)

    async with asking(deployment, ask) as answers:
        await deployment.replace(OLD, f"{OLD_TOKENS},{NEW_TOKENS}")
        await deployment.replace(OLD, f"{NEW_TOKENS},{OLD_TOKENS}")
    assert set(answers) == {200}
    assert len({token.split(".")[0] for token in tokens}) == 2, "both keys have signed"
