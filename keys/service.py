"""Keys as their users see them: issue, find, revoke, authenticate, exchange for a token, charge.

Knows the rules; the store, the cryptography and the clock are passed in. What image keys are for is in
keys/image_service.py.
"""

from collections.abc import Callable

from keys.errors import ImageKeyRefused, InvalidCredential, InvalidGrant, MissingScope, UnknownKey
from keys.image_service import ImageKeyService
from keys.material import Vault, check_api_key, new_api_key, random_base62
from keys.records import Budget, Caller, Hold, IssuedKey, KeyGrant, KeyKind, KeyRecord, instant
from keys.rewrap import Tally, rewrap
from keys.store import KeyStore
from keys.tokens import Claims, TokenMint

PREFIX = "sdb_"
MAX_PAGE = 200


class KeyService:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, vault: Vault, mint: TokenMint, clock: Callable[[], float]) -> None:
        self._store, self._vault, self._mint, self._clock = store, vault, mint, clock
        self.image_keys = ImageKeyService(store, vault, clock)

    async def create(self, grant: KeyGrant, kind: KeyKind = "client") -> IssuedKey:
        """Make a key, and its first image key if one is asked for; the secrets are returned here and never again.

        Raises:
            ImageKeyRefused: an image key for an admin.
        """
        return await self.register(grant, kind, new_api_key("adm" if kind == "admin" else "cli"))

    async def register(self, grant: KeyGrant, kind: KeyKind, api_key: str) -> IssuedKey:
        """Make a key for an API key that exists already."""
        if kind == "admin" and grant.image_key is not None:
            raise ImageKeyRefused("an admin key has no image keys")
        limit = grant.budget.limit
        record = KeyRecord(
            id=f"key_{random_base62(20)}",
            kind=kind,
            name=grant.name,
            scopes=() if kind == "admin" else tuple(sorted(grant.scopes | {"predict"})),
            models=grant.models,
            state="active",
            created_at=instant(self._clock()),
            expires_at=grant.expires_at,
            budget=Budget(limit=limit, remaining=limit, refill=grant.budget.refill),
            metadata=grant.metadata,
            epoch=0,
            master=self._vault.newest,
        )
        image_key, entries = None, {}
        if grant.image_key is not None:
            image_key, entry = self.image_keys.make(record.id, grant.image_key)
            entries = {image_key.record.kid: entry}
        await self._store.insert(record, self._vault.digests(api_key)[0], entries)
        return IssuedKey(record, api_key, image_key)

    async def show(self, key_id: str) -> KeyRecord:
        """A key by its id; raises UnknownKey."""
        return await self._store.get(key_id)

    async def page(self, cursor: str | None, size: int) -> tuple[list[KeyRecord], str | None]:
        """Keys, newest first, and the cursor of the next page if there is one; raises UnknownKey for a bad cursor."""
        found = await self._store.page(cursor, size + 1)
        return found[:size], found[size - 1].id if len(found) > size else None

    async def revoke(self, key_id: str) -> KeyRecord:
        """Revoke a key at once and for good; raises UnknownKey."""
        await self._store.revoke(key_id)
        return await self._store.get(key_id)

    async def authenticate(self, credential: str) -> Caller:
        """The caller that presents an API key or an access token.

        Raises:
            InvalidCredential: for every reason alike.
        """
        if credential.startswith(PREFIX):
            key = await self._by_api_key(credential)
            return Caller(key, frozenset(key.scopes))
        claims = self._mint.verify(credential)
        try:
            key = await self._store.get(claims.key_id)
        except UnknownKey:
            raise InvalidCredential from None
        if not key.usable(self._clock()) or key.epoch != claims.epoch or key.kind != "client":
            raise InvalidCredential
        return Caller(key, claims.scopes & frozenset(key.scopes))

    async def _by_api_key(self, api_key: str) -> KeyRecord:
        check_api_key(api_key)
        digests = self._vault.digests(api_key)
        key = await self._store.find(digests)
        if not key.usable(self._clock()):
            raise InvalidCredential
        if key.master != self._vault.newest:
            await self._store.refile(key, digests, self._vault.newest)
        return key

    async def token(self, client_id: str, client_secret: str, scope: str | None) -> tuple[str, int, list[str]]:
        """A token for a client key (RFC 6749 §4.4), its life in seconds and its scopes.

        Raises:
            InvalidCredential: id and API key are not a pair, or the key is no longer good.
            InvalidGrant: a scope was asked for that the key does not have, or the key is an admin's.
        """
        key = await self._by_api_key(client_secret)
        if key.id != client_id:
            raise InvalidCredential
        if key.kind != "client":
            raise InvalidGrant("unauthorized_client", "admin keys do not get tokens")
        wanted = frozenset(key.scopes) if scope is None else frozenset(scope.split())
        if not wanted or not wanted <= frozenset(key.scopes):
            raise InvalidGrant("invalid_scope", "the key does not have every scope asked for")
        return self._mint.issue(Claims(key.id, key.epoch, wanted)), self._mint.lifetime_s, sorted(wanted)

    async def charge(self, caller: Caller, count: int) -> Hold:
        """Hold `count` answers of the caller's budget; see KeyStore.charge."""
        if caller.key is None:
            raise MissingScope("an anonymous caller has no budget")
        return await self._store.charge(caller.key, count)

    async def settle(self, hold: Hold) -> None:
        """Make a charge final; see KeyStore.settle."""
        await self._store.settle(hold)

    async def release(self, hold: Hold) -> None:
        """Give a charge back."""
        await self._store.release(hold)

    async def rewrap(self) -> tuple[Tally, list[str]]:
        """Seal every image secret under the newest master key; see keys/rewrap.py."""
        return await rewrap(self._store, self._vault)

    async def ready(self) -> None:
        """Return when the store answers."""
        await self._store.ping()

    async def has_admin(self) -> bool:
        """Whether an admin key was ever made."""
        return await self._store.has_admin()
