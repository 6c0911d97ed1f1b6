"""Keys as their users see them: issue, find, revoke, authenticate, exchange for a token, charge.

Knows the rules; the store, the cryptography and the clock are passed in.
"""

from collections.abc import Callable

from keys.errors import InvalidCredential, InvalidGrant, MissingScope, UnknownKey
from keys.material import Vault, check_api_key, new_api_key, random_base62
from keys.records import Budget, Caller, Hold, KeyGrant, KeyKind, KeyRecord, instant
from keys.store import KeyStore
from keys.tokens import Claims, TokenMint

PREFIX = "sdb_"
MAX_PAGE = 200


class KeyService:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, vault: Vault, mint: TokenMint, clock: Callable[[], float]) -> None:
        self._store, self._vault, self._mint, self._clock = store, vault, mint, clock

    async def create(self, grant: KeyGrant, kind: KeyKind = "client") -> tuple[KeyRecord, str]:
        """Make a key; the API key is returned here and never again."""
        api_key = new_api_key("adm" if kind == "admin" else "cli")
        return await self.register(grant, kind, api_key), api_key

    async def register(self, grant: KeyGrant, kind: KeyKind, api_key: str) -> KeyRecord:
        """Make a key for an API key that exists already."""
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
        )
        await self._store.insert(record, self._vault.digests(api_key)[0])
        return record

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
        key = await self._store.find(self._vault.digests(api_key))
        if not key.usable(self._clock()):
            raise InvalidCredential
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

    async def ready(self) -> None:
        """Return when the store answers."""
        await self._store.ping()

    async def has_admin(self) -> bool:
        """Whether an admin key was ever made."""
        return await self._store.has_admin()
