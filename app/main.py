"""The application: `create_app(settings)` names what is built, `lifespan` builds it; importing this does nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
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
from app.operations import operation_id
from app.pipeline import Services
from app.routes import audit, health, huggingface, infer, keys, open_inference, predict, tokens
from app.settings import Settings
from app.state import State, make_first_admin, open_keys
from models.engines.cores import available

Hosting = Callable[[Settings, State], Models]


def create_app(settings: Settings, hosting: Hosting = Models.load) -> FastAPI:
    """The ASGI application that `settings` describe, and `hosting` gives its models: by default, in this process."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.services = await build(settings, stack, hosting)
            yield

    app = FastAPI(
        title="Safe Distillation Box",
        version="0.1.0",
        summary="Image classifiers that everybody can use and only key holders can learn from",
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
    )
    errors.install(app)
    # What is asked most comes first: it is found soonest.
    data_plane = (predict.doors, infer.doors, huggingface.router, predict.router, open_inference.router)
    for router in (*data_plane, tokens.router, keys.holder, keys.admin, audit.router, health.router, console):
        app.include_router(router)
    check_rights(app.routes)
    app.add_middleware(Compressed)
    app.add_middleware(Gate, max_body_bytes=settings.max_body_bytes, log_requests=settings.log_requests)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=[str(network) for network in settings.trusted_proxies])
    return app


async def build(settings: Settings, stack: AsyncExitStack, hosting: Hosting = Models.load) -> Services:
    """Everything a request needs, in the order it depends on each other; `stack` ends it in reverse."""
    state = State(settings)
    service = await open_keys(settings, state, stack, wait_s=10)
    await make_first_admin(settings, state, service)
    models = await asyncio.to_thread(hosting, settings, state)
    for model in models:
        await model.start()
        stack.push_async_callback(model.close)
    return Services(settings, service, models, anyio.CapacityLimiter(settings.cores or available()))
