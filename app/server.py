"""One server process: the application under uvicorn, on a port of its own or on a socket that it shares."""

import asyncio
import signal
import socket
import sys
from contextlib import AsyncExitStack

import uvicorn
import uvloop

from app.main import build, create_app
from app.settings import Settings
from keys.errors import ConfigurationError
from models.bundles import BundleError
from models.predictor import DeviceError

UNBUILDABLE = (BundleError, ConfigurationError, DeviceError)


def run(settings: Settings, listener: socket.socket | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then answer what has begun and exit with status 0.

    Raises:
        BundleError, ConfigurationError, DeviceError: what the settings describe cannot be built.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn drains, then raises what it caught once more
        signal.signal(number, _stopped)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket | None) -> None:
    """Build first, then listen: what cannot be built is an error of the command, in one line, not of the server."""
    app = create_app(settings)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            host=settings.host,
            port=settings.port,
            lifespan="off",
            http="httptools",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,  # the application believes SDB_TRUSTED_PROXIES alone
            timeout_graceful_shutdown=30,
        )
    )
    async with AsyncExitStack() as stack:
        app.state.services = await build(settings, stack)
        await server.serve(None if listener is None else [listener])


def _stopped(*_: object) -> None:
    """A server that was asked to stop, and did, has not failed."""
    sys.exit(0)
