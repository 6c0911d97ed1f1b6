"""`sdb serve`: the server in this process."""

import asyncio
import signal
import sys
from contextlib import AsyncExitStack
from typing import Annotated

import typer
import uvicorn
import uvloop

from app import observability
from app.main import build, create_app
from app.settings import Settings

commands = typer.Typer()


@commands.command()
def command(
    host: Annotated[str | None, typer.Option(help="listen address; SDB_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="port; SDB_PORT")] = None,
) -> None:
    """Start the server; everything else is decided by SDB_ variables (docs/operation.md)."""
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    settings = Settings.model_validate(Settings.from_environment().model_dump() | given)
    observability.configure(settings.log_format)
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn drains, then raises what it caught once more
        signal.signal(number, _stopped)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings))


async def _serve(settings: Settings) -> None:
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
        await server.serve()


def _stopped(*_: object) -> None:
    """A server that was asked to stop, and did, has not failed."""
    sys.exit(0)
