"""Lua scripts as the store runs them: by digest, with the text behind it, and heard of by replicas where that is asked.

Knows Redis; knows no key. Every script begins with scripts/budget.lua.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from keys.connection import available
from keys.errors import StoreUnavailable

FOLDER = Path(__file__).parent / "scripts"
PRELUDE = "budget"
REPLICATED_WITHIN_MS = 500
Argument = str | int | float


class Scripts:
    """The scripts of `scripts/`; `replicas` servers must have heard of what is run durably."""

    def __init__(self, client: Redis, replicas: int = 0) -> None:
        self._redis, self._replicas = client, replicas
        prelude = (FOLDER / f"{PRELUDE}.lua").read_text()
        self._texts = {path.stem: prelude + path.read_text() for path in FOLDER.glob("*.lua") if path.stem != PRELUDE}
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self._texts.items()
        }

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401 - Lua's answer
        """What the script answers; raises StoreUnavailable."""
        async with available():
            try:
                return await self._redis.evalsha(self._digests[name], len(keys), *keys, *args)
            except NoScriptError:
                return await self._redis.eval(self._texts[name], len(keys), *keys, *args)

    async def run_durably(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401
        """The same, and the replicas have it too.

        Raises:
            StoreUnavailable: the store does not answer, or too few replicas have it: it may be lost in a fail-over.
        """
        if not self._replicas:
            return await self.run(name, keys, args)
        async with available():
            try:
                return await self._heard(keys[0], "evalsha", self._digests[name], len(keys), *keys, *args)
            except NoScriptError:
                return await self._heard(keys[0], "eval", self._texts[name], len(keys), *keys, *args)

    async def heard(self, key: str) -> None:
        """Return when the replicas have all that the store has so far; of what belongs to `key`, in a cluster.

        Raises:
            StoreUnavailable: as `run_durably` does.
        """
        if self._replicas:
            async with available():
                await self._heard(key, "ping")

    async def _heard(self, key: str, verb: str, *parts: Argument) -> Any:  # noqa: ANN401
        async with self._redis.pipeline(transaction=False) as pipeline:
            getattr(pipeline, verb)(*parts)
            # WAIT is for what this connection wrote last, and a script whose work was done before writes nothing.
            pipeline.incr(f"{key}:heard")
            pipeline.execute_command("WAIT", self._replicas, REPLICATED_WITHIN_MS)
            answer, _, heard = await pipeline.execute()
        if heard < self._replicas:
            raise StoreUnavailable(f"{heard} of {self._replicas} replicas have acknowledged the change in time")
        return answer

    async def run_many(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """What the script answers to each of several calls, in one round trip."""
        async with available():
            try:
                return await self._all("evalsha", self._digests[name], calls)
            except NoScriptError:
                return await self._all("eval", self._texts[name], calls)

    async def _all(
        self, verb: str, script: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for keys, args in calls:
                getattr(pipeline, verb)(script, len(keys), *keys, *args)
            answers: list[Any] = await pipeline.execute()
            return answers
