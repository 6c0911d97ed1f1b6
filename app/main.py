"""The application: `create_app(settings)` names what is built, `lifespan` builds it; importing this does nothing."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
from fastapi import FastAPI
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import errors
from app.compression import Compressed
from app.console.router import router as console
from app.dependencies import check_rights
from app.hosting import Models
from app.middleware import Gate
from app.pipeline import Services
from app.routes import audit, health, huggingface, keys, open_inference, predict, tokens
from app.settings import Settings
from app.state import State, open_keys
from keys.errors import StoreUnavailable

log = logging.getLogger("sdb")
FIRST_START = """the first admin key is written to {path} (mode 0600); issue a client key with

  curl -s {url}/admin/v1/keys -H "Authorization: Bearer $(cat {path})" \\
    -H 'Content-Type: application/json' \\
    -d '{{"name": "partner", "scopes": ["predict", "distill"], "budget": {{"limit": 1000}}}}'
"""


def create_app(settings: Settings) -> FastAPI:
    """The ASGI application that `settings` describe."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.services = await build(settings, stack)
            yield

    app = FastAPI(
        title="Safe Distillation Box",
        version="0.1.0",
        summary="Image classifiers that everybody can use and only key holders can learn from",
        lifespan=lifespan,
        redirect_slashes=False,
    )
    errors.install(app)
    data_plane = (predict.router, open_inference.router, huggingface.router)
    for router in (*data_plane, tokens.router, keys.holder, keys.admin, audit.router, health.router, console):
        app.include_router(router)
    check_rights(app.routes)
    app.add_middleware(Compressed)
    app.add_middleware(Gate, max_body_bytes=settings.max_body_bytes)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=[str(network) for network in settings.trusted_proxies])
    return app


async def build(settings: Settings, stack: AsyncExitStack) -> Services:
    """Everything a request needs, in the order it depends on each other; `stack` ends it in reverse."""
    state = State(settings)
    service = await open_keys(settings, state, stack, wait_s=10)
    try:
        if await state.first_admin(service):
            log.info(FIRST_START.format(path=state.admin_key, url=f"http://{settings.host}:{settings.port}"))
    except StoreUnavailable as error:
        log.warning("%s: public predictions go on, whatever needs a key is refused", error)
    models = await asyncio.to_thread(Models.load, settings, state)
    for model in models:
        await model.batcher.start()
        stack.push_async_callback(model.batcher.close)
    return Services(settings, service, models, anyio.CapacityLimiter(os.cpu_count() or 1))
