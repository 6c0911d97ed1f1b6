"""What keys are charged, in Redis (or Valkey): admit a request, settle or release its charge, count what was answered.

Knows the layout (keys/layout.py); knows no credential and no rights. `KeyStore` holds one.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from keys.connection import available
from keys.errors import (
    IdempotencyInProgress,
    IdempotencyMismatch,
    InvalidCredential,
    KeyChanged,
    KeyServiceError,
    QuotaExceeded,
    RateLimited,
    StoreUnavailable,
    UndecryptableImage,
)
from keys.layout import buried, hash_of
from keys.pipelines import Argument
from keys.records import (
    Admission,
    Bucket,
    Budget,
    Idempotency,
    KeyRecord,
    LedgerLine,
    Proof,
    RateLimit,
    Seal,
    Standing,
    UsageBucket,
    instant,
)
from keys.scripting import Scripts

HOURS_SHOWN, DAYS_SHOWN = 14 * 24, 400


@dataclass(frozen=True)
class Ask:
    """What a request would cost: `images` count in the rate limits, `charge` of them against the budget.

    Each of `seals` is opened by it, which happens once.
    """

    images: int
    charge: int
    model: str
    idempotency: Idempotency | None = None
    seals: tuple[Seal, ...] = ()


class BudgetStore:
    """Every method raises StoreUnavailable when the store does not answer."""

    def __init__(self, client: Redis, scripts: Scripts) -> None:
        self._redis, self._scripts = client, scripts

    async def admit(self, key: KeyRecord, proof: Proof, ask: Ask) -> Admission:
        """Judge a request by all that the key is now, and charge it, in one step and one round trip.

        Raises:
            InvalidCredential: the key was revoked, disabled or rotated, or is expired; or the token was revoked.
            KeyChanged: `key` is out of date.
            RateLimited, QuotaExceeded: it does not fit; nothing is charged.
            IdempotencyMismatch, IdempotencyInProgress: its name came before.
            UndecryptableImage: one of its sealed images came before, or says that it was sealed at quite another time.
        """
        hold = secrets.token_hex(12)
        who = f"{key.revision} {proof.digest} {proof.epoch} {proof.token}"
        arguments: list[Argument] = [f"{who} {ask.images} {ask.charge} {hold} {ask.model}"]
        if ask.idempotency or ask.seals:
            arguments += [_record(key.id, ask.idempotency), ask.idempotency.fingerprint if ask.idempotency else ""]
            arguments += [part for seal in ask.seals for part in (seal.name, _time(seal))]
        verdict, *rest = await self._scripts.run("admit", [hash_of(key.id)], arguments)
        if verdict not in {"held", "replayed"}:
            raise _refusal(verdict, rest, key, ask)
        return Admission(
            key_id=key.id,
            hold=hold,
            images=ask.images,
            charge=ask.charge if verdict == "held" else 0,
            model=ask.model,
            budget=_budget(key, rest),
            standings=_standings(key.rate_limits, rest[3:]),
            idempotency=ask.idempotency,
            seals=ask.seals,
            replayed=verdict == "replayed",
        )

    async def settle(self, admission: Admission) -> None:
        """Make the charge final; afterwards the answer may leave.

        Raises:
            StoreUnavailable: the store is away, has given the charge back, or too few replicas have heard of it; then
                the answer must not leave.
        """
        if admission.replayed:
            await self._scripts.heard(hash_of(admission.key_id))
        elif admission.charge and not await self._scripts.run_durably("settle", *_call(admission)):
            raise StoreUnavailable("the charge was given back before the answer could leave")

    async def release(self, admission: Admission) -> None:
        """Give the charge back; its sealed images may come again."""
        if admission.charge:
            keys, arguments = _call(admission)
            await self._scripts.run("release", keys, [*arguments, *(seal.name for seal in admission.seals)])

    async def pass_window(self, name: str, rate: RateLimit, images: int) -> Standing:
        """Let a caller without a key through a window of its own.

        Raises:
            RateLimited: it is full.
        """
        arguments = [rate.limit, 1000 * rate.window_s, images]
        remaining, retry_ms, reset_ms = await self._scripts.run("pass", [f"sdb:window:{name}"], arguments)
        if int(retry_ms):
            raise RateLimited(rate.name, _wait(retry_ms))
        return Standing(rate, int(remaining), int(reset_ms) / 1000)

    async def is_buried(self, key_id: str, token: str) -> bool:
        """Whether a token was revoked."""
        async with available():
            return bool(await self._redis.exists(buried(key_id, token)))

    async def refused(self, key_id: str, model: str, code: str, images: int) -> bool:
        """Count a refusal that no script has counted; whether it is the first of its kind for a minute."""
        return bool(await self._scripts.run("refuse", [hash_of(key_id)], [model, code, images]))

    async def usage(self, key_id: str, bucket: Bucket) -> list[UsageBucket]:
        """What a key was answered: the hours of the last two weeks or the days of the last 400, oldest first."""
        async with available():
            seconds, _ = await self._redis.time()
            today, shown = seconds // 86400, DAYS_SHOWN if bucket == "day" else HOURS_SHOWN // 24
            async with self._redis.pipeline(transaction=False) as pipeline:
                for day in range(today - shown + 1, today + 1):
                    pipeline.hgetall(f"{hash_of(key_id)}:usage:{day}")
                days: list[dict[str, str]] = await pipeline.execute()
        counted: dict[tuple[int, str, str], int] = {}
        for field, images in (item for fields in days for item in fields.items()):
            hour, outcome, model = field.split(":", 2)
            start = 3600 * int(hour) if bucket == "hour" else 86400 * (int(hour) // 24)
            counted[start, model, outcome] = counted.get((start, model, outcome), 0) + int(images)
        return [
            UsageBucket(datetime.fromtimestamp(start, UTC), model, outcome, images)
            for (start, model, outcome), images in sorted(counted.items())
        ]

    async def ledger(self, key_id: str, size: int) -> list[LedgerLine]:
        """The last `size` changes of a key's budget, oldest first."""
        async with available():
            lines: Any = await self._redis.lrange(f"{hash_of(key_id)}:ledger", -size, -1)
        return [_line(str(line)) for line in lines]


PLAIN_REFUSALS: dict[str, Callable[[], KeyServiceError]] = {
    "invalid": InvalidCredential,
    "changed": KeyChanged,
    "seen": UndecryptableImage,
    "mismatch": IdempotencyMismatch,
    "running": IdempotencyInProgress,
}


def _refusal(verdict: str, rest: Sequence[Any], key: KeyRecord, ask: Ask) -> KeyServiceError:
    if verdict == "exceeded":
        budget = _budget(key, rest)
        limit, remaining = budget.limit or 0, budget.remaining or 0
        return QuotaExceeded(limit, remaining, ask.charge, budget.resets_at, first=bool(rest[3]))
    if verdict == "limited":
        return RateLimited(str(rest[0]), _wait(rest[1]), first=bool(rest[2]))
    return PLAIN_REFUSALS[verdict]()


def _time(seal: Seal) -> Argument:
    return "" if seal.issued_at is None else seal.issued_at


def _wait(milliseconds: str) -> float | None:
    return None if int(milliseconds) < 0 else int(milliseconds) / 1000


def _budget(key: KeyRecord, fields: Sequence[str]) -> Budget:
    """The budget after a verdict, which is given on the very revision of the key that `key` is."""
    remaining, granted, resets_at = fields[:3]
    return Budget.model_construct(
        limit=key.budget.limit,
        remaining=int(remaining) if remaining else None,
        granted=int(granted),
        refill=key.budget.refill,
        resets_at=instant(float(resets_at)) if resets_at else None,
    )


def _standings(rates: Sequence[RateLimit], flat: Sequence[str]) -> tuple[Standing, ...]:
    """What is told of each rate limit; nothing is of a request without images, or of a repeated call."""
    if not flat:
        return ()
    pairs = zip(rates, flat[::2], flat[1::2], strict=True)
    return tuple(Standing(rate, int(left), int(reset_ms) / 1000) for rate, left, reset_ms in pairs)


def _line(text: str) -> LedgerLine:
    time, kind, *numbers = text.split()
    return LedgerLine(datetime.fromtimestamp(int(time) / 1000, UTC), kind, *map(int, numbers))


def _record(key_id: str, idempotency: Idempotency | None) -> str:
    return "" if idempotency is None else f"{hash_of(key_id)}:request:{idempotency.name}"


def _call(admission: Admission) -> tuple[list[str], list[Argument]]:
    name = _record(admission.key_id, admission.idempotency)
    return [hash_of(admission.key_id)], [admission.hold, admission.charge, admission.model, name]
