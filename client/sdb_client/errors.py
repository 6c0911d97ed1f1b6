"""Everything that a call of the client may raise.

SdbError
├── InvalidImage               what was given is no image that can be sent
├── UnexpectedAnswer           the server answers something else than its contract says
├── APIConnectionError         no answer
│   └── APITimeoutError        none in time
└── APIError                   a refusal: `status`, `code`, `title`, `detail`, `request_id`, `retry_after`
    └── one class for each code of the server, see `BY_CODE`

Knows codes; knows no HTTP. No message and no repr holds a credential.
"""


class SdbError(Exception):
    """Base of all."""


class InvalidImage(SdbError, ValueError):
    """What was given is no image that can be sent, or not in this way."""


class UnexpectedAnswer(SdbError):
    """An answer without what the contract says it has: another server, or a much older one."""


class APIConnectionError(SdbError):
    """The server cannot be reached, or the connection broke."""


class APITimeoutError(APIConnectionError):
    """No answer in time. What was asked for may have been done: the client has repeated it under one name."""


class APIError(SdbError):
    """A refusal (RFC 9457).

    `code` is stable and None if something before the server refused; `retry_after` is what the server asks to wait, in
    seconds, None if it does not say.
    """

    def __init__(
        self,
        status: int,
        *,
        code: str | None = None,
        title: str = "",
        detail: str = "",
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.status, self.code, self.title, self.detail = status, code, title, detail
        self.request_id, self.retry_after = request_id, retry_after
        said = f"{code or f'status {status}'}: {detail or title}".rstrip(": ")
        super().__init__(said if request_id is None else f"{said} (request {request_id})")

    def __reduce__(self) -> tuple[object, ...]:  # processes hand errors to each other: DataLoader's workers do
        return _again, (type(self), self.status, self.__dict__)


def _again(kind: type[APIError], status: int, said: dict[str, object]) -> APIError:
    return kind(status, **{name: value for name, value in said.items() if name != "status"})  # type: ignore[arg-type]


class InvalidRequest(APIError):
    """Malformed, or a parameter that there is not."""


class InvalidCredential(APIError):
    """The API key or token is unknown, expired, disabled or revoked."""


class MissingScope(APIError):
    """The key does not have this right."""


class NotFound(APIError):
    """No such path: most likely a base URL that is not a server's."""


class UnknownModel(APIError):
    """No such model."""


class UnknownKey(APIError):
    """No such key, image key or page."""


class MethodNotAllowed(APIError):
    """Not with this method: most likely a base URL that is not a server's."""


class IdempotencyInProgress(APIError):
    """The first request under this Idempotency-Key is still running."""


class IdempotencyMismatch(APIError):
    """This Idempotency-Key was used for another request."""


class PreconditionFailed(APIError):
    """What was to be changed has been changed by somebody else since it was read."""


class RequestTimeout(APIError):
    """The request reached the server too slowly; it was not answered, and may be sent again."""


class BodyTooLarge(APIError):
    """More bytes than the server takes in one request: send fewer images."""


class UnsupportedImage(APIError):
    """The bytes are of no format that the server reads."""


class UnsupportedEncoding(APIError):
    """The body is packed in a way that the server does not unpack."""


class UndecodableImage(APIError):
    """The image is damaged, or has too many pixels."""


class UndecryptableImage(APIError):
    """The image does not open: another key's, another model's, changed, or sent before."""


class QuotaExceeded(APIError):
    """The budget of the key is spent. No retry helps before it is refilled or topped up."""


class RateLimited(APIError):
    """A rate limit of the key is reached: `retry_after` says when there is room again."""


class InternalError(APIError):
    """The server failed; its operator finds out why under `request_id`."""


class StoreUnavailable(APIError):
    """The server cannot ask its key store, and answers nothing that needs a key until it can."""


class Overloaded(APIError):
    """The server is busy."""


class Draining(APIError):
    """The server is stopping."""


BY_CODE: dict[str, type[APIError]] = {
    "invalid-request": InvalidRequest,
    "invalid-credential": InvalidCredential,
    "missing-scope": MissingScope,
    "not-found": NotFound,
    "unknown-model": UnknownModel,
    "unknown-key": UnknownKey,
    "method-not-allowed": MethodNotAllowed,
    "request-timeout": RequestTimeout,
    "idempotency-in-progress": IdempotencyInProgress,
    "idempotency-mismatch": IdempotencyMismatch,
    "precondition-failed": PreconditionFailed,
    "body-too-large": BodyTooLarge,
    "unsupported-image": UnsupportedImage,
    "unsupported-encoding": UnsupportedEncoding,
    "undecodable-image": UndecodableImage,
    "undecryptable-image": UndecryptableImage,
    "quota-exceeded": QuotaExceeded,
    "rate-limited": RateLimited,
    "internal-error": InternalError,
    "store-unavailable": StoreUnavailable,
    "overloaded": Overloaded,
    "draining": Draining,
}
