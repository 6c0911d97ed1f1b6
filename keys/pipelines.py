"""Commands to the store: all that are given in one turn of the event loop go in one round trip.

Knows Redis; knows no script and no key. A server's requests come in bursts, and what a round trip costs the client
library is several times what one more command in it costs. A command on its own waits for nobody.

While the store is away, one round trip at a time finds out whether it is back, and what comes meanwhile is refused at
once: whoever can do without the store must not wait for it.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from keys.connection import TIMEOUT_S, reason, unavailable
from keys.errors import StoreUnavailable

CONNECTIONS = 4  # what is given while all of them wait for replies goes together on the first that is free
REPLICATED_WITHIN_MS = 500
ANSWERED_WITHIN_S, FOUND_WITHIN_S = 3.0, 1.0  # as long as all is well; by who finds out whether the store is back
LOOKED_FOR_EVERY_S = 0.1
NOTED_EVERY_S = 10.0
Argument = str | int | float

log = logging.getLogger("sdb.store")


class _Sent(NamedTuple):
    key: str
    packed: bytes
    reply: "asyncio.Future[Any]"


class Pipelines:
    """Connections of its own to a store; what is sent on them is answered once `replicas` servers have heard of it.

    A command is sent again if its reply is lost, so it must be one that may come twice.
    """

    def __init__(self, client: Redis, replicas: int = 0) -> None:
        self._pool, self._replicas = client.connection_pool, replicas
        self._waiting: list[_Sent] = []
        self._free: list[Any] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._called, self._at_work = False, 0
        self._away: Exception | None = None
        self._look_at = 0.0  # when the store is looked for, of the event loop's time
        self._note_at = 0.0

    def send(self, key: str, *command: Argument) -> "asyncio.Future[Any]":
        """The reply to a command about `key`; whoever does not wait for it harms no other.

        Raises (when it is awaited):
            StoreUnavailable: the store does not answer, or refuses; or too few replicas have heard of what was
                changed, and it may be lost in a fail-over.
            NoScriptError: the store does not know the script.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        if self._away is not None and loop.time() < self._look_at:
            reply.set_exception(unavailable(self._away))
            return reply
        self._waiting.append(
            _Sent(key, _packed(*command), reply)
        )  # here, so that what cannot be packed harms nobody else
        if not self._called and self._at_work < CONNECTIONS:
            self._called, self._at_work = True, self._at_work + 1
            task = loop.create_task(self._work())  # begins when this turn of the loop is over
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return reply

    async def _work(self) -> None:
        """Send what waits, and what has come meanwhile, until nothing waits."""
        self._called = False
        connection, sent = None, list[_Sent]()
        try:
            while self._waiting:  # nothing, if what did was refused before this began
                if self._away is not None:
                    self._look_at = math.inf  # by this round trip, and by no other before it knows
                sent, self._waiting = self._waiting, []
                try:
                    async with asyncio.timeout(ANSWERED_WITHIN_S if self._away is None else FOUND_WITHIN_S):
                        connection = connection or await self._connection()
                        refusal = _deliver(sent, *await self._exchange(connection, sent))
                    self._find()
                    self._note(refusal)
                except Exception as error:  # be it another than a store's: who waits, or comes later, must not hang
                    if connection is not None:
                        await connection.disconnect(nowait=True)  # a reply may be on its way yet
                    self._lose(error)
                    _fail(sent, error)
        finally:
            self._at_work -= 1
            if connection is not None:
                self._free.append(connection)
            for one in sent:
                one.reply.cancel()  # if the loop ends in the midst; else they are done

    def _lose(self, error: Exception) -> None:
        """The store is away: what waits for it is refused."""
        if self._away is None:
            log.warning("the key store does not answer (%s): what needs it is refused", reason(error))
        waiting, self._waiting = self._waiting, []
        self._away, self._look_at = error, asyncio.get_running_loop().time() + LOOKED_FOR_EVERY_S
        _fail(waiting, error)

    def _find(self) -> None:
        if self._away is not None:
            log.info("the key store answers again")
        self._away = None

    def _note(self, refusal: ResponseError | None) -> None:
        """A store that is full, read-only or wants a password answers, and no: once in a while the log says so."""
        now = asyncio.get_running_loop().time()
        if refusal is not None and now >= self._note_at:
            self._note_at = now + NOTED_EVERY_S
            log.warning("the key store refuses what it is told (%s): %s", type(refusal).__name__, str(refusal)[:80])

    async def _connection(self) -> Any:  # noqa: ANN401 - redis-py has a class for each kind of address
        return self._free.pop() if self._free else await self._pool.get_connection()  # type: ignore[no-untyped-call]

    async def _exchange(self, connection: Any, sent: Sequence[_Sent]) -> tuple[list[Any], str]:  # noqa: ANN401
        """The replies, and what is wrong with all of them: too few replicas have heard of it."""
        commands = [one.packed for one in sent]
        if self._replicas:
            # WAIT is for what this connection wrote last, and a script whose work was done before writes nothing.
            wait = _packed("WAIT", self._replicas, REPLICATED_WITHIN_MS)
            commands += [_packed("INCR", f"{sent[0].key}:heard"), wait]
        replies = await connection.retry.call_with_retry(
            lambda: _round_trip(connection, commands), lambda _: connection.disconnect(nowait=True)
        )
        if not self._replicas or replies[-1] >= self._replicas:
            return replies, ""
        return replies, f"{replies[-1]} of {self._replicas} replicas have acknowledged the change in time"


def _packed(*command: Argument) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub says: of one word
    return packed


async def _round_trip(connection: Any, commands: Sequence[bytes]) -> list[Any]:  # noqa: ANN401
    if not connection.is_connected:
        await connection.connect()  # and not as `send_packed_command` would: this asks the Sentinels anew
    await connection.send_packed_command(b"".join(commands))
    async with asyncio.timeout(TIMEOUT_S):  # one for all of them: redis-py's own, for each, takes as long as to read it
        return [await _reply(connection) for _ in commands]


async def _reply(connection: Any) -> Any:  # noqa: ANN401
    try:
        return await connection.read_response(timeout=math.inf)
    except ResponseError as refusal:  # of this command alone: the other replies follow
        return refusal


def _deliver(sent: Sequence[_Sent], replies: Sequence[Any], wrong: str) -> ResponseError | None:
    """Give everybody their reply; what the store refused to one of them, if it did."""
    refusal = None
    for one, reply in zip(sent, replies, strict=False):
        if isinstance(reply, ResponseError) and not isinstance(reply, NoScriptError):
            refusal = reply
        if one.reply.done():  # nobody waits for it any more
            continue
        if wrong:
            one.reply.set_exception(StoreUnavailable(wrong))
        elif isinstance(reply, ResponseError):
            one.reply.set_exception(reply if isinstance(reply, NoScriptError) else unavailable(reply))
        else:
            one.reply.set_result(reply)
    return refusal


def _fail(sent: Sequence[_Sent], error: Exception) -> None:
    for one in sent:
        if not one.reply.done():
            one.reply.set_exception(unavailable(error))
