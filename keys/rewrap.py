"""After a rotation of the master key: every sealed secret of the store is sealed again under the newest one.

Knows the store and the vault; the secrets of models are files of the state folder, and not its business.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from keys.errors import ConfigurationError
from keys.generations import boxed_secret, numbered
from keys.generations import context as tracing_context
from keys.image_service import context
from keys.image_store import Entry, ImageKeyStore
from keys.layout import TRACING
from keys.material import Vault, from_text, to_text
from keys.records import KeyRecord
from keys.store import KeyStore

PAGE = 100


@dataclass
class Tally:
    """What became of some sealed secrets: how many were sealed again, how many needed not, and which do not open."""

    resealed: int = 0
    current: int = 0
    unreadable: list[str] = field(default_factory=list)

    def reseal(self, vault: Vault, sealed: bytes, context: str) -> bytes | None:
        """The same secret under the newest master key, to be put in its place; None if there is nothing to put."""
        try:
            new = vault.reseal(sealed, context)
        except ConfigurationError:
            self.unreadable.append(context)
            return None
        self.current += new is None
        return new


async def rewrap(store: KeyStore, vault: Vault) -> tuple[Tally, list[str]]:
    """Seal again what an older master key of the ring has sealed; also the ids of the keys that wait.

    A run that was stopped is simply begun anew. Each secret is compared and set in the store, so that one that is
    retired meanwhile stays retired. A key waits if it is not revoked and was not presented since the rotation: an API
    key is known by its HMAC alone, so it is filed under the newest master key only when its holder presents it.

    An old master key may be dropped from the ring when

    * every server and every `sdb` runs with the new one first (else it goes on sealing under the old one), and
    * a run after that found nothing unreadable, and
    * no key waits that is still needed: its API key is lost with the old master key.
    """
    tally, waiting = Tally(), []
    async for page in _pages(store):
        waiting += [key.id for key in page if key.state != "revoked" and key.master != vault.newest]
        async for key_id, kid, entry in _in_use(store.image_keys, [key.id for key in page]):
            new = tally.reseal(vault, _bytes(entry.secret or ""), context(key_id, kid, entry.scheme))
            if new is not None:  # False: retired meanwhile, or sealed again by somebody else
                tally.resealed += await store.image_keys.reseal(key_id, kid, entry.secret or "", to_text(new))
    return tally, waiting


async def rewrap_tracing(store: KeyStore, vault: Vault) -> Tally:
    """The same for every tracing secret; one that does not open marks nothing any more, and traces nothing."""
    tally = Tally()
    for number, text in numbered((await store.snapshot(TRACING, "")).fields).items():
        old = boxed_secret(text)
        new = tally.reseal(vault, _bytes(old), tracing_context(number))
        if new is not None:
            tally.resealed += await store.reseal_tracing(number, old, to_text(new))
    return tally


async def _in_use(store: ImageKeyStore, key_ids: list[str]) -> AsyncIterator[tuple[str, str, Entry]]:
    owned, now = await store.entries(key_ids)
    for key_id, entries in zip(key_ids, owned, strict=True):
        for kid, entry in entries.items():
            if entry.state(now) != "retired":
                yield key_id, kid, entry


def _bytes(text: str) -> bytes:
    try:
        return from_text(text)
    except ConfigurationError:
        return b""  # opens as little as any other damage


async def _pages(store: KeyStore) -> AsyncIterator[list[KeyRecord]]:
    page = await store.page(None, PAGE)
    while page:
        yield page
        page = await store.page(page[-1].id, PAGE)
