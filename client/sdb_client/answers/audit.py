"""What the server says of its audit log. Plain data; knows no request."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class AuditEntry:
    """Who did what to which key, when and from where; `hash` covers it and `previous`, the hash of the entry before."""

    seq: int
    at: datetime
    action: str
    actor: str
    target: str
    detail: dict[str, Any]
    previous: str
    hash: str
    request_id: str | None = None
    address: str | None = None
    master: str = ""
    seal: str = ""


@dataclass(frozen=True)
class AuditPage:
    """A page of the audit log."""

    entries: tuple[AuditEntry, ...]
    next: str | None


@dataclass(frozen=True)
class Verdict:
    """Whether the log is whole: how many entries, the last hash, and what is wrong with it if something is."""

    entries: int
    head: str
    intact: bool
    problem: str | None = None
    unsealed: int = 0
