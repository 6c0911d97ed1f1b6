"""The generations of the secret that marks are derived from: sealed as the store keeps them, and opened.

Knows cryptography; knows no store and no mark.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import BaseModel, ConfigDict, ValidationError

from keys.errors import ConfigurationError
from keys.material import Vault, derived, from_text, to_text
from keys.records import instant


class SealedGeneration(BaseModel):
    """A generation as it is stored; `created_at` in seconds since 1970."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    secret: str
    created_at: int


@dataclass(frozen=True)
class Generation:
    """One secret of the deployment: its number, 1 for the first, since when it is used, and 32 bytes."""

    number: int
    created_at: datetime
    secret: bytes = field(repr=False)

    def of(self, model: str) -> bytes:
        """The owner's secret (32 bytes) of all marks on this model's answers."""
        return derived(self.secret, f"tracing/{model}")


def sealed(vault: Vault, number: int, secret: bytes, now: float) -> str:
    """A generation made at `now` (s), as text."""
    boxed = to_text(vault.seal(secret, context(number)))
    return SealedGeneration(secret=boxed, created_at=int(now)).model_dump_json()


def opened(vault: Vault, number: int, text: str) -> Generation:
    """The generation that `sealed` gave as `text`.

    Raises:
        ConfigurationError: it is damaged, or sealed under a master key that is not given.
    """
    try:
        stored = SealedGeneration.model_validate_json(text)
    except ValidationError:
        raise ConfigurationError(f"the stored {context(number)} is damaged") from None
    return Generation(number, instant(stored.created_at), vault.unseal(from_text(stored.secret), context(number)))


def boxed_secret(text: str) -> str:
    """The sealed secret of a stored generation; empty if it is damaged."""
    try:
        return SealedGeneration.model_validate_json(text).secret
    except ValidationError:
        return ""


def numbered(fields: Mapping[str, str]) -> dict[int, str]:
    """The stored generations among the fields of a hash, oldest first."""
    return {int(name): fields[name] for name in sorted(filter(str.isdecimal, fields), key=int)}


def context(number: int) -> str:
    """What the seal of a generation's secret is bound to."""
    return f"tracing-secret/{number}"
