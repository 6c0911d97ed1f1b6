"""What can go wrong between a caller and a right: each error has a stable code, none knows HTTP.

KeyServiceError
├── InvalidCredential   the credential is unknown, expired, disabled, revoked, malformed or forged
├── MissingScope        the credential is good and the right was not granted
├── QuotaExceeded       the budget is spent
├── RateLimited         a window is full
├── UnknownKey          an admin names a key, or an image key, that does not exist
├── RevisionMismatch    an admin changes a key as it was, and it is not so any more
├── ChangeRefused       an admin asks for a change that this key cannot have
├── IdempotencyMismatch, IdempotencyInProgress   the Idempotency-Key came before, with another request or just now
├── UndecryptableImage  no image key of the caller opens the image, or it came before
├── InvalidGrant        a token request that OAuth 2.0 does not allow
└── StoreUnavailable    the store does not answer
KeyChanged (internal)   what was known of a key is out of date
ConfigurationError      the operator gave a secret or a folder that cannot be used
"""

from datetime import datetime


class KeyServiceError(Exception):
    """Base of everything a request can be refused for by this package."""

    code = "key-service-error"


class InvalidCredential(KeyServiceError):
    """One text for every reason, so that a stranger learns nothing from it."""

    code = "invalid-credential"

    def __init__(self) -> None:
        super().__init__("the presented credential is not valid")


class MissingScope(KeyServiceError):
    """A valid key asks for more than it was given."""

    code = "missing-scope"


class QuotaExceeded(KeyServiceError):
    """The budget does not cover the request; nothing was charged. `first`: of its kind for a minute."""

    code = "quota-exceeded"

    def __init__(
        self, limit: int, remaining: int, wanted: int, resets_at: datetime | None = None, *, first: bool = False
    ) -> None:
        super().__init__(f"{wanted} answers asked for, {remaining} left")
        self.limit, self.remaining, self.resets_at, self.first = limit, remaining, resets_at, first


class RateLimited(KeyServiceError):
    """A window is full; nothing was charged. After `retry_after_s` seconds (None: never) the request would fit."""

    code = "rate-limited"

    def __init__(self, name: str, retry_after_s: float | None, *, first: bool = False) -> None:
        wait = "is larger than it" if retry_after_s is None else f"fits in {retry_after_s:.1f} s"
        super().__init__(f"the rate limit {name!r} is reached; the request {wait}")
        self.name, self.retry_after_s, self.first = name, retry_after_s, first


class KeyChanged(KeyServiceError):
    """What was known of the key is out of date; never a caller's refusal: it is read and judged anew."""

    code = "store-unavailable"


class IdempotencyMismatch(KeyServiceError):
    """The Idempotency-Key came with another request before."""

    code = "idempotency-mismatch"

    def __init__(self) -> None:
        super().__init__("this Idempotency-Key was used for another request")


class IdempotencyInProgress(KeyServiceError):
    """The first request with this Idempotency-Key has not been answered yet."""

    code = "idempotency-in-progress"

    def __init__(self) -> None:
        super().__init__("the request with this Idempotency-Key is still running")


class UnknownKey(KeyServiceError):
    """No key has this id."""

    code = "unknown-key"


class RevisionMismatch(KeyServiceError):
    """The key was changed since the revision that the admin has read."""

    code = "precondition-failed"

    def __init__(self) -> None:
        super().__init__("the key was changed since it was read; read it again, and change it as it is now")


class ChangeRefused(KeyServiceError):
    """A change that contradicts what the key is: revoked for good, an admin's, of an unlimited budget …"""

    code = "invalid-request"


class UndecryptableImage(KeyServiceError):
    """One text for every reason: an unknown, foreign or retired image key, a changed byte, an image seen before."""

    code = "undecryptable-image"

    def __init__(self) -> None:
        super().__init__("the image cannot be decrypted")


class InvalidGrant(KeyServiceError):
    """A token request outside RFC 6749 §4.4; `oauth_error` is the code of its §5.2."""

    code = "invalid-request"

    def __init__(self, oauth_error: str, detail: str) -> None:
        super().__init__(detail)
        self.oauth_error = oauth_error


class StoreUnavailable(KeyServiceError):
    """The store cannot be reached; whatever needs it is refused, public predictions go on."""

    code = "store-unavailable"


class ConfigurationError(Exception):
    """A secret is too short, malformed or a placeholder, or the state folder cannot be used; stops the start."""
