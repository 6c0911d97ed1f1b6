"""A network between machines that are processes here: it delays, loses and parts.

On one machine a replica has everything at once, and neither a kill nor a lost reply would ever harm anyone. Knows
bytes, and no command but the one with which a replica begins.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

CHUNK = 1 << 16
REPLICA = b"\r\nPSYNC\r\n"


class Link:
    """A port of this machine that leads to a store's unix socket, while the link is entered.

    Bytes to a replica arrive after `lag_s`; those on the way are lost when the store dies.
    """

    def __init__(self, socket: Path, lag_s: float = 0.0) -> None:
        self._socket, self._lag_s = socket, lag_s
        self._whole, self._losing = True, b""
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port: int = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listener.close()
        self.part()
        await asyncio.gather(*self._open, return_exceptions=True)
        await self._listener.wait_closed()

    def part(self) -> None:
        """Let nobody reach the store from now on."""
        self._whole = False
        for connection in self._open:
            connection.cancel()

    def join(self) -> None:
        """Let everybody reach it again."""
        self._whole = True

    @contextmanager
    def losing_the_reply_to(self, command: str) -> Iterator[None]:
        """Let the store obey the next `command` that is sent inside, and break the connection before anybody hears."""
        self._losing = f"\r\n{command}\r\n".encode()
        try:
            yield
        finally:
            self._losing = b""

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(self._carry(reader, writer))
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry bytes both ways until one end closes; then both are, at once."""
        async with _aborted(writer):
            if not self._whole:
                return
            try:
                there, thither = await asyncio.open_unix_connection(str(self._socket))
            except OSError:
                return  # the store is dead: so is the connection
            async with _aborted(thither):
                state = _Connection()
                ends = [asyncio.ensure_future(self._ask(state, reader, thither))]
                ends.append(asyncio.ensure_future(self._answer(state, there, writer)))
                try:
                    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for end in ends:
                        end.cancel()
                    await asyncio.gather(*ends, return_exceptions=True)

    async def _ask(self, state: "_Connection", source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while chunk := await source.read(CHUNK):
            if REPLICA in chunk:
                state.lag_s = self._lag_s
            if self._losing and self._losing in chunk:
                state.doomed, self._losing = True, b""
            target.write(chunk)

    async def _answer(self, state: "_Connection", source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while (chunk := await source.read(CHUNK)) and not state.doomed:
            if state.lag_s:
                loop.call_later(state.lag_s, _arrive, chunk, target)
            else:
                target.write(chunk)


@dataclass
class _Connection:
    lag_s: float = 0.0
    doomed: bool = False


def _arrive(chunk: bytes, target: asyncio.StreamWriter) -> None:
    if not target.is_closing():
        target.write(chunk)


@asynccontextmanager
async def _aborted(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    try:
        yield
    finally:
        writer.transport.abort()
