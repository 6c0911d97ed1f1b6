"""What marks are derived from, and which marks were ever given.

The store and the cryptography are passed in; knows no mark. The secrets lie sealed in the store and not in the state
folder, so that all replicas mark alike; none is ever removed, so that what leaked under an old one can still be traced.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from secrets import token_bytes

from keys.changes import Changes
from keys.errors import ConfigurationError, StoreUnavailable
from keys.generations import Generation, numbered, opened, sealed
from keys.layout import TRACING, hash_of
from keys.material import SECRET_BYTES, Vault
from keys.records import Act, KeyRecord, Origin, instant
from keys.store import Change, KeyStore, Snapshot

FIRST = "first tracing secret"  # of servers that start together, one makes it
FRESH_S = 60.0  # for so long a process goes on with the generation that it knows
SERVER = "server"

log = logging.getLogger("sdb.keys")


class TracingService:
    """One per process; safe for concurrent requests. Raises StoreUnavailable when the store does not answer."""

    def __init__(self, store: KeyStore, vault: Vault, changes: Changes, clock: Callable[[], float]) -> None:
        self._store, self._vault, self._changes, self._clock = store, vault, changes, clock
        self._newest: Generation | None = None
        self._read_at, self._reading = 0.0, asyncio.Lock()

    async def newest(self) -> Generation:
        """The generation that answers are marked with, made if there is none; a rotation is heard of in FRESH_S.

        Raises:
            StoreUnavailable: also if its secret does not open: what cannot be marked must not leave.
        """
        known = self._known()
        if known is not None:
            return known
        async with self._reading:
            return self._known() or await self._read()

    def _known(self) -> Generation | None:
        return self._newest if self._clock() - self._read_at < FRESH_S else None

    async def _read(self) -> Generation:
        stored = await self._stored()
        if not stored:
            await self._make(Act(SERVER, idempotency_key=FIRST))
            stored = await self._stored()
        try:
            self._newest = opened(self._vault, *max(stored.items()))
        except ConfigurationError as error:  # the operator's to mend; the caller learns nothing of it
            log.error("%s: no answer can be marked; give the master key, or run sdb keys new-tracing-secret", error)
            raise StoreUnavailable("answers cannot be marked now") from None
        self._read_at = self._clock()
        return self._newest

    async def generations(self) -> tuple[list[Generation], list[int]]:
        """All generations that open, oldest first, and the numbers of those that do not."""
        found, closed = [], []
        for number, text in (await self._stored()).items():
            try:
                found.append(opened(self._vault, number, text))
            except ConfigurationError:
                closed.append(number)
        return found, closed

    async def rotate(self, act: Act) -> int:
        """Begin another generation; its number. The ones before are kept."""
        number = await self._make(act)
        self._newest = None
        return number

    async def _make(self, act: Act) -> int:
        secret, now = token_bytes(SECRET_BYTES), self._clock()

        def plan(snapshot: Snapshot) -> Change:
            number = max(numbered(snapshot.fields), default=0) + 1
            text = sealed(self._vault, number, secret, now)
            commands = [["HSET", hash_of(TRACING), str(number), text], ["HINCRBY", hash_of(TRACING), "revision", "1"]]
            return Change(commands, {"generation": number}, {"generation": str(number)})

        return int((await self._changes.make("tracing-secret.make", TRACING, act, plan))["generation"])

    async def begin(self, key: KeyRecord, model: str, generation: int, origin: Origin) -> None:
        """Log, before the first answer of a model to a key leaves with the mark of a generation, that it will."""
        name = _since(model, generation)
        if name in (await self._store.snapshot(key.id, "")).fields:
            return

        def plan(snapshot: Snapshot) -> Change:
            command = ["HSET", hash_of(key.id), name, str(int(snapshot.now))]
            return Change([command], {"model": model, "generation": generation, "strength": key.mark})

        # Named, so that processes that are first at the same time make one and the same change.
        act = Act(SERVER, origin.request_id, origin.address, idempotency_key=f"{key.id} {name}")
        await self._changes.make("mark.begin", key.id, act, plan)

    async def begun(self, key_id: str, model: str, generation: int) -> datetime | None:
        """Since when answers of this model to a key bear the mark of a generation; None if none ever did."""
        since = (await self._store.snapshot(key_id, "")).fields.get(_since(model, generation))
        return None if since is None else instant(float(since) / 1000)

    async def _stored(self) -> dict[int, str]:
        return numbered((await self._store.snapshot(TRACING, "")).fields)


def _since(model: str, generation: int) -> str:
    return f"marked:{model}:{generation}"
