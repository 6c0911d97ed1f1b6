"""What a client does for a flow. A flow decides and does nothing; the blocking and the awaiting client do and decide
nothing, so that every rule is written once.

A flow is a generator that yields steps and is sent what came of each, or has its error thrown into it.
"""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send a request and read the whole answer: an httpx.Response comes of it."""

    request: httpx.Request


@dataclass(frozen=True)
class Pause:
    """Wait so many seconds."""

    seconds: float


@dataclass(frozen=True)
class Alone:
    """Go through a flow while no other of this client does: its result comes of it."""

    flow: "Flow[Any]"


Step: TypeAlias = Send | Pause | Alone
Flow: TypeAlias = Generator[Step, Any, T]
