"""Keys as their users see them: issue, change, find, authenticate, admit a request.

Knows the rules; the store, the cryptography and the clock are passed in. Image keys are in keys/image_service.py,
tokens in keys/token_service.py, console sessions in keys/sessions.py, and how a change is made in keys/changes.py.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

from keys import store as layout
from keys.audit import AuditLog
from keys.budget_store import Ask
from keys.changes import Changes
from keys.errors import (
    ChangeRefused,
    InvalidCredential,
    MissingScope,
    QuotaExceeded,
    RateLimited,
    StoreUnavailable,
    UnknownKey,
)
from keys.image_service import ImageKeyService
from keys.material import Vault, check_api_key, new_api_key, random_base62, to_text
from keys.recall import Recall
from keys.records import (
    MAX_BUDGET,
    Act,
    Admission,
    Budget,
    BudgetGrant,
    Caller,
    IssuedKey,
    KeyGrant,
    KeyKind,
    KeyPatch,
    KeyRecord,
    KeyState,
    Origin,
    Proof,
    RateLimit,
    Standing,
    UsageBucket,
    instant,
)
from keys.rewrap import Tally, rewrap
from keys.sessions import SessionService
from keys.store import Change, KeyStore, Snapshot
from keys.token_service import TokenService
from keys.tokens import Claims, TokenMint

PREFIX = "sdb_"
MAX_PAGE, MOST_SEARCHED = 200, 10_000
NOBODY = Origin()


class KeyService:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, vault: Vault, mint: TokenMint, clock: Callable[[], float]) -> None:
        self._store, self._vault, self._mint, self._clock = store, vault, mint, clock
        self._changes, self._recall = Changes(store, vault), Recall()
        self.image_keys = ImageKeyService(store, vault, self._changes, clock)
        self.tokens = TokenService(store, self._changes, mint, clock)
        self.sessions = SessionService(store, vault, clock)
        self.audit = AuditLog(store, vault)

    # Changes: every one is in force, on every replica, with the next request.

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
        image_key, entry = self.image_keys.make(record.id, grant.image_key) if grant.image_key else (None, None)
        entries = {image_key.record.kid: entry} if image_key and entry else {}
        digest = self._vault.digests(api_key)[0]
        told = {"id": record.id, "api_key": api_key}
        if image_key is not None:
            told |= {"kid": image_key.record.kid, "secret": to_text(image_key.secret)}

        def plan(snapshot: Snapshot) -> Change:
            detail = record.model_dump(mode="json", exclude={"id", "state", "created_at", "last_used_at"})
            return Change(layout.insertion(record, digest, snapshot.number, entries), detail, told)

        told = dict(
            await self._changes.make("key.create", record.id, act, plan, {"grant": grant.model_dump(), "kind": kind})
        )
        image_key = await self.image_keys.told(told["id"], told["kid"], told["secret"]) if "kid" in told else None
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
            epoch=0,
            master=self._vault.newest,
        )

    async def update(self, key_id: str, patch: KeyPatch, act: Act) -> KeyRecord:
        """Change what a key may do.

        Raises:
            UnknownKey: no key has this id.
            ChangeRefused: the key is revoked; it is an admin's, which has no scopes, models, budget or rate limits; or
                limit and grants together are more than numbers hold.
        """
        given: dict[str, Any] = patch.given

        def plan(snapshot: Snapshot) -> Change:
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

        return await self._changed("key.update", key_id, act, plan, given)

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
            commands = layout.rotation(snapshot, new, self._vault.digests(api_key)[0], overlap_s)
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

    # Reading

    async def show(self, key_id: str) -> KeyRecord:
        """A key by its id; raises UnknownKey."""
        return await self._store.get(key_id)

    async def page(self, cursor: str | None, size: int, search: str = "") -> tuple[list[KeyRecord], str | None]:
        """Keys, newest first, and the cursor of the next page if there is one.

        `search` is part of the id, the name or a value of the metadata, in any case. Of very many keys that do not
        match a page may be short, or empty, and still have a next one.

        Raises:
            UnknownKey: the cursor is not valid.
        """
        found: list[KeyRecord] = []
        for _ in range(MOST_SEARCHED // MAX_PAGE):
            chunk = await self._store.page(cursor, size + 1 if not search else MAX_PAGE)
            for record in chunk:
                if search and not _matches(record, search.casefold()):
                    cursor = record.id
                    continue
                if len(found) == size:
                    return found, cursor
                found.append(record)
                cursor = record.id
            if len(chunk) < (size + 1 if not search else MAX_PAGE):
                return found, None
        return found, cursor

    async def usage(self, key_id: str, bucket: Literal["hour", "day"]) -> list[UsageBucket]:
        """What a key was answered, by hour (two weeks) or day (400 days), model and outcome; raises UnknownKey."""
        await self._store.get(key_id)
        return await self._store.budgets.usage(key_id, bucket)

    # Requests

    async def authenticate(self, credential: str, origin: Origin = NOBODY) -> Caller:
        """The caller that presents an API key or an access token, as the store knows it now.

        Raises:
            InvalidCredential: for every reason alike.
        """
        if credential.startswith(PREFIX):
            key, digest = await self._by_api_key(credential, origin)
            caller = Caller(key, Proof(digest), origin)
            self._recall.keep(credential, caller)
            return caller
        claims = self._mint.verify(credential)
        caller = await self._by_token(claims, origin)
        self._recall.keep(credential, caller, claims.expires_at)
        return caller

    async def recall(self, credential: str, origin: Origin) -> Caller:
        """The same without asking the store, if this process knows the caller: its rights are judged by `admit`."""
        return self._recall.find(credential, origin, self._clock()) or await self.authenticate(credential, origin)

    async def _by_api_key(self, api_key: str, origin: Origin) -> tuple[KeyRecord, str]:
        check_api_key(api_key)
        digests = self._vault.digests(api_key)
        key, digest = await self._store.find(digests)
        if digest != digests[0] and key.usable(self._clock()):
            await self._store.refile(key.id, digests, self._vault.newest)
            key, digest = await self._store.find(digests)
        if not key.usable(self._clock()):
            await self.refused(key.id, "", InvalidCredential.code, origin)
            raise InvalidCredential
        return key, digest

    async def _by_token(self, claims: Claims, origin: Origin) -> Caller:
        try:
            key = await self._store.get(claims.key_id)
        except UnknownKey:
            raise InvalidCredential from None
        if not await self.tokens.good(key, claims):
            await self.refused(key.id, "", InvalidCredential.code, origin)
            raise InvalidCredential
        return Caller(key, Proof("", claims.epoch, claims.jti, claims.scopes), origin)

    async def client(self, client_id: str, client_secret: str, origin: Origin = NOBODY) -> KeyRecord:
        """The key whose id and API key these are; raises InvalidCredential."""
        key, _ = await self._by_api_key(client_secret, origin)
        if key.id != client_id:
            raise InvalidCredential
        return key

    async def admit(self, caller: Caller, ask: Ask) -> Admission:
        """Judge a request by all that its key is now, and charge it; see BudgetStore.admit.

        Raises:
            MissingScope: the anonymous caller has no budget.
            KeyChanged: the caller's rights are out of date; judge those of `renewed` and ask again.
        """
        if caller.key is None:
            raise MissingScope("an anonymous caller has no budget")
        try:
            return await self._store.budgets.admit(caller.key, caller.proof, ask)
        except InvalidCredential:
            self._recall.forget(caller.key.id)
            await self.refused(caller.key.id, ask.model, InvalidCredential.code, caller.origin, ask.images)
            raise
        except (QuotaExceeded, RateLimited) as refusal:
            if refusal.first:
                await self._log_refusal(caller.key.id, ask.model, refusal.code, caller.origin)
            raise

    async def renewed(self, caller: Caller) -> Caller:
        """The caller with the rights that its key has now; that its credential is still good is for `admit` to say."""
        if caller.key is None:
            return caller
        self._recall.forget(caller.key.id)
        try:
            return replace(caller, key=await self._store.get(caller.key.id), recalled=True)
        except UnknownKey:
            raise InvalidCredential from None

    async def settle(self, admission: Admission) -> None:
        """Make a charge final; see BudgetStore.settle."""
        await self._store.budgets.settle(admission)

    async def release(self, admission: Admission) -> None:
        """Give a charge back."""
        await self._store.budgets.release(admission)

    async def pass_window(self, name: str, rate: RateLimit, images: int) -> Standing:
        """Let a caller without a key through a window of its own; raises RateLimited."""
        return await self._store.budgets.pass_window(name, rate, images)

    async def refused(self, key_id: str, model: str, code: str, origin: Origin, images: int = 0) -> None:
        """Count that something was refused to a key, and log it once a minute; a store that is away is no obstacle."""
        with contextlib.suppress(StoreUnavailable):
            if await self._store.budgets.refused(key_id, model, code, images):
                await self._log_refusal(key_id, model, code, origin)

    async def _log_refusal(self, key_id: str, model: str, code: str, origin: Origin) -> None:
        act = Act(key_id, origin.request_id, origin.address)
        with contextlib.suppress(StoreUnavailable):
            await self._changes.make("refusal", key_id, act, lambda _: Change([], {"code": code, "model": model}))

    # Looking after

    async def rewrap(self) -> tuple[Tally, list[str]]:
        """Seal every image secret under the newest master key; see keys/rewrap.py."""
        return await rewrap(self._store, self._vault)

    async def ready(self) -> None:
        """Return when the store answers."""
        await self._store.ping()

    async def has_admin(self) -> bool:
        """Whether an admin key was ever made."""
        return await self._store.has_admin()


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
        case dict():
            return value
        case _:
            return None if value is None else str(value)


def _matches(record: KeyRecord, wanted: str) -> bool:
    return any(wanted in text.casefold() for text in (record.id, record.name, *record.metadata.values()))
