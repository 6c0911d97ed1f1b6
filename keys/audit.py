"""The audit log: entries that each contain the hash of the one before, sealed by the master key.

A changed, missing or added entry breaks the chain of hashes. Who can write the store could compute the chain anew, but
not the seals, for which the master key is needed. A log that was cut at its end, head and all, is found only by who
has kept a later head elsewhere: `verify` says the head, the server logs it with every entry.
"""

import hashlib
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from keys.material import Vault
from keys.records import Act
from keys.store import FIRST_ENTRY, KeyStore

PAGE, MOST_SEARCHED = 500, 20_000
PURPOSE, DAMAGED = "audit", "damaged"
DAMAGE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
log = logging.getLogger("sdb.audit")


@dataclass(frozen=True)
class AuditEntry:
    """Who did what to which key, when and from where; `detail` says what was before and after, and holds no secret."""

    seq: int
    at: datetime
    action: str
    actor: str
    target: str
    request_id: str | None
    address: str | None
    detail: dict[str, object]
    previous: str
    hash: str = ""
    master: str = ""
    seal: str = ""


@dataclass(frozen=True)
class Written:
    """An entry as the store keeps it, and the head of the log after it."""

    entry: str
    head: str
    hash: str


@dataclass(frozen=True)
class Verdict:
    """Whether the log is whole: how many entries, the last hash, and where the chain breaks if it does.

    `unsealed` entries have a good hash and a seal of a master key that is no longer given.
    """

    entries: int
    head: str
    intact: bool
    problem: str | None = None
    unsealed: int = 0


def write(vault: Vault, head: str, *, now: float, action: str, target: str, act: Act, detail: object) -> Written:
    """The entry that follows `head` at `now` (ms)."""
    last = _head(head)
    body: dict[str, Any] = {
        "seq": last["seq"] + 1,
        "at": datetime.fromtimestamp(now / 1000, UTC).isoformat(timespec="milliseconds"),
        "action": action,
        "actor": act.actor,
        "target": target,
        "request_id": act.request_id,
        "address": act.address,
        "detail": detail,
        "previous": last["hash"],
    }
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    digest = _hash(text)
    master, seal = vault.sign(PURPOSE, digest)
    entry = json.dumps({"body": text, "hash": digest, "master": master, "seal": seal}, ensure_ascii=False)
    return Written(entry, _head_after(body["seq"], digest), digest)


def _head(text: str) -> dict[str, Any]:
    head: dict[str, Any] = json.loads(text) if text else {"seq": 0, "hash": ""}
    return head


def _head_after(seq: int, digest: str) -> str:
    return json.dumps({"seq": seq, "hash": digest}) if seq else ""


def _hash(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()


def _entry(text: str) -> AuditEntry:
    stored = json.loads(text)
    body = json.loads(stored.pop("body"))
    body["at"] = datetime.fromisoformat(body["at"])
    return AuditEntry(**body, **stored)


def _shown(name: str, text: str) -> AuditEntry:
    """An entry to be read; of one that somebody has damaged, that it is, and when the store got it."""
    try:
        return _entry(text)
    except DAMAGE:
        at = datetime.fromtimestamp(int(name.partition("-")[0]) / 1000, UTC)
        return AuditEntry(0, at, DAMAGED, "", "", None, None, {}, "")


@dataclass
class _Check:
    """Follows the chain from its first entry."""

    vault: Vault
    entries: int = 0
    hash: str = ""
    unsealed: int = 0

    def problem(self, text: str) -> str | None:
        """What is wrong with the next entry, None if nothing is."""
        try:
            return self._judged(text, self.entries + 1)
        except DAMAGE:
            return f"entry {self.entries + 1} is damaged"

    def _judged(self, text: str, number: int) -> str | None:
        body, entry = json.loads(text)["body"], _entry(text)
        if entry.hash != _hash(body):
            return f"entry {number} was changed"
        if entry.seq != number or entry.previous != self.hash:
            return f"an entry before number {number} was changed, removed or added"
        signed = self.vault.signed(PURPOSE, entry.hash, entry.master, entry.seal)
        if signed is False:
            return f"entry {number} was not written by this deployment"
        self.unsealed += signed is None
        self.entries, self.hash = number, entry.hash
        return None


class AuditLog:
    """Reads and verifies; entries are written together with what they tell of (keys/changes.py)."""

    def __init__(self, store: KeyStore, vault: Vault) -> None:
        self._store, self._vault = store, vault

    async def page(
        self, cursor: str | None, size: int, target: str | None = None
    ) -> tuple[list[AuditEntry], str | None]:
        """Entries, newest first, of one key if `target` is given; and the cursor of the next page if there is one.

        Raises:
            UnknownKey: the cursor is not one.
        """
        found: list[AuditEntry] = []
        searched, at_once = 0, min(PAGE, size + 1) if target is None else PAGE
        while searched < MOST_SEARCHED:
            chunk = await self._store.entries(at_once, before=cursor)
            for name, text in chunk:
                entry = _shown(name, text)
                if target is None or entry.target == target:
                    if len(found) == size:
                        return found, cursor
                    found.append(entry)
                cursor = name
            if len(chunk) < at_once:
                return found, None
            searched += len(chunk)
        return found, cursor

    async def verify(self) -> Verdict:
        """Follow the chain from the first entry to the head."""
        check, after = _Check(self._vault), FIRST_ENTRY
        while True:
            chunk, head = await self._store.entries_after(after, PAGE)
            for _, text in chunk:
                problem = check.problem(text)
                if problem:
                    return Verdict(check.entries, check.hash, False, problem, check.unsealed)
            if len(chunk) < PAGE:
                break
            after = chunk[-1][0]
        if head != _head_after(check.entries, check.hash):
            problem = "entries at the end of the log are missing"
            return Verdict(check.entries, check.hash, False, problem, check.unsealed)
        return Verdict(check.entries, check.hash, True, None, check.unsealed)
