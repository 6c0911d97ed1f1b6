"""How keys lie in Redis (or Valkey): what everything is called, a key as the fields of its hash, and what changes them.

Knows no connection. Per key, all in one hash slot:

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
from collections.abc import Mapping
from datetime import datetime

from keys.records import KeyRecord, RateLimit, instant

LAYOUT = "3"
TRACING = "tracing"  # in the place of a key's id
AUDIT, HEAD = "sdb:audit", "sdb:audit:head"
RECORD = {"id", "kind", "name", "scopes", "models", "created_at", "metadata", "mark"}
RECORD_FIELD = "record"
BURIED_LIFE_S = 25 * 3600  # longer than a token may live
Command = list[str]


def hash_of(key_id: str) -> str:
    """The name of a key's hash, with which all that it owns begins."""
    return f"sdb:{{{key_id}}}"


def image_keys(key_id: str) -> str:
    """The name of the hash that holds a key's image keys."""
    return f"{hash_of(key_id)}:image-keys"


def buried(key_id: str, token: str) -> str:
    """The name that is there when a token was revoked."""
    return f"{hash_of(key_id)}:buried:{token}"


def digest_name(digest: str) -> str:
    """The name under which the id of the key lies whose API key has this digest."""
    return f"sdb:digest:{digest}"


def change_name(change: str) -> str:
    """The name under which lies what a change gave."""
    return f"sdb:change:{change}"


def insertion(record: KeyRecord, digest: str, number: int, entries: Mapping[str, str]) -> list[Command]:
    """Add a new key that is found under `digest`, and its first image keys as they are stored, by `kid`."""
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
        ["SET", digest_name(digest), record.id],
        ["ZADD", "sdb:keys", str(number), record.id],
        ["SET", "sdb:layout", LAYOUT],
    ]
    commands += [["HSET", image_keys(record.id), kid, entry] for kid, entry in entries.items()]
    return commands + ([["SADD", "sdb:admins", record.id]] if record.kind == "admin" else [])


def replacement(old: KeyRecord, new: KeyRecord) -> list[Command]:
    """Put `new` in the place of `old`; windows that it does not have, or of another length, begin anew."""
    lengths = {rate.name: rate.window_s for rate in new.rate_limits}
    gone = [f"rate:{rate.name}" for rate in old.rate_limits if lengths.get(rate.name) != rate.window_s]
    commands = [_set_fields(new.id, _changed(old, new))]
    return commands + ([["HDEL", hash_of(new.id), *gone]] if gone else [])


def rotation(old: Mapping[str, str], new: KeyRecord, digest: str, now: float, overlap_s: int) -> list[Command]:
    """Let a key, whose fields are `old`, be found under `digest`, and `overlap_s` on from `now` (ms) as before too."""
    name, end = hash_of(new.id), now + 1000 * overlap_s
    commands = [
        _set_fields(new.id, _changed(record_of(old), new) | {f"digest:{digest}": ""}),
        ["SET", digest_name(digest), new.id],
    ]
    for field, until in old.items():
        if field.startswith("digest:"):
            ends = min(end, float(until or end))
            if ends <= now:
                commands += [["HDEL", name, field], ["DEL", f"sdb:{field}"]]
            else:
                commands.append(["HSET", name, field, str(int(ends))])
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


def _seconds(time: datetime | None) -> str:
    return "" if time is None else str(int(time.timestamp()))


def _number(text: str) -> int | None:
    return int(text) if text else None
