"""Keys as requests meet them: authenticate who asks, admit what is asked, settle or release what was charged.

Knows the rules; the store, the cryptography and the clock are passed in. What becomes of a key is in keys/lifecycle.py,
finding keys in keys/directory.py, image keys are in keys/image_service.py, tokens in keys/token_service.py, console
sessions in keys/sessions.py, and what marks are made of in keys/tracing.py.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from keys.audit import AuditLog
from keys.budget_store import Ask
from keys.changes import Changes
from keys.directory import KeyDirectory
from keys.errors import InvalidCredential, MissingScope, QuotaExceeded, RateLimited, StoreUnavailable, UnknownKey
from keys.image_service import ImageKeyService
from keys.lifecycle import KeyLifecycle
from keys.material import Vault, check_checksum
from keys.recall import Recall
from keys.records import Act, Admission, Caller, KeyRecord, Origin, Proof, RateLimit, Standing
from keys.rewrap import Tally, rewrap, rewrap_tracing
from keys.sessions import SessionService
from keys.store import Change, KeyStore
from keys.token_service import TokenService
from keys.tokens import Claims, TokenMint
from keys.tracing import TracingService

log = logging.getLogger("sdb.store")
PREFIX = "sdb_"
NOBODY = Origin()


class KeyService:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, vault: Vault, mint: TokenMint, clock: Callable[[], float]) -> None:
        self._store, self._vault, self._mint, self._clock = store, vault, mint, clock
        self._changes, self._recall = Changes(store, vault), Recall()
        self.image_keys = ImageKeyService(store, vault, self._changes, clock)
        self.lifecycle = KeyLifecycle(store, vault, self._changes, self.image_keys, clock)
        self.directory = KeyDirectory(store)
        self.tokens = TokenService(store, self._changes, mint, clock)
        self.sessions = SessionService(store, vault, self._changes, clock)
        self.tracing = TracingService(store, vault, self._changes, clock)
        self.audit = AuditLog(store, vault)
        self._notes: set[asyncio.Task[None]] = set()
        self._first_key = ""  # of the store that this process knows

    async def authenticate(self, credential: str, origin: Origin = NOBODY) -> Caller:
        """The caller that presents an API key or an access token, as the store knows it now.

        Whatever is wrong with a credential that could be one of ours, the store is asked the same before it is refused.

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
        check_checksum(api_key)
        digests = self._vault.digests(api_key)
        key, digest = await self._store.find(digests)
        if digest != digests[0] and key.usable(self._clock()):
            await self._store.refile(key.id, digests, self._vault.newest)
            key, digest = await self._store.find(digests)
        if not key.usable(self._clock()):
            self._note_dead(key, origin)
            raise InvalidCredential
        return key, digest

    async def _by_token(self, claims: Claims, origin: Origin) -> Caller:
        try:
            key = await self._store.get(claims.key_id)
        except UnknownKey:
            raise InvalidCredential from None
        if not await self.tokens.good(key, claims):
            self._note_dead(key, origin)
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

    async def alarmed(self, name: str, act: Act, detail: Mapping[str, object]) -> None:
        """Log that a caller, the id of a key or a network of addresses, is suspected, and of what."""
        await self._changes.make("watch.alarm", name, act, lambda _: Change([], detail))

    async def _log_refusal(self, key_id: str, model: str, code: str, origin: Origin) -> None:
        act = Act(key_id, origin.request_id, origin.address)
        with contextlib.suppress(StoreUnavailable):
            await self._changes.make("refusal", key_id, act, lambda _: Change([], {"code": code, "model": model}))

    def _note_dead(self, key: KeyRecord, origin: Origin) -> None:
        """Count and log it beside the refusal: to wait for that would tell what was good once from what never was."""
        note = asyncio.get_running_loop().create_task(self.refused(key.id, "", InvalidCredential.code, origin))
        self._notes.add(note)
        note.add_done_callback(self._notes.discard)

    # Looking after

    async def close(self) -> None:
        """Write down what still is to be, and close the connections to the store."""
        await asyncio.gather(*self._notes)
        await self._store.close()

    async def rewrap(self) -> tuple[Tally, list[str]]:
        """Seal every image secret under the newest master key; see keys/rewrap.py."""
        return await rewrap(self._store, self._vault)

    async def rewrap_tracing(self) -> Tally:
        """Seal every tracing secret under the newest master key."""
        return await rewrap_tracing(self._store, self._vault)

    async def ready(self) -> None:
        """Return when the store answers, and is the one that it was; raises StoreUnavailable."""
        first_key = await self._store.first_key()
        if not first_key:
            log.error("the key store is empty: restore it, or restart this server to begin anew")
            raise StoreUnavailable("the key store is empty")
        self._first_key = self._first_key or first_key
        if first_key != self._first_key:
            log.error("the key store is another one than before: bring that back, or restart this server")
            raise StoreUnavailable("the key store is another one")

    async def reachable(self) -> None:
        """Return when the store answers, whatever is in it."""
        await self._store.ping()

    async def has_admin(self) -> bool:
        """Whether an admin key was ever made."""
        return await self._store.has_admin()
