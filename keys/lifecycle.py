"""The life of a key: made, changed, rotated, topped up, disabled and enabled, revoked.

Knows what may become of a key; the store, the cryptography and the clock are passed in. How a change is made once and
logged is in keys/changes.py, image keys are in keys/image_service.py. Every change is in force, on every replica, with
the next request.
"""

from collections.abc import Callable
from typing import Any

from keys import layout
from keys.changes import Changes
from keys.errors import ChangeRefused, RevisionMismatch
from keys.image_service import ImageKeyService
from keys.material import Vault, new_api_key, random_base62, to_text
from keys.records import (
    MAX_BUDGET,
    Act,
    Budget,
    BudgetGrant,
    IssuedKey,
    KeyGrant,
    KeyKind,
    KeyPatch,
    KeyRecord,
    KeyState,
    RateLimit,
    instant,
)
from keys.store import Change, KeyStore, Snapshot


class KeyLifecycle:
    """One per process; safe for concurrent requests."""

    def __init__(
        self,
        store: KeyStore,
        vault: Vault,
        changes: Changes,
        image_keys: ImageKeyService,
        clock: Callable[[], float],
    ) -> None:
        self._store, self._vault, self._changes, self._clock = store, vault, changes, clock
        self._image_keys = image_keys

    async def create(self, grant: KeyGrant, act: Act, kind: KeyKind = "client") -> IssuedKey:
        """Make a key, and its first image key if one is asked for; the secrets are returned here and never again.

        Raises:
            ChangeRefused: an image key for an admin.
            IdempotencyMismatch: the act's idempotency key came with another request.
        """
        return await self.register(grant, act, kind, new_api_key("adm" if kind == "admin" else "cli"))

    async def register(self, grant: KeyGrant, act: Act, kind: KeyKind, api_key: str) -> IssuedKey:
        """Make a key for an API key that exists already."""
        if kind == "admin" and grant.image_key is not None:
            raise ChangeRefused("an admin key has no image keys")
        record = self._new_record(grant, kind)
        digest = self._vault.digests(api_key)[0]
        entries, secrets = dict[str, str](), {"id": record.id, "api_key": api_key}
        if grant.image_key is not None:
            made, entry = self._image_keys.make(record.id, grant.image_key)
            entries[made.record.kid] = entry.text()
            secrets |= {"kid": made.record.kid, "secret": to_text(made.secret)}

        def plan(snapshot: Snapshot) -> Change:
            detail = record.model_dump(mode="json", exclude={"id", "state", "created_at", "last_used_at"})
            return Change(layout.insertion(record, digest, snapshot.number, entries), detail, secrets)

        asked = {"grant": grant.model_dump(), "kind": kind}
        told = await self._changes.make("key.create", record.id, act, plan, asked)
        image_key = await self._image_keys.told(told["id"], told["kid"], told["secret"]) if "kid" in told else None
        return IssuedKey(await self._store.get(told["id"]), told["api_key"], image_key)

    def _new_record(self, grant: KeyGrant, kind: KeyKind) -> KeyRecord:
        return KeyRecord(
            id=f"key_{random_base62(20)}",
            kind=kind,
            name=grant.name,
            scopes=() if kind == "admin" else tuple(sorted(grant.scopes | {"predict"})),
            models=grant.models,
            state="active",
            created_at=instant(self._clock()),
            expires_at=grant.expires_at,
            budget=_budget(grant.budget),
            rate_limits=grant.rate_limits,
            metadata=grant.metadata,
            mark=grant.mark,
            epoch=0,
            master=self._vault.newest,
        )

    async def update(self, key_id: str, patch: KeyPatch, act: Act, expected: int | None = None) -> KeyRecord:
        """Change what a key may do; if a revision is expected, only if the key still is of that one.

        Raises:
            UnknownKey: no key has this id.
            RevisionMismatch: the key was changed since that revision.
            ChangeRefused: the key is revoked; it is an admin's, which has none of scopes, models, budget, rate limits
                and mark; or limit and grants together are more than numbers hold.
        """
        given: dict[str, Any] = patch.given

        def plan(snapshot: Snapshot) -> Change:
            if expected not in {None, snapshot.record.revision}:
                raise RevisionMismatch
            old = _changeable(snapshot)
            if old.kind == "admin" and given.keys() - {"name", "expires_at", "metadata"}:
                raise ChangeRefused("an admin key has a name, an expiry and metadata, and nothing else to change")
            changed = dict(given)
            if "scopes" in changed:
                changed["scopes"] = tuple(sorted(changed["scopes"] | {"predict"}))
            if "budget" in changed:
                changed["budget"] = _budget(changed["budget"])
                _check_countable(changed["budget"].limit, old.budget.granted)
            new = old.model_copy(update={**changed, "revision": old.revision + 1})
            detail = {name: [_shown(getattr(old, name)), _shown(getattr(new, name))] for name in changed}
            limited = ("limit", 0) if "budget" in changed else None
            return Change(layout.replacement(old, new), detail, ledger=limited)

        return await self._changed("key.update", key_id, act, plan, given | {"revision": expected})

    async def rotate(self, key_id: str, overlap_s: int, act: Act) -> IssuedKey:
        """Give a key another API key; the old one works for `overlap_s` seconds more, its tokens end at once.

        Raises:
            UnknownKey: no key has this id.
            ChangeRefused: the key is revoked.
        """

        def plan(snapshot: Snapshot) -> Change:
            old = _changeable(snapshot)
            api_key = new_api_key("adm" if old.kind == "admin" else "cli")
            new = old.model_copy(
                update={"revision": old.revision + 1, "epoch": old.epoch + 1, "master": self._vault.newest}
            )
            commands = layout.rotation(snapshot.fields, new, self._vault.digests(api_key)[0], snapshot.now, overlap_s)
            return Change(commands, {"overlap_s": overlap_s}, {"api_key": api_key})

        asked = {"key": key_id, "overlap_s": overlap_s}
        told = await self._changes.make("key.rotate", key_id, act, plan, asked)
        return IssuedKey(await self._store.get(key_id), told["api_key"], None)

    async def revoke(self, key_id: str, act: Act) -> KeyRecord:
        """End a key for good, and every token made from it; raises UnknownKey."""
        return await self._changed("key.revoke", key_id, act, _to_state("revoked"))

    async def disable(self, key_id: str, act: Act) -> KeyRecord:
        """End a key until it is enabled, and every token made from it for good.

        Raises:
            UnknownKey: no key has this id.
            ChangeRefused: the key is revoked.
        """
        return await self._changed("key.disable", key_id, act, _to_state("disabled"))

    async def enable(self, key_id: str, act: Act) -> KeyRecord:
        """Let a disabled key be used again; raises as `disable` does."""
        return await self._changed("key.enable", key_id, act, _to_state("active"))

    async def top_up(self, key_id: str, answers: int, act: Act) -> KeyRecord:
        """Grant so many answers once, beside the limit; no refill touches them.

        Raises:
            UnknownKey: no key has this id.
            ChangeRefused: the key is revoked, its budget is unlimited, or would be more than numbers hold.
        """

        def plan(snapshot: Snapshot) -> Change:
            budget = _changeable(snapshot).budget
            if budget.limit is None:
                raise ChangeRefused("the budget is unlimited")
            _check_countable(budget.limit, budget.granted + answers)
            return Change(layout.top_up(key_id, answers), {"answers": answers}, ledger=("top-up", answers))

        return await self._changed("key.top-up", key_id, act, plan, {"answers": answers})

    async def _changed(
        self,
        action: str,
        key_id: str,
        act: Act,
        plan: Callable[[Snapshot], Change],
        asked: dict[str, Any] | None = None,
    ) -> KeyRecord:
        await self._changes.make(action, key_id, act, plan, {"key": key_id, "asked": asked})
        return await self._store.get(key_id)


def _budget(grant: BudgetGrant) -> Budget:
    return Budget(limit=grant.limit, remaining=grant.limit, refill=grant.refill)


def _check_countable(limit: int | None, granted: int) -> None:
    if limit is not None and limit + granted > MAX_BUDGET:
        raise ChangeRefused(f"limit and grants together cannot be more than {MAX_BUDGET}")


def _changeable(snapshot: Snapshot) -> KeyRecord:
    """The key of a plan; raises UnknownKey, and ChangeRefused for a revoked one."""
    record = snapshot.record
    if record.state == "revoked":
        raise ChangeRefused("the key is revoked, for good")
    return record


def _to_state(state: KeyState) -> Callable[[Snapshot], Change]:
    def plan(snapshot: Snapshot) -> Change:
        old = snapshot.record if state == "revoked" else _changeable(snapshot)
        if old.state == state:
            return Change([], {"state": [state, state]})
        new = old.model_copy(
            update={"state": state, "revision": old.revision + 1, "epoch": old.epoch + (state != "active")}
        )
        return Change(layout.replacement(old, new), {"state": [old.state, state]})

    return plan


def _shown(value: object) -> object:
    match value:
        case Budget():
            return value.model_dump(mode="json", include={"limit", "refill"})
        case tuple():
            return [part.model_dump() if isinstance(part, RateLimit) else part for part in value]
        case dict() | float():
            return value
        case _:
            return None if value is None else str(value)
