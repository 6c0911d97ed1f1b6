"""Keys in Redis (or Valkey): find, read and change them. What is charged is in keys/budget_store.py.

Knows the layout; knows no secret (digests come in) and no caller's rights. Per key, all in one hash slot:

* `sdb:{ID}` hash: `record` (JSON: what no script reads), `state`, `revision`, `epoch`, `expires_at`, `limit`, `refill`,
  `resets_at`, `used`, `granted`, `period`, `rates`, `last_used`, `master`, `digest:HMAC` → empty, or until when (ms),
  `rate:NAME` (a window), `held:HOLD` (answers charged and not yet given: until when (ms), period, of the limit, of the
  grants), `due` (ms): no hold lapses before, `marked:MODEL:GENERATION` → since when answers bear that mark (ms)
* `sdb:{ID}:settled` sorted set: holds that were made final just now, by when that may be forgotten (ms)
* `sdb:{ID}:ledger` list: every change of the budget, `sdb:{ID}:usage:DAY` hash: what was answered
* `sdb:{ID}:image-keys` (keys/image_store.py), `sdb:{ID}:seen:KID:IV`: a sealed image was opened; expires
* `sdb:{ID}:request:NAME`, `sdb:{ID}:buried:TOKEN`, `sdb:{ID}:refused:CODE`: expire

`sdb:{tracing}` hash: `revision`, GENERATION → a secret that marks are derived from (keys/generations.py). It is named
like a key, so that a change of it is made and logged as one of a key is; it is none.

And, for finding keys: `sdb:digest:HMAC` → ID, `sdb:keys` (in order of creation), `sdb:admins` (set), `sdb:layout`.
The audit log is `sdb:audit` (stream) and `sdb:audit:head`; `sdb:change:NAME` is what a change of that name gave.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from redis.asyncio import Redis

from keys.budget_store import BURIED_LIFE_S, BudgetStore, buried
from keys.connection import available
from keys.errors import ConfigurationError, InvalidCredential, UnknownKey
from keys.image_store import Entry, ImageKeyStore, hash_of, image_keys, newest_first
from keys.records import KeyRecord, RateLimit, instant
from keys.scripting import Scripts
from keys.session_store import SessionStore

LAYOUT = "3"
TRACING = "tracing"  # in the place of a key's id
AUDIT, HEAD = "sdb:audit", "sdb:audit:head"
RECORD = {"id", "kind", "name", "scopes", "models", "created_at", "metadata", "mark"}
RECORD_FIELD = "record"
ENTRY_NAME = re.compile(r"\d{1,15}-\d{1,15}", re.ASCII)
FIRST_ENTRY = "0-0"
Command = list[str]


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

    async def in_use(self) -> bool:
        """Whether it has ever had a key: one that was lost is nothing to work with."""
        async with available():
            return bool(await self._redis.exists("sdb:layout"))

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()

    async def find(self, digests: Sequence[str]) -> tuple[KeyRecord, str]:
        """The key whose API key has one of `digests`, and that digest.

        Raises:
            InvalidCredential: there is none, or the API key was replaced and its overlap is over.
        """
        async with available():
            names = await self._redis.mget([_digest(digest) for digest in digests])
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
        await self._scripts.run("refile", [hash_of(key_id), _digest(newest)], arguments)

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
        return [(float(now), _mapping(fields)) for now, fields in answers]

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
            pipeline.mget([HEAD, _change(change)])
            (seconds, microseconds), fields, entries, (head, done) = await pipeline.execute()
        return Snapshot(1000 * seconds + microseconds / 1000, fields, newest_first(entries), head or "", done)

    async def commit(self, key_id: str, snapshot: Snapshot, change: Change, logged: Logged) -> str | None:
        """Make a change that was planned on `snapshot`, and log it, in one step.

        Returns the result of the change (the first one's, if it was made before), None if the key or the log has moved.
        """
        kind, count = change.ledger or ("", "")
        verdict, *recorded = await self._scripts.run_durably(
            "commit",
            [hash_of(key_id), AUDIT, HEAD, _change(logged.name)],
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


def insertion(record: KeyRecord, digest: str, number: int, image_keys_: Mapping[str, Entry]) -> list[Command]:
    """Add a new key that is found under `digest`, and its first image keys by `kid`."""
    unused = {
        "used": "0",
        "granted": "0",
        "period": "0",
        "due": "0",
        "resets_at": "",
        "last_used": "",
        f"digest:{digest}": "",
    }
    commands = [
        _set_fields(record.id, fields_of(record) | unused),
        ["SET", _digest(digest), record.id],
        ["ZADD", "sdb:keys", str(number), record.id],
        ["SET", "sdb:layout", LAYOUT],
    ]
    commands += [["HSET", image_keys(record.id), kid, entry.text()] for kid, entry in image_keys_.items()]
    return commands + ([["SADD", "sdb:admins", record.id]] if record.kind == "admin" else [])


def replacement(old: KeyRecord, new: KeyRecord) -> list[Command]:
    """Put `new` in the place of `old`; windows that it does not have, or of another length, begin anew."""
    lengths = {rate.name: rate.window_s for rate in new.rate_limits}
    gone = [f"rate:{rate.name}" for rate in old.rate_limits if lengths.get(rate.name) != rate.window_s]
    commands = [_set_fields(new.id, _changed(old, new))]
    return commands + ([["HDEL", hash_of(new.id), *gone]] if gone else [])


def rotation(snapshot: Snapshot, new: KeyRecord, digest: str, overlap_s: int) -> list[Command]:
    """Let a key be found under `digest`, and under the digests it had for `overlap_s` seconds more."""
    name, end = hash_of(new.id), snapshot.now + 1000 * overlap_s
    fields = _changed(snapshot.record, new) | {f"digest:{digest}": ""}
    commands = [_set_fields(new.id, fields), ["SET", _digest(digest), new.id]]
    for field_name, until in snapshot.fields.items():
        if field_name.startswith("digest:"):
            ends = min(end, float(until or end))
            if ends <= snapshot.now:
                commands += [["HDEL", name, field_name], ["DEL", f"sdb:{field_name}"]]
            else:
                commands.append(["HSET", name, field_name, str(int(ends))])
    return commands


def top_up(key_id: str, answers: int) -> list[Command]:
    """Add one-off grants."""
    return [["HINCRBY", hash_of(key_id), "granted", str(answers)]]


def burial(key_id: str, token: str) -> list[Command]:
    """Let a token be good no more."""
    return [["SET", buried(key_id, token), "1", "EX", str(BURIED_LIFE_S)]]


def _set_fields(key_id: str, fields: Mapping[str, str]) -> Command:
    return ["HSET", hash_of(key_id), *(part for item in fields.items() for part in item)]


def _changed(old: KeyRecord, new: KeyRecord) -> dict[str, str]:
    """The fields that differ; with another refill the script begins another period."""
    changed = dict(fields_of(new).items() - fields_of(old).items())
    return changed | {"resets_at": ""} if "refill" in changed else changed


def fields_of(record: KeyRecord) -> dict[str, str]:
    """The fields of a key's hash that say what it is; what it has used, and until when, is not among them."""
    budget = record.budget
    return {
        RECORD_FIELD: record.model_dump_json(include=RECORD),
        "state": record.state,
        "revision": str(record.revision),
        "epoch": str(record.epoch),
        "expires_at": _seconds(record.expires_at),
        "limit": "" if budget.limit is None else str(budget.limit),
        "refill": budget.refill,
        "master": record.master,
        "rates": " ".join(f"{rate.name} {rate.limit} {rate.window_s}" for rate in record.rate_limits),
    }


def record_of(fields: Mapping[str, str]) -> KeyRecord:
    """The key that a hash describes."""
    limit, granted, resets_at = _number(fields["limit"]), int(fields["granted"]), _number(fields["resets_at"])
    expires_at, last_used = _number(fields["expires_at"]), _number(fields["last_used"])
    remaining = None if limit is None else max(0, limit - int(fields["used"])) + granted
    return KeyRecord.model_validate(
        {
            **json.loads(fields[RECORD_FIELD]),
            "state": fields["state"],
            "revision": int(fields["revision"]),
            "epoch": int(fields["epoch"]),
            "master": fields["master"],
            "expires_at": None if expires_at is None else instant(expires_at),
            "last_used_at": None if last_used is None else instant(last_used),
            "budget": {
                "limit": limit,
                "remaining": remaining,
                "granted": granted,
                "refill": fields["refill"],
                "resets_at": None if resets_at is None else instant(resets_at),
            },
            "rate_limits": _rates(fields["rates"]),
        }
    )


def _rates(text: str) -> tuple[RateLimit, ...]:
    words = text.split()
    return tuple(
        RateLimit(name=name, limit=int(limit), window_s=int(seconds))
        for name, limit, seconds in zip(words[::3], words[1::3], words[2::3], strict=True)
    )


def _entries(found: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - the store's answer
    return [(str(name), str(fields.get("entry", ""))) for name, fields in found]


def _digest(digest: str) -> str:
    return f"sdb:digest:{digest}"


def _change(name: str) -> str:
    return f"sdb:change:{name}"


def _mapping(flat: Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    return dict(flat) if isinstance(flat, Mapping) else dict(zip(flat[::2], flat[1::2], strict=True))


def _seconds(time: datetime | None) -> str:
    return "" if time is None else str(int(time.timestamp()))


def _number(text: str) -> int | None:
    return int(text) if text else None
