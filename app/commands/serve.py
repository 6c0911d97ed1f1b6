"""`sdb serve`: the server in this process, or in several on one port.

What needs torch is imported where it runs: the parent of several processes waits for it as little as `sdb keys` does.
"""

import asyncio
import resource
import signal
import sys
from contextlib import AsyncExitStack, ExitStack
from typing import Annotated

import typer
from pydantic import SecretStr

from app import observability
from app.listening import listening
from app.settings import Settings
from app.state import State, make_first_admin, open_keys, open_store
from app.workers import STOP, Workers
from models.engines.cores import available

commands = typer.Typer()


@commands.command()
def command(
    host: Annotated[str | None, typer.Option(help="listen address; SDB_HOST")] = None,
    port: Annotated[int | None, typer.Option(help="port; SDB_PORT")] = None,
    workers: Annotated[int | None, typer.Option(help="server processes on this port; SDB_WORKERS")] = None,
    fd: Annotated[int | None, typer.Option(help="descriptor of a listening socket, for instance systemd's 3")] = None,
) -> None:
    """Start the server; everything else is decided by SDB_ variables (docs/operation.md)."""
    options = {"host": host, "port": port, "workers": workers, "fd": fd}
    given = {name: str(value) for name, value in options.items() if value is not None}
    settings = Settings.from_environment(given=given)
    observability.configure(settings.log_format)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # of a crash, no file is left that holds every secret
    if settings.workers == 1:
        from app.server import run  # noqa: PLC0415

        run(settings)
    else:
        _supervise(settings)


def _supervise(settings: Settings) -> None:
    """Own the socket and the store of several servers; this process loads no model and answers nobody."""
    for number in STOP:  # until the workers are there
        signal.signal(number, lambda *_: sys.exit(0))
    with ExitStack() as stack:
        url = open_store(settings, stack, wait_s=10)
        cores = max(1, (settings.cores or available()) // settings.workers)
        shared = settings.model_copy(update={"redis_url": SecretStr(url), "cores": cores})
        asyncio.run(_first_admin(shared))
        listener = stack.enter_context(listening(settings))
        Workers(shared, listener).serve()


async def _first_admin(settings: Settings) -> None:
    """Made here, it is made once and told once; the workers find it."""
    state = State(settings)
    async with AsyncExitStack() as stack:
        await make_first_admin(settings, state, await open_keys(settings, state, stack, wait_s=0))
