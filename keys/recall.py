"""Callers whom this process has seen lately, so that a request is judged by the store once, when it is admitted.

Knows credentials only as digests. What it holds may be out of date: whoever is recalled must still be admitted.
"""

import hashlib
from collections import OrderedDict
from dataclasses import replace

from keys.records import Caller, Origin

KEPT = 4096


class Recall:
    """The last callers, by a digest of what they presented."""

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, tuple[Caller, float | None]] = OrderedDict()

    def keep(self, credential: str, caller: Caller, until: float | None = None) -> None:
        """Recall `caller` when the credential comes again before `until` (seconds since 1970; None: whenever)."""
        digest = _digest(credential)
        self._seen[digest] = replace(caller, origin=Origin(), recalled=True), until
        self._seen.move_to_end(digest)
        if len(self._seen) > KEPT:
            self._seen.popitem(last=False)

    def find(self, credential: str, origin: Origin, now: float) -> Caller | None:
        """The caller who presented it, if that is known."""
        digest = _digest(credential)
        caller, until = self._seen.get(digest, (None, None))
        if caller is None or (until is not None and now >= until):
            return None
        self._seen.move_to_end(digest)
        return replace(caller, origin=origin)

    def forget(self, key_id: str) -> None:
        """Recall nobody who presented something of this key: it has changed."""
        for digest in [digest for digest, (caller, _) in self._seen.items() if caller.key and caller.key.id == key_id]:
            del self._seen[digest]


def _digest(credential: str) -> bytes:
    return hashlib.sha256(credential.encode()).digest()
