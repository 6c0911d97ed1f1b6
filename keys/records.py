"""What a key is: the record that the store keeps, the caller that a request becomes, the budget and a hold on it.

Knows no store and no secret.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from keys.image_keys import ImageKeyGrant, IssuedImageKey

Scope = Literal["predict", "distill", "decrypt", "unlock"]
KeyState = Literal["active", "disabled", "revoked"]
KeyKind = Literal["admin", "client"]
ANY_MODEL = "*"
MAX_BUDGET = 2**53 - 1  # what JSON and Lua numbers hold exactly


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BudgetGrant(_Frozen):
    """How many privileged answers a key is given; `limit` null is unlimited."""

    limit: Annotated[int, Field(ge=0, le=MAX_BUDGET)] | None = None
    refill: Literal["none"] = "none"


class KeyGrant(_Frozen):
    """What an admin gives a new key. `predict` comes with every key."""

    name: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
    scopes: frozenset[Scope] = frozenset({"predict"})
    models: Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(min_length=1, max_length=100)] = (
        ANY_MODEL,
    )
    expires_at: AwareDatetime | None = None
    budget: BudgetGrant = BudgetGrant()
    metadata: Annotated[dict[str, Annotated[str, Field(max_length=500)]], Field(max_length=50)] = {}
    image_key: ImageKeyGrant | None = None

    @field_validator("expires_at")
    @classmethod
    def _whole_seconds(cls, expires_at: datetime | None) -> datetime | None:
        try:
            return None if expires_at is None else instant(expires_at.timestamp())
        except (OverflowError, ValueError):
            raise ValueError("the year is out of range") from None

    @model_validator(mode="after")
    def _images_may_be_decrypted(self) -> Self:
        if self.image_key is not None and "decrypt" not in self.scopes:
            raise ValueError("an image key needs the scope decrypt")
        return self


class Budget(_Frozen):
    """What is left of a key's budget; null is unlimited."""

    limit: int | None
    remaining: int | None
    refill: Literal["none"] = "none"
    resets_at: datetime | None = None


class KeyRecord(_Frozen):
    """A key as its holder and admins may see it: everything but secrets."""

    id: str
    kind: KeyKind
    name: str
    scopes: tuple[Scope, ...]
    models: tuple[str, ...]
    state: KeyState
    created_at: datetime
    expires_at: datetime | None
    budget: Budget
    metadata: dict[str, str]
    epoch: Annotated[int, Field(exclude=True)]
    master: Annotated[str, Field(exclude=True)]
    """The newest master key, by its public name, under which the API key is found."""

    def usable(self, now: float) -> bool:
        """Active and not expired at `now` (seconds since 1970)."""
        return self.state == "active" and (self.expires_at is None or now < self.expires_at.timestamp())


@dataclass(frozen=True)
class IssuedKey:
    """A key just made, with the secrets that are shown this once."""

    record: KeyRecord
    api_key: str = field(repr=False)
    image_key: IssuedImageKey | None


@dataclass(frozen=True)
class Caller:
    """Who asks, as far as it is known: the rights of this request. The anonymous caller has no key."""

    key: KeyRecord | None = None
    scopes: frozenset[str] = frozenset({"predict"})

    def may(self, scope: Scope, model: str) -> bool:
        """Whether this request holds `scope` for `model`."""
        if self.key is None:
            return scope == "predict"
        return scope in self.scopes and (ANY_MODEL in self.key.models or model in self.key.models)


@dataclass(frozen=True)
class Hold:
    """Answers charged but not yet given: settled when they leave, released when they do not."""

    key_id: str
    member: str
    count: int
    budget: Budget


def instant(seconds: float) -> datetime:
    """Seconds since 1970 as a UTC time of whole seconds, as all times of the API are."""
    return datetime.fromtimestamp(int(seconds), UTC)
