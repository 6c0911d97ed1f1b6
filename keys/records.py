"""What a key is: what an admin grants, the record that the store keeps, the caller that a request becomes.

Knows no store and no secret.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from keys.image_keys import ImageKeyGrant, IssuedImageKey

Scope = Literal["predict", "distill", "decrypt", "unlock"]
KeyState = Literal["active", "disabled", "revoked"]
KeyKind = Literal["admin", "client"]
Refill = Literal["none", "daily", "monthly"]
Bucket = Literal["hour", "day"]
ANY_MODEL = "*"
MAX_BUDGET = 2**53 - 1  # what JSON and Lua numbers hold exactly
MAX_RATE_LIMITS = 10
BUDGET = "budget"
DEFAULT_MARK = 0.5  # strength of the mark on a key's answers (docs/tracing.md has what it costs and gives)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BudgetGrant(_Frozen):
    """How many privileged answers a key is given; `limit` null is unlimited.

    With `refill` the limit is given anew at midnight UTC, every day or on the first of the month.
    """

    limit: Annotated[int, Field(ge=0, le=MAX_BUDGET)] | None = None
    refill: Refill = "none"

    @model_validator(mode="after")
    def _something_to_refill(self) -> Self:
        if self.limit is None and self.refill != "none":
            raise ValueError("an unlimited budget has no refill")
        return self


class RateLimit(_Frozen):
    """In any `window_s` seconds at most `limit` images are answered, privileged or not."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")]
    limit: Annotated[int, Field(ge=1, le=MAX_BUDGET)]
    window_s: Annotated[int, Field(ge=1, le=31 * 24 * 3600)]


def _named_once(rate_limits: tuple[RateLimit, ...]) -> tuple[RateLimit, ...]:
    if len({rate.name for rate in rate_limits}) < len(rate_limits):
        raise ValueError("two rate limits have one name")
    if any(rate.name == BUDGET for rate in rate_limits):
        raise ValueError(f"{BUDGET!r} names the budget in the RateLimit headers")
    return rate_limits


def _whole_seconds(expires_at: datetime | None) -> datetime | None:
    try:
        return None if expires_at is None else instant(expires_at.timestamp())
    except (OverflowError, ValueError):
        raise ValueError("the year is out of range") from None


Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Scopes = frozenset[Scope]
ModelNames = Annotated[tuple[Annotated[str, Field(max_length=64)], ...], Field(min_length=1, max_length=100)]
Expiry = Annotated[AwareDatetime | None, AfterValidator(_whole_seconds)]
RateLimits = Annotated[tuple[RateLimit, ...], Field(max_length=MAX_RATE_LIMITS), AfterValidator(_named_once)]
Metadata = Annotated[dict[str, Annotated[str, Field(max_length=500)]], Field(max_length=50)]
MarkStrength = Annotated[
    float,
    Field(ge=0, le=1, allow_inf_nan=False, description="of the mark by which leaked soft labels are traced; 0: off"),
]


class KeyGrant(_Frozen):
    """What an admin gives a new key. `predict` comes with every key."""

    name: Name
    scopes: Scopes = frozenset({"predict"})
    models: ModelNames = (ANY_MODEL,)
    expires_at: Expiry = None
    budget: BudgetGrant = BudgetGrant()
    rate_limits: RateLimits = ()
    metadata: Metadata = {}
    mark: MarkStrength = DEFAULT_MARK
    image_key: ImageKeyGrant | None = None

    @model_validator(mode="after")
    def _images_may_be_decrypted(self) -> Self:
        if self.image_key is not None and "decrypt" not in self.scopes:
            raise ValueError("an image key needs the scope decrypt")
        return self


class KeyPatch(_Frozen):
    """What an admin changes of a key: what is left out stays, `expires_at` null is never."""

    name: Name = ""
    scopes: Scopes = frozenset()
    models: ModelNames = ()
    expires_at: Expiry = None
    budget: BudgetGrant = BudgetGrant()
    rate_limits: RateLimits = ()
    metadata: Metadata = {}
    mark: MarkStrength = DEFAULT_MARK

    @property
    def given(self) -> dict[str, Any]:
        """The fields that were named, and their values."""
        return {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}


class Budget(_Frozen):
    """What is left of a key's budget; unlimited is null. `remaining` includes the one-off grants that are left."""

    limit: int | None
    remaining: int | None
    granted: int = 0
    refill: Refill = "none"
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
    last_used_at: datetime | None = None
    budget: Budget
    rate_limits: tuple[RateLimit, ...] = ()
    metadata: dict[str, str]
    mark: float = DEFAULT_MARK
    epoch: Annotated[int, Field(exclude=True)]
    revision: Annotated[int, Field(exclude=True)] = 0
    """Counts the changes by admins: an answer to an older one is out of date."""
    master: Annotated[str, Field(exclude=True)]
    """The newest master key, by its public name, under which the API key is found."""

    def is_for(self, model: str) -> bool:
        """Whether the key may be used with this model."""
        return ANY_MODEL in self.models or model in self.models

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
class Origin:
    """Where a request comes from, for the audit log."""

    request_id: str | None = None
    address: str | None = None


@dataclass(frozen=True)
class Proof:
    """What a caller has shown: an API key (`digest`), or a token of an epoch with its id and scopes."""

    digest: str = ""
    epoch: int = 0
    token: str = ""
    scopes: frozenset[str] | None = None


@dataclass(frozen=True)
class Caller:
    """Who asks, as far as it is known: the rights of this request. The anonymous caller has no key.

    One that is `recalled` was not asked of the store: its rights may be out of date until it is admitted.
    """

    key: KeyRecord | None = None
    proof: Proof = Proof()
    origin: Origin = Origin()
    recalled: bool = False

    @property
    def scopes(self) -> frozenset[str]:
        """What the key may do, narrowed to the token that was shown."""
        if self.key is None:
            return frozenset({"predict"})
        owned = frozenset[str](self.key.scopes)
        return owned if self.proof.scopes is None else owned & self.proof.scopes

    def may(self, scope: Scope, model: str) -> bool:
        """Whether this request holds `scope` for `model`."""
        return scope in self.scopes and (self.key is None or self.key.is_for(model))


@dataclass(frozen=True)
class Standing:
    """How a rate limit stands after a request: `remaining` images may come, all anew after `reset_s` seconds."""

    rate: RateLimit
    remaining: int
    reset_s: float


@dataclass(frozen=True)
class Idempotency:
    """The name that a caller gave a request, and the fingerprint (hexadecimal) of what the request asks."""

    name: str
    fingerprint: str


@dataclass(frozen=True)
class Seal:
    """Tells a sealed image from every other, its image key and IV; and when it says it was sealed (s since 1970)."""

    kid: str
    iv: bytes
    issued_at: float | None

    @property
    def name(self) -> str:
        """Under which it is remembered that the image was opened."""
        return f"{self.kid}:{self.iv.hex()}"


@dataclass(frozen=True)
class Admission:
    """A request that may be answered, and how its key stands. What it charged is held until it is settled or released.

    One that is `replayed` was answered, and charged, before.
    """

    key_id: str
    hold: str
    images: int
    charge: int
    model: str
    budget: Budget
    standings: tuple[Standing, ...] = ()
    idempotency: Idempotency | None = None
    seals: tuple[Seal, ...] = ()
    replayed: bool = False


@dataclass(frozen=True)
class Act:
    """Who changes something, for the audit log; and the name under which a retry is the same change."""

    actor: str
    """The id of an admin's key, or `cli`."""
    request_id: str | None = None
    address: str | None = None
    idempotency_key: str | None = None


@dataclass(frozen=True)
class UsageBucket:
    """What a key was answered from `start` on for one bucket (hour or day, UTC), by model and outcome."""

    start: datetime
    model: str
    outcome: str
    images: int


@dataclass(frozen=True)
class LedgerLine:
    """A change of a key's budget: `kind` is charge, release, lapse, refill, top-up or limit.

    `count` is what it took (negative: gave back; of a top-up, gave), `used` of the limit and `granted` of the grants
    are what it left.
    """

    at: datetime
    kind: str
    count: int
    used: int
    granted: int


def instant(seconds: float) -> datetime:
    """Seconds since 1970 as a UTC time of whole seconds, as all times of the API are."""
    return datetime.fromtimestamp(int(seconds), UTC)
