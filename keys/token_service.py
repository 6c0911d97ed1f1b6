"""Access tokens as clients see them: issued for a key (RFC 6749 §4.4), looked at (RFC 7662), ended (RFC 7009).

Knows whose token is whose and whether it is still good; signatures are in keys/tokens.py.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from keys.changes import Changes
from keys.errors import IdempotencyMismatch, InvalidCredential, InvalidGrant, UnknownKey
from keys.layout import burial
from keys.material import check_api_key
from keys.records import Act, KeyRecord
from keys.store import Change, KeyStore, Snapshot
from keys.tokens import Claims, TokenMint


@dataclass(frozen=True)
class IssuedToken:
    """An access token just made, its life in seconds and its scopes in alphabetical order."""

    token: str = field(repr=False)
    lifetime_s: int
    scopes: list[str]


class TokenService:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, changes: Changes, mint: TokenMint, clock: Callable[[], float]) -> None:
        self._store, self._changes, self._mint, self._clock = store, changes, mint, clock

    def issue(self, key: KeyRecord, scope: str | None) -> IssuedToken:
        """A token of a client key for `predict` and what `scope` lists, separated by spaces; None: for all it has.

        Raises:
            InvalidGrant: a scope was asked for that the key does not have, or the key is an admin's.
        """
        if key.kind != "client":
            raise InvalidGrant("unauthorized_client", "admin keys do not get tokens")
        wanted = frozenset(key.scopes) if scope is None else frozenset(scope.split())
        if not wanted or not wanted <= frozenset(key.scopes):
            raise InvalidGrant("invalid_scope", "the key does not have every scope asked for")
        given = wanted | {"predict"}  # which everybody has: without it the other scopes are of no use
        return IssuedToken(self._mint.issue(key.id, key.epoch, given), self._mint.lifetime_s, sorted(given))

    async def good(self, key: KeyRecord, claims: Claims) -> bool:
        """Whether a token still speaks for `key`, as it was read just now; the store is asked whatever the answer."""
        buried = await self._store.budgets.is_buried(key.id, claims.jti)
        return not buried and key.kind == "client" and key.usable(self._clock()) and key.epoch == claims.epoch

    async def introspect(self, asker: KeyRecord, token: str) -> Claims | None:
        """What a token may do now; None if it is not good, or neither the asker's own nor asked for by an admin.

        An API key is None, too: it is the client's secret, and no token that this server has issued under RFC 6749.
        """
        try:
            claims = self._mint.verify(token)
            key = await self._store.get(claims.key_id)
        except (InvalidCredential, UnknownKey):
            return None
        if not _concerns(claims, asker) or not await self.good(key, claims):
            return None
        return replace(claims, scopes=claims.scopes & frozenset(key.scopes))

    async def revoke(self, asker: KeyRecord, token: str, act: Act) -> None:
        """End a token for good, with the next request on every replica; one that is not valid is as good as ended.

        Of a token whose key is disabled or expired the end is kept all the same: the key may come back.

        Raises:
            InvalidGrant: the token is another client's, or it is an API key: who believed it ended would rely on it.
        """
        if _is_api_key(token):
            raise InvalidGrant("unsupported_token_type", "an API key is not a token; an admin revokes the key")
        try:
            claims = self._mint.verify(token)
        except InvalidCredential:
            return
        if not _concerns(claims, asker):
            raise InvalidGrant("invalid_grant", "the token was issued to another client")

        def plan(snapshot: Snapshot) -> Change:
            return Change(burial(snapshot.record.id, claims.jti), {"jti": claims.jti})

        # The token itself names the act: revoked again, it is not logged again. A mismatch is such a repetition, too,
        # after a master key was dropped.
        once = replace(act, idempotency_key=f"token.revoke/{claims.jti}")
        with contextlib.suppress(UnknownKey, IdempotencyMismatch):
            await self._changes.make("token.revoke", claims.key_id, once, plan)


def _concerns(claims: Claims, asker: KeyRecord) -> bool:
    return asker.kind == "admin" or asker.id == claims.key_id


def _is_api_key(text: str) -> bool:
    try:
        check_api_key(text)
    except InvalidCredential:
        return False
    return True
