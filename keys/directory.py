"""Keys as admins look them up: one, a page of all or of those that match, what a key was answered and charged.

Knows no rights: whoever asks may see it. The store is passed in.
"""

from keys.records import Bucket, KeyRecord, LedgerLine, UsageBucket
from keys.store import KeyStore

MAX_PAGE, MAX_LEDGER, MOST_SEARCHED = 200, 10_000, 10_000


class KeyDirectory:
    """One per process; safe for concurrent requests."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store

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
        at_once = MAX_PAGE if search else size + 1
        for _ in range(MOST_SEARCHED // MAX_PAGE):
            chunk = await self._store.page(cursor, at_once)
            for record in chunk:
                if _matches(record, search.casefold()):
                    if len(found) == size:
                        return found, cursor
                    found.append(record)
                cursor = record.id
            if len(chunk) < at_once:
                return found, None
        return found, cursor

    async def usage(self, key_id: str, bucket: Bucket) -> list[UsageBucket]:
        """What a key was answered, by hour (two weeks) or day (400 days), model and outcome; raises UnknownKey."""
        await self._store.get(key_id)
        return await self._store.budgets.usage(key_id, bucket)

    async def ledger(self, key_id: str, size: int) -> list[LedgerLine]:
        """The last `size` changes of a key's budget, oldest first; the last 10,000 are kept. Raises UnknownKey."""
        await self._store.get(key_id)
        return await self._store.budgets.ledger(key_id, size)


def _matches(record: KeyRecord, wanted: str) -> bool:
    return any(wanted in text.casefold() for text in (record.id, record.name, *record.metadata.values()))
