"""Lua scripts as the store runs them: by digest, with the text behind it, and heard of by replicas where that is asked.

Knows Redis; knows no key. Every script begins with scripts/budget.lua.
"""

import asyncio
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

from keys.pipelines import Argument, Pipelines

Call = tuple[Sequence[str], Sequence[Argument]]
"""The names that a script touches, and its other arguments."""
FOLDER = Path(__file__).parent / "scripts"
PRELUDE = "budget"


class Scripts:
    """The scripts of `scripts/`; `replicas` servers must have heard of what is run durably.

    Calls that come together share a round trip.
    """

    def __init__(self, client: Redis, replicas: int = 0) -> None:
        self._pipelines = Pipelines(client)
        self._durable = Pipelines(client, replicas) if replicas else self._pipelines
        self._replicas = replicas
        prelude = (FOLDER / f"{PRELUDE}.lua").read_text()
        self._texts = {path.stem: prelude + path.read_text() for path in FOLDER.glob("*.lua") if path.stem != PRELUDE}
        self._digests = {
            name: hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest() for name, text in self._texts.items()
        }

    async def run(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401 - Lua's answer
        """What the script answers; raises StoreUnavailable."""
        return await self._run(self._pipelines, name, keys, args)

    async def run_durably(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401
        """The same, and the replicas have it too.

        Raises:
            StoreUnavailable: the store does not answer, or too few replicas have it: it may be lost in a fail-over.
        """
        return await self._run(self._durable, name, keys, args)

    async def run_many(self, name: str, calls: Sequence[Call]) -> list[Any]:
        """What the script answers to each of several calls; raises StoreUnavailable."""
        replies = [self._pipelines.send(keys[0], *self._known(name, keys, args)) for keys, args in calls]
        answers = await asyncio.gather(*replies, return_exceptions=True)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            return [await self.run(name, *call) for call in calls]
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers

    async def _run(self, pipelines: Pipelines, name: str, keys: Sequence[str], args: Sequence[Argument]) -> Any:  # noqa: ANN401
        try:
            return await pipelines.send(keys[0], *self._known(name, keys, args))
        except NoScriptError:
            return await pipelines.send(keys[0], "EVAL", self._texts[name], len(keys), *keys, *args)

    def _known(self, name: str, keys: Sequence[str], args: Sequence[Argument]) -> tuple[Argument, ...]:
        return ("EVALSHA", self._digests[name], len(keys), *keys, *args)

    async def heard(self, key: str) -> None:
        """Return when the replicas have all that the store has so far; of what belongs to `key`, in a cluster.

        Raises:
            StoreUnavailable: as `run_durably` does.
        """
        if self._replicas:
            await self._durable.send(key, "PING")
