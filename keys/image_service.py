"""Image keys as their users see them: issue, list, retire, open for a request, and open each sealed image once.

Knows the rules; the store, the cryptography and the clock are passed in. Knows no image and no COSE.
"""

import logging
import secrets
from collections.abc import Callable, Sequence

from keys.errors import ConfigurationError, ImageKeyRefused, UndecryptableImage, UnknownKey
from keys.image_keys import ImageKey, ImageKeyGrant, ImageScheme, IssuedImageKey, OpenedImageKey
from keys.image_store import Entry
from keys.material import SECRET_BYTES, Vault, from_text, random_base62, to_text
from keys.records import Caller
from keys.store import KeyStore

log = logging.getLogger("sdb.keys")


class ImageKeyService:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, vault: Vault, clock: Callable[[], float]) -> None:
        self._keys, self._store, self._vault, self._clock = store, store.image_keys, vault, clock

    def make(self, key_id: str, grant: ImageKeyGrant) -> tuple[IssuedImageKey, Entry]:
        """A new image key for the key `key_id`, and how the store keeps it; nothing is stored yet."""
        kid, secret = f"img_{random_base62(22)}", secrets.token_bytes(SECRET_BYTES)
        entry = Entry(
            scheme=grant.scheme,
            transform=grant.transform,
            block=grant.block,
            created_at=int(self._clock()),
            secret=to_text(self._vault.seal(secret, context(key_id, kid, grant.scheme))),
        )
        return IssuedImageKey(entry.record(kid, 0), secret), entry

    async def issue(self, key_id: str, grant: ImageKeyGrant, overlap_s: int) -> IssuedImageKey:
        """Give a key one more image key; the active ones of its scheme open images for `overlap_s` seconds more.

        Raises:
            UnknownKey: no key has this id.
            ImageKeyRefused: the key lacks the scope `decrypt`, is revoked, or has too many image keys.
        """
        if "decrypt" not in (await self._keys.get(key_id)).scopes:
            raise ImageKeyRefused("an image key needs a key with the scope decrypt")
        issued, entry = self.make(key_id, grant)
        await self._store.issue(key_id, issued.record.kid, entry, overlap_s)
        return issued

    async def of(self, key_id: str) -> list[ImageKey]:
        """All image keys of a key, newest first, the retired ones too; raises UnknownKey."""
        await self._keys.get(key_id)
        (entries,), now = await self._store.entries([key_id])
        return [entry.record(kid, now) for kid, entry in entries.items()]

    async def newest(self, key_ids: Sequence[str]) -> list[ImageKey | None]:
        """Of each of these keys the newest active image key."""
        owned, now = await self._store.entries(key_ids)
        active = ([e.record(kid, now) for kid, e in entries.items() if e.state(now) == "active"] for entries in owned)
        return [next(iter(found), None) for found in active]

    async def retire(self, key_id: str, kid: str, overlap_s: int) -> ImageKey:
        """Let an image key end in `overlap_s` seconds, or when it would anyway; raises UnknownKey."""
        await self._store.retire(key_id, kid, overlap_s)
        entry, now = await self._store.entry(key_id, kid)
        return entry.record(kid, now)

    async def open(self, caller: Caller, kid: str, scheme: ImageScheme) -> OpenedImageKey:
        """The caller's image key `kid`, which must be of this scheme.

        Raises:
            UndecryptableImage: there is none, it is somebody else's, retired or of another scheme, or does not open.
        """
        try:
            entry, now = await self._store.entry(_id(caller), kid)
        except UnknownKey:
            raise UndecryptableImage from None
        if entry.scheme != scheme or entry.state(now) == "retired" or entry.secret is None:
            raise UndecryptableImage
        secret = self._unsealed(entry.secret, context(_id(caller), kid, scheme))
        return OpenedImageKey(kid, scheme, entry.transform, entry.block, secret)

    def _unsealed(self, sealed: str, bound_to: str) -> bytes:
        try:
            return self._vault.unseal(from_text(sealed), bound_to)
        except ConfigurationError as error:
            log.error("%s", error)  # the operator's to mend; the caller learns nothing of it
            raise UndecryptableImage from None

    async def once(self, caller: Caller, kid: str, iv: bytes, issued_at: float | None) -> None:
        """Take note that a sealed image is opened, for as long as it could come again.

        One that says when it was sealed must be fresh by the store's clock, and is remembered until it no longer is;
        one that does not is remembered for a day. See FRESH_S and UNTIMED_LIFE_S.

        Raises:
            UndecryptableImage: it is stale, or was opened before.
        """
        if not await self._store.remember(_id(caller), kid, iv, issued_at):
            raise UndecryptableImage

    async def forget(self, caller: Caller, kid: str, iv: bytes) -> None:
        """Take the note back: the request failed, and the same bytes may come again."""
        await self._store.forget(_id(caller), kid, iv)


def context(key_id: str, kid: str, scheme: ImageScheme) -> str:
    """What the seal of an image key's secret is bound to: its owner, itself and its purpose."""
    return f"image-key/{key_id}/{kid}/{scheme}"


def _id(caller: Caller) -> str:
    if caller.key is None:
        raise UndecryptableImage
    return caller.key.id
