"""What can go wrong between a caller and a right: each error has a stable code, none knows HTTP.

KeyServiceError
├── InvalidCredential   the credential is unknown, expired, disabled, revoked, malformed or forged
├── MissingScope        the credential is good and the right was not granted
├── QuotaExceeded       the budget is spent
├── UnknownKey          an admin names a key, or an image key, that does not exist
├── ImageKeyRefused     an admin asks for an image key that this key cannot have
├── UndecryptableImage  no image key of the caller opens the image, or it came before
├── InvalidGrant        a token request that OAuth 2.0 does not allow
└── StoreUnavailable    the store does not answer
ConfigurationError      the operator gave a secret or a folder that cannot be used
"""


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
    """The budget does not cover the request; nothing was charged."""

    code = "quota-exceeded"

    def __init__(self, limit: int, remaining: int, wanted: int) -> None:
        super().__init__(f"{wanted} answers asked for, {remaining} of {limit} left")
        self.limit, self.remaining = limit, remaining


class UnknownKey(KeyServiceError):
    """No key has this id."""

    code = "unknown-key"


class ImageKeyRefused(KeyServiceError):
    """The key lacks the scope `decrypt`, is revoked, or has as many image keys as one may have."""

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
