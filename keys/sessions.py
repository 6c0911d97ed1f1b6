"""Sessions of people who work in the console: started with an API key, over when idle, old, or when the key is.

Knows the rules, and writes every start and what was refused one into the audit log; the store, the cryptography and the
clock are passed in. Knows no cookie and no page.
"""

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from keys.addresses import network_of
from keys.changes import Changes
from keys.errors import UnknownKey
from keys.material import Vault, to_text
from keys.records import Act, KeyRecord, Origin
from keys.session_store import Kept
from keys.store import Change, KeyStore

ID_BYTES = 32
SESSION_ID = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
CONSOLE = "console"  # what a refused login was for, and who is said to have asked: there is no key
IDLE_S, LONGEST_S = 30 * 60.0, 12 * 3600.0


@dataclass(frozen=True)
class Session:
    """Whose session it is, as the key stands now, and the secret that every form of the session repeats."""

    key: KeyRecord
    csrf: str = field(repr=False)


class SessionService:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, vault: Vault, changes: Changes, clock: Callable[[], float]) -> None:
        self._keys, self._store = store, store.sessions
        self._vault, self._changes, self._clock = vault, changes, clock

    async def start(self, key: KeyRecord, origin: Origin) -> str:
        """A new session of `key`: its id, which only the browser keeps; the store has an HMAC of it."""
        await self._log("session.start", key.id, key.id, origin)
        session_id = to_text(secrets.token_bytes(ID_BYTES))
        csrf = to_text(secrets.token_bytes(ID_BYTES))
        kept = Kept(key_id=key.id, epoch=key.epoch, csrf=csrf, started_at=int(self._clock()))
        await self._store.insert(self._digests(session_id)[0], kept, IDLE_S)
        return session_id

    async def refused(self, origin: Origin) -> None:
        """Write down that a login was refused, once a minute for each network."""
        if await self._keys.budgets.refused(CONSOLE, "", f"login {network_of(origin.address)}", 0):
            await self._log("session.refuse", CONSOLE, CONSOLE, origin)

    async def _log(self, action: str, target: str, actor: str, origin: Origin) -> None:
        act = Act(actor, origin.request_id, origin.address)
        await self._changes.make(action, target, act, lambda _: Change([]))

    async def find(self, session_id: str) -> Session | None:
        """The session of this id; None if it never was or is over.

        It is over when nobody asked for it for half an hour, after twelve hours, and as soon as its key is revoked,
        disabled, rotated or expired: the key is read anew every time.
        """
        if not SESSION_ID.fullmatch(session_id):
            return None
        digests = self._digests(session_id)
        kept = await self._store.find(digests, IDLE_S)
        if kept is None:
            return None
        key = await self._key_of(kept)
        if key is None:
            await self._store.delete(digests)
            return None
        return Session(key, kept.csrf)

    async def end(self, session_id: str) -> None:
        """End a session, if there is one of this id."""
        await self._store.delete(self._digests(session_id))

    async def _key_of(self, kept: Kept) -> KeyRecord | None:
        """The key of a session, None if either is no longer good."""
        try:
            key = await self._keys.get(kept.key_id)
        except UnknownKey:
            return None
        now = self._clock()
        young = now < kept.started_at + LONGEST_S
        return key if young and key.usable(now) and key.epoch == kept.epoch else None

    def _digests(self, session_id: str) -> list[str]:
        # No API key begins like this, so that the digest of a session is never the digest of an API key.
        return self._vault.digests(f"session/{session_id}")
