"""Keys in Redis (or Valkey): find, read and change them. What is charged is in keys/budget_store.py.

Knows the layout (keys/layout.py); knows no secret (digests come in) and no caller's rights.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from keys.budget_store import BudgetStore
from keys.connection import available
from keys.errors import ConfigurationError, InvalidCredential, UnknownKey
from keys.image_store import Entry, ImageKeyStore, newest_first
from keys.layout import (
    AUDIT,
    HEAD,
    LAYOUT,
    RECORD_FIELD,
    TRACING,
    Command,
    change_name,
    digest_name,
    hash_of,
    image_keys,
    record_of,
)
from keys.records import KeyRecord
from keys.scripting import Scripts
from keys.session_store import SessionStore

ENTRY_NAME = re.compile(r"\d{1,15}-\d{1,15}", re.ASCII)
FIRST_ENTRY = "0-0"


@dataclass(frozen=True)
class Snapshot:
    """What a change is planned on: the key as it is (no fields: there is none), its image keys, the log's head."""

    now: float
    """The store's clock in ms."""
    fields: Mapping[str, str]
    image_keys: Mapping[str, Entry]
    head: str
    done: str | None
    """What the change of this name gave, if it was made before."""

    @property
    def number(self) -> int:
        """The number of the entry that is logged next; no two changes have one."""
        return 1 + (json.loads(self.head)["seq"] if self.head else 0)

    @property
    def record(self) -> KeyRecord:
        """The key; raises UnknownKey."""
        if RECORD_FIELD not in self.fields:
            raise UnknownKey("no key has this id")
        return record_of(self.fields)


@dataclass(frozen=True)
class Change:
    """What the store does, what the log says of it (no secret), and what the admin is told once."""

    commands: list[Command]
    detail: Mapping[str, object] = field(default_factory=dict)
    told: Mapping[str, str] = field(default_factory=dict, repr=False)
    ledger: tuple[str, int] | None = None


@dataclass(frozen=True)
class Logged:
    """The entry of the audit log and its new head; and what a retry by the same name finds, for so many seconds."""

    entry: str
    head: str
    name: str
    result: str
    life_s: int


class KeyStore:
    """Every method raises StoreUnavailable when the store does not answer, or too few replicas heard of a change."""

    def __init__(self, client: Redis, replicas: int = 0) -> None:
        self._redis, self._scripts = client, Scripts(client, replicas)
        self.image_keys = ImageKeyStore(client, self._scripts)
        self.budgets, self.sessions = BudgetStore(client, self._scripts), SessionStore(client)

    async def ping(self) -> None:
        """Return when the store answers."""
        async with available():
            await self._redis.ping()

    async def first_key(self) -> str:
        """The id of the key that was made first, by which one store is told from another; empty if there is none."""
        async with available():
            ids = await self._redis.zrange("sdb:keys", 0, 0)
        return str(ids[0]) if ids else ""

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def find(self, digests: Sequence[str]) -> tuple[KeyRecord, str]:
        """The key whose API key has one of `digests`, and that digest.

        Raises:
            InvalidCredential: there is none, or the API key was replaced and its overlap is over.
        """
        async with available():
            names = await self._redis.mget([digest_name(digest) for digest in digests])
        known = [(digest, str(name)) for digest, name in zip(digests, names, strict=True) if name]
        # An unknown one costs the same two round trips: how long a refusal takes tells nothing.
        ((now, fields),) = await self._read([known[0][1] if known else ""])
        for digest, _ in known:
            until = fields.get(f"digest:{digest}")
            if until is not None and (not until or now < float(until)):
                return record_of(fields), digest
        raise InvalidCredential

    async def refile(self, key_id: str, digests: Sequence[str], master: str) -> None:
        """Let an API key that is good be found under the first of its digests, too: that of the master key `master`."""
        newest, *older = digests
        arguments = [key_id, newest, master, *older]
        await self._scripts.run("refile", [hash_of(key_id), digest_name(newest)], arguments)

    async def get(self, key_id: str) -> KeyRecord:
        """The key with this id.

        Raises:
            UnknownKey: there is none.
        """
        ((_, fields),) = await self._read([key_id])
        if RECORD_FIELD not in fields:
            raise UnknownKey(f"no key has the id {key_id!r}")
        return record_of(fields)

    async def _read(self, key_ids: Sequence[str]) -> list[tuple[float, dict[str, str]]]:
        """The hash of each of these keys, its budget up to date, and the store's clock (ms); in one round trip."""
        answers = await self._scripts.run_many("read", [([hash_of(key_id)], []) for key_id in key_ids])
        return [(float(now), dict(zip(flat[::2], flat[1::2], strict=True))) for now, flat in answers]

    async def page(self, after: str | None, size: int) -> list[KeyRecord]:
        """At most `size` keys, newest first, that were created before the key `after`.

        Raises:
            UnknownKey: `after` is no key.
        """
        async with available():
            first = 0
            if after is not None:
                rank: Any = await self._redis.zrevrank("sdb:keys", after)
                if rank is None:
                    raise UnknownKey("the cursor is not valid")
                first = rank + 1
            ids = await self._redis.zrevrange("sdb:keys", first, first + size - 1)
        if not ids:
            return []
        return [record_of(fields) for _, fields in await self._read([str(key_id) for key_id in ids]) if fields]

    async def has_admin(self) -> bool:
        """Whether an admin key was ever made.

        Raises:
            ConfigurationError: the store was written by an earlier version.
        """
        async with available():  # the layout last: between the two, another server may make the first admin
            admins, layout = await self._redis.scard("sdb:admins"), await self._redis.get("sdb:layout")
        if admins and layout != LAYOUT:
            raise ConfigurationError("the key store was written by an earlier version; start with an empty one")
        return bool(admins)

    async def snapshot(self, key_id: str, change: str) -> Snapshot:
        """What the change called `change` of the key `key_id` is planned on."""
        async with available(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.time()
            pipeline.hgetall(hash_of(key_id))
            pipeline.hgetall(image_keys(key_id))
            pipeline.mget([HEAD, change_name(change)])
            (seconds, microseconds), fields, entries, (head, done) = await pipeline.execute()
        return Snapshot(1000 * seconds + microseconds / 1000, fields, newest_first(entries), head or "", done)

    async def commit(self, key_id: str, snapshot: Snapshot, change: Change, logged: Logged) -> str | None:
        """Make a change that was planned on `snapshot`, and log it, in one step.

        Returns the result of the change (the first one's, if it was made before), None if the key or the log has moved.
        """
        kind, count = change.ledger or ("", "")
        verdict, *recorded = await self._scripts.run_durably(
            "commit",
            [hash_of(key_id), AUDIT, HEAD, change_name(logged.name)],
            [
                snapshot.head,
                snapshot.fields.get("revision", ""),
                *(logged.head, logged.entry, logged.result, logged.life_s),
                *(json.dumps(change.commands), kind, count),
            ],
        )
        if verdict == "moved":
            return None
        return str(recorded[0]) if recorded else logged.result

    async def reseal_tracing(self, number: int, old: str, new: str) -> bool:
        """Put `new` in the place of the sealed tracing secret `old`; False if it is no longer there."""
        name = hash_of(TRACING)
        return bool(await self._scripts.run_durably("reseal", [name, name], [str(number), old, new]))

    async def heard(self, key_id: str) -> None:
        """Return when the replicas have what was changed of a key so far."""
        await self._scripts.heard(hash_of(key_id))

    async def entries(self, size: int, before: str | None = None) -> list[tuple[str, str]]:
        """At most `size` entries of the audit log, newest first, each with its name; those before one if it is given.

        Raises:
            UnknownKey: that cannot be the name of one.
        """
        if before is not None and not ENTRY_NAME.fullmatch(before):
            raise UnknownKey("the cursor is not valid")
        async with available():
            found: Any = await self._redis.xrevrange(AUDIT, "+" if before is None else f"({before}", "-", count=size)
        return _entries(found)

    async def entries_after(self, name: str, size: int) -> tuple[list[tuple[str, str]], str]:
        """At most `size` entries of the audit log that follow one, oldest first, and its head; both of one moment."""
        async with available(), self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xrange(AUDIT, f"({name}", "+", count=size)
            pipeline.get(HEAD)
            found, head = await pipeline.execute()
        return _entries(found), str(head or "")


def _entries(found: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - the store's answer
    return [(str(name), str(fields.get("entry", ""))) for name, fields in found]
