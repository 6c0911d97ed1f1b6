"""Changes of keys by admins: planned on what was read, made only if that still holds, logged in the same step.

Knows how a change is made once; what may be changed into what is said in keys/lifecycle.py and keys/image_service.py.
"""

import asyncio
import hashlib
import json
import logging
import random
import secrets
from collections.abc import Callable, Mapping

from keys import audit
from keys.errors import ConfigurationError, IdempotencyMismatch, StoreUnavailable
from keys.material import Vault, from_text, to_text
from keys.records import Act
from keys.store import Change, KeyStore, Logged, Snapshot

ATTEMPTS, PAUSE_S = 100, 0.02
REPEATABLE_FOR_S, RETRIED_FOR_S = 24 * 3600, 600
Plan = Callable[[Snapshot], Change]

log = logging.getLogger("sdb.audit")


class Changes:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, vault: Vault) -> None:
        self._store, self._vault = store, vault

    async def make(
        self, action: str, key_id: str, act: Act, plan: Plan, asked: Mapping[str, object] = {}
    ) -> Mapping[str, str]:
        """Make a change to the key `key_id` and say what the admin is told; a retry of the same act is told the same.

        Of what is told, the store keeps a copy for a day, sealed, if the act has an idempotency key. `asked` is what
        else the admin has asked: the same idempotency key with something else is refused.

        Raises:
            IdempotencyMismatch: so it was.
            StoreUnavailable: the store does not answer, or too few replicas have heard of the change; then it may be
                in force, and a retry with the same idempotency key is safe.
        """
        name, fingerprint, life_s = _identity(act, [action, asked])
        for _ in range(ATTEMPTS):
            snapshot = await self._store.snapshot(key_id, name)
            if snapshot.done is not None:
                await self._store.heard(key_id)
                return self._told(snapshot.done, name, fingerprint)
            change = plan(snapshot)
            written = audit.write(
                self._vault,
                snapshot.head,
                now=snapshot.now,
                action=action,
                target=key_id,
                act=act,
                detail=change.detail,
            )
            result = f"{fingerprint} {self._sealed(change.told, name)}"
            logged = Logged(written.entry, written.head, name, result, life_s)
            done = await self._store.commit(key_id, snapshot, change, logged)
            if done is not None:
                log.info("%s %s by %s, head %s", action, key_id, act.actor, written.hash)
                return self._told(done, name, fingerprint)
            await asyncio.sleep(random.uniform(0, PAUSE_S))  # noqa: S311 - admins who act at once take turns
        raise StoreUnavailable("too many changes at once")

    def _sealed(self, told: Mapping[str, str], name: str) -> str:
        return to_text(self._vault.seal(json.dumps(dict(told)).encode(), f"change/{name}"))

    def _told(self, done: str, name: str, fingerprint: str) -> Mapping[str, str]:
        before, _, sealed = done.partition(" ")
        if before != fingerprint:
            raise IdempotencyMismatch
        try:
            told: dict[str, str] = json.loads(self._vault.unseal(from_text(sealed), f"change/{name}"))
        except ConfigurationError:
            raise IdempotencyMismatch from None  # told under a master key that is gone: nobody can be told again
        return told


def _identity(act: Act, asked: object) -> tuple[str, str, int]:
    """The name of a change, the fingerprint of what is asked, and how long a retry is recognised (s)."""
    fingerprint = hashlib.sha256(json.dumps(asked, sort_keys=True, default=_plain).encode()).hexdigest()
    if act.idempotency_key is None:
        return secrets.token_hex(16), fingerprint, RETRIED_FOR_S
    name = hashlib.sha256(json.dumps([act.actor, act.idempotency_key]).encode()).hexdigest()
    return name, fingerprint, REPEATABLE_FOR_S


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else str(value)
