"""One server process: the application under uvicorn, on a port of its own or on a socket that it shares."""

import asyncio
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import uvicorn
import uvloop

from app import garbage
from app.connections import KEEP_ALIVE_S, Connection, Connections, most_connections
from app.listening import listening
from app.main import build, create_app
from app.metrics.share import Share
from app.pipeline import Services
from app.settings import Settings
from keys.errors import ConfigurationError
from models.bundles import BundleError
from models.predictor import DeviceError

UNBUILDABLE = (BundleError, ConfigurationError, DeviceError)
LEAVE = signal.SIGHUP
# Somebody else takes new callers: those who have a connection and say nothing for so long do not use it any more.
LEFT_ALONE_S = 6.0
LOOK_EVERY_S = 0.1


def run(
    settings: Settings,
    listener: socket.socket | None = None,
    beat: Callable[[], None] | None = None,
    share: Share | None = None,
) -> None:
    """Serve until SIGTERM, SIGINT or SIGHUP, then answer what has begun and exit with status 0.

    `beat` is called once a second by what answers: when it is not, the process hangs.

    Raises:
        BundleError, ConfigurationError, DeviceError: what the settings describe cannot be built.
    """
    for number in (signal.SIGTERM, signal.SIGINT):  # uvicorn drains, then raises what it caught once more
        signal.signal(number, _stopped)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(settings, listener, beat, share))


async def _serve(
    settings: Settings, listener: socket.socket | None, beat: Callable[[], None] | None, share: Share | None
) -> None:
    """Build first, then listen: what cannot be built is an error of the command, in one line, not of the server."""
    bound = listening(settings) if listener is None else listener
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        lifespan="off",
        http=Connection,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # the application believes SDB_TRUSTED_PROXIES alone
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=settings.drain_timeout_s,
    )
    async with AsyncExitStack() as stack:
        services = app.state.services = await build(settings, stack, app.state.journal, share=share)
        garbage.spare_what_is_built()
        server = Server(config, services, beat or _no_one)
        server.handed_over = settings.fd is not None
        if listener is not None or signal.getsignal(LEAVE) != signal.SIG_IGN:  # as `nohup` has it
            leave = server.stop if listener is None else server.leave
            asyncio.get_running_loop().add_signal_handler(LEAVE, leave)
        await server.serve([bound])


class Server(uvicorn.Server):
    """uvicorn, with limits for its connections and an end that no caller notices.

    Told to stop, it is not ready any more, and answers for a while yet: whoever sends callers here is to notice. Every
    answer from then on is the last of its connection. Then it listens no more, and finishes what it has begun.
    """

    def __init__(self, config: uvicorn.Config, services: Services, beat: Callable[[], None]) -> None:
        super().__init__(config)
        limit = most_connections(services.settings.max_connections)
        self.server_state = self._connections = Connections(limit)
        self._delay_s, self._stopping = services.settings.drain_delay_s, services.stopping
        self._models, self._beat = services.models, beat
        self.handed_over = False
        """Whether others take callers from the same socket, now or soon."""

    def leave(self) -> None:
        """Stop, while others go on to take callers from the same socket."""
        self.handed_over = self.should_exit = True

    def stop(self) -> None:
        """As at SIGTERM."""
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen; raises ConfigurationError where another server, bound at the same time, was first."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise ConfigurationError(f"cannot listen: {error.strerror}") from None

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second."""
        if counter % 10 == 0:
            if all(model.running for model in self._models):  # one that hangs for good is replaced with its process
                self._beat()
            self._connections.look(asyncio.get_running_loop().time())
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain, then let uvicorn end what is left within its time."""
        self._connections.drain()
        if self.handed_over:
            for listening in self.servers:
                listening.close()
            await self._go_on(LEFT_ALONE_S, lambda: not self._connections.connections)
        else:
            self._stopping.set()
            # From a keyboard nobody balances; a SIGTERM that comes twice is no more than one.
            await self._go_on(self._delay_s, lambda: signal.SIGINT in self._captured_signals)
        await super().shutdown(sockets)

    async def _go_on(self, seconds: float, enough: Callable[[], bool]) -> None:
        """Answer for so long, or until it is enough."""
        end, ticks = time.monotonic() + seconds, 0
        while time.monotonic() < end and not enough():
            ticks += 1
            await self.on_tick(ticks)
            await asyncio.sleep(LOOK_EVERY_S)


def _no_one() -> None:
    """Nobody listens to the beat of a server that runs alone."""


def _stopped(*_: object) -> None:
    """A server that was asked to stop, and did, has not failed."""
    sys.exit(0)
