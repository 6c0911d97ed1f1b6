"""The application: `create_app(settings)` names what is built, `lifespan` builds it; importing this does nothing."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from fastapi import FastAPI
from fastapi.telemetry import TelemetryConfig
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app import errors
from app.compression import Compressed
from app.console.router import router as console
from app.dependencies import check_rights
from app.hosting import Models
from app.journal import Journal
from app.marking import Marking
from app.measuring import measure
from app.metrics.recorder import Metrics
from app.metrics.share import Share
from app.middleware import Gate
from app.operations import operation_id
from app.pipeline import Services
from app.routes import audit, health, huggingface, infer, keys, metrics, open_inference, predict, tokens
from app.routes.door import Doors
from app.settings import Settings
from app.state import State, make_first_admin, make_first_admin_later, open_keys
from app.watch import Watch
from keys.errors import ConfigurationError
from models.engines.cores import available

if TYPE_CHECKING:
    from app.telemetry import Telemetry

VERSION = "0.1.0"
NONE_BUT_OURS: TelemetryConfig = {"tracing": False, "metrics": False, "logs": False}
Hosting = Callable[[Settings, State], Models]


def create_app(settings: Settings, hosting: Hosting = Models.load) -> FastAPI:
    """The ASGI application that `settings` describe, and `hosting` gives its models: by default, in this process."""
    sample = settings.otlp_sample if settings.otlp_endpoint else 0.0
    journal = Journal(log_requests=settings.log_requests, slow_ms=settings.slow_ms, sample=sample)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            app.state.services = await build(settings, stack, journal, hosting)
            yield

    app = FastAPI(
        title="Safe Distillation Box",
        version=VERSION,
        summary="Image classifiers that everybody can use and only key holders can learn from",
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=operation_id,
        telemetry=NONE_BUT_OURS,
    )
    errors.install(app)
    doors = (predict.doors, infer.doors, huggingface.doors)
    data_plane = (*doors, predict.router, open_inference.router)
    watched = (health.router, metrics.router)
    for router in (*data_plane, tokens.router, keys.holder, keys.admin, audit.router, *watched, console):
        app.include_router(router)
    check_rights(app.routes)
    app.add_middleware(Doors, routers=doors)
    app.add_middleware(Compressed)
    app.state.journal = journal
    app.add_middleware(Gate, max_body_bytes=settings.max_body_bytes, journal=journal)
    if settings.trusted_proxies:
        app.add_middleware(ProxyHeadersMiddleware, trusted_hosts=[str(network) for network in settings.trusted_proxies])
    return app


async def build(
    settings: Settings,
    stack: AsyncExitStack,
    journal: Journal,
    hosting: Hosting = Models.load,
    share: Share | None = None,
) -> Services:
    """Everything a request needs, in the order it depends on each other; `stack` ends it in reverse.

    `journal` tells of the application's requests; `share` is where several processes count together.
    """
    state, counted = State(settings), Metrics(share)
    service = await open_keys(settings, state, stack, wait_s=10, seen=counted.asked_store)
    if not await make_first_admin(settings, state, service):
        stack.callback(asyncio.create_task(make_first_admin_later(settings, state, service)).cancel)
    models = await asyncio.to_thread(hosting, settings, state)
    for model in models:
        await model.start()
        stack.push_async_callback(model.close)
    decoders = anyio.CapacityLimiter(settings.cores or available())
    watch = Watch.of(settings, service, counted)
    if watch is not None:
        stack.push_async_callback(watch.close)
    services = Services(settings, service, models, decoders, Marking(service.tracing, decoders), counted, watch)
    measure(services, journal, VERSION)
    counted.start()
    stack.callback(counted.close)
    if settings.otlp_endpoint:
        journal.readers.append(_telemetry(settings, stack).answered)
    return services


def _telemetry(settings: Settings, stack: AsyncExitStack) -> "Telemetry":
    """What sends traces, until `stack` ends; imported for those who want it.

    Raises:
        ConfigurationError: the extra is missing.
    """
    try:
        from app.telemetry import Telemetry  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"SDB_OTLP_ENDPOINT needs the extra `telemetry` ({error})") from None
    telemetry = Telemetry(settings, VERSION)
    stack.push_async_callback(asyncio.to_thread, telemetry.close)
    return telemetry
