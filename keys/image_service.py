"""Image keys as their users see them: issue, list, retire, open for a request.

Knows the rules; the store, the cryptography and the clock are passed in. Knows no image and no COSE.
"""

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence

from keys.changes import Changes
from keys.errors import ChangeRefused, ConfigurationError, UndecryptableImage, UnknownKey
from keys.image_keys import ImageKey, ImageKeyGrant, ImageScheme, IssuedImageKey, OpenedImageKey
from keys.image_store import Entry, unknown_image_key
from keys.layout import Command, hash_of, image_keys
from keys.material import SECRET_BYTES, Vault, from_text, random_base62, to_text
from keys.records import Act, Caller
from keys.store import Change, KeyStore, Snapshot

MOST_IN_USE, MOST_RETIRED = 20, 100

log = logging.getLogger("sdb.keys")


class ImageKeyService:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore, vault: Vault, changes: Changes, clock: Callable[[], float]) -> None:
        self._keys, self._store = store, store.image_keys
        self._vault, self._changes, self._clock = vault, changes, clock

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

    async def issue(self, key_id: str, grant: ImageKeyGrant, overlap_s: int, act: Act) -> IssuedImageKey:
        """Give a key one more image key; the active ones of its scheme open images for `overlap_s` seconds more.

        Raises:
            UnknownKey: no key has this id.
            ChangeRefused: the key lacks the scope `decrypt`, is revoked, or has too many image keys.
        """
        issued, entry = self.make(key_id, grant)
        kid = issued.record.kid

        def plan(snapshot: Snapshot) -> Change:
            if "decrypt" not in snapshot.record.scopes:
                raise ChangeRefused("an image key needs a key with the scope decrypt")
            if snapshot.record.state == "revoked":
                raise ChangeRefused("a revoked key gets no image key")
            entries = _ended(snapshot, grant.scheme, overlap_s)
            in_use = [entry for entry in entries.values() if entry.state(snapshot.now) != "retired"]
            if len(in_use) >= MOST_IN_USE:
                raise ChangeRefused(f"the key has {MOST_IN_USE} image keys in use; retire one first")
            last = max((entry.number for entry in entries.values()), default=0)
            commands = _written(key_id, snapshot, entries | {kid: entry.model_copy(update={"number": last + 1})})
            detail = {"kid": kid, **grant.model_dump(exclude_none=True), "overlap_s": overlap_s}
            return Change(commands, detail, {"kid": kid, "secret": to_text(issued.secret)})

        asked = {"key": key_id, "grant": grant.model_dump(), "overlap_s": overlap_s}
        told = await self._changes.make("image-key.issue", key_id, act, plan, asked)
        return await self.told(key_id, told["kid"], told["secret"])

    async def told(self, key_id: str, kid: str, secret: str) -> IssuedImageKey:
        """An image key with the secret that its admin is told."""
        entry, now = await self._store.entry(key_id, kid)
        return IssuedImageKey(entry.record(kid, now), from_text(secret))

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

    async def retire(self, key_id: str, kid: str, overlap_s: int, act: Act) -> ImageKey:
        """Let an image key end in `overlap_s` seconds, or when it would anyway; raises UnknownKey."""

        def plan(snapshot: Snapshot) -> Change:
            if kid not in snapshot.image_keys:
                raise unknown_image_key(kid)
            ended = snapshot.image_keys[kid].ended(snapshot.now + 1000 * overlap_s, snapshot.now)
            commands = _written(key_id, snapshot, {**snapshot.image_keys, kid: ended})
            return Change(commands, {"kid": kid, "overlap_s": overlap_s})

        asked = {"key": key_id, "kid": kid, "overlap_s": overlap_s}
        await self._changes.make("image-key.retire", key_id, act, plan, asked)
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


def _ended(snapshot: Snapshot, scheme: ImageScheme, overlap_s: int) -> dict[str, Entry]:
    """The image keys, of which the active ones of `scheme` end; of the retired ones the last are kept."""
    now, kept, retired = snapshot.now, {}, 0
    for kid, entry in snapshot.image_keys.items():  # newest first
        active = entry.scheme == scheme and entry.state(now) == "active"
        ended = entry.ended(now + 1000 * overlap_s if active else entry.ends_at, now)
        retired += ended.state(now) == "retired"
        if retired <= MOST_RETIRED or ended.state(now) != "retired":
            kept[kid] = ended
    return kept


def _written(key_id: str, snapshot: Snapshot, entries: Mapping[str, Entry]) -> list[Command]:
    """What turns the image keys of `snapshot` into `entries`; changes that were planned before are too late."""
    name, before = image_keys(key_id), snapshot.image_keys
    changed = [["HSET", name, kid, entry.text()] for kid, entry in entries.items() if before.get(kid) != entry]
    gone = [["HDEL", name, kid] for kid in before.keys() - entries.keys()]
    return [*changed, *gone, ["HINCRBY", hash_of(key_id), "revision", "1"]]


def context(key_id: str, kid: str, scheme: ImageScheme) -> str:
    """What the seal of an image key's secret is bound to: its owner, itself and its purpose."""
    return f"image-key/{key_id}/{kid}/{scheme}"


def _id(caller: Caller) -> str:
    if caller.key is None:
        raise UndecryptableImage
    return caller.key.id
