"""Every refusal of the HTTP API: one table from stable codes to statuses, one shape of body (RFC 9457).

Knows codes and HTTP; the errors themselves are raised where they happen and never mention a status.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from keys.errors import InvalidGrant, KeyServiceError, QuotaExceeded, RateLimited
from keys.records import BUDGET, Budget, Standing

Shape = TypeVar("Shape", bound=BaseModel)


class RequestError(Exception):
    """Base of what a request can be refused for before or after keys are asked."""

    code = "invalid-request"


class InvalidRequest(RequestError):
    """Malformed JSON, a bad parameter, no image."""


class UnknownModel(RequestError):
    """No model of this name is hosted."""

    code = "unknown-model"


class UnsupportedImage(RequestError):
    """The bytes are of no format that is accepted."""

    code = "unsupported-image"


class UndecodableImage(RequestError):
    """The bytes begin like an image and are damaged, or unfold to too many pixels."""

    code = "undecodable-image"


class TooManyPixels(UndecodableImage):
    """The image would unfold to more than was asked for."""


class Overloaded(RequestError):
    """The queue is full, or the model did not answer in time."""

    code = "overloaded"


class ModelFailed(RequestError):
    """The model broke off, or its answer is not a number: a failure of the server's own, which its log tells of."""

    code = "internal-error"


class Draining(RequestError):
    """The server is stopping."""

    code = "draining"


class RemoteError(Exception):
    """The server that a command asks cannot be reached or refuses; the message says which and why.

    No request to this server ends so: it has no code.
    """


STATUS: dict[str, tuple[int, str]] = {
    "invalid-request": (400, "The request is malformed"),
    "invalid-credential": (401, "The credential is not valid"),
    "missing-scope": (403, "The key does not have this right"),
    "not-found": (404, "There is nothing here"),
    "unknown-model": (404, "No such model"),
    "unknown-key": (404, "No such key"),
    "method-not-allowed": (405, "This method is not allowed here"),
    "request-timeout": (408, "The request came too slowly"),
    "idempotency-in-progress": (409, "The first request with this Idempotency-Key is still running"),
    "precondition-failed": (412, "The key was changed since it was read"),
    "body-too-large": (413, "The body is too large"),
    "unsupported-image": (415, "The image format is not supported"),
    "unsupported-encoding": (415, "The coding of the body is not supported"),
    "undecodable-image": (422, "The image cannot be decoded"),
    "undecryptable-image": (422, "The image cannot be decrypted"),
    "idempotency-mismatch": (422, "The Idempotency-Key was used for another request"),
    "quota-exceeded": (429, "The budget is spent"),
    "rate-limited": (429, "A rate limit is reached"),
    "internal-error": (500, "The server failed"),
    "store-unavailable": (503, "The key store does not answer"),
    "overloaded": (503, "The server is busy"),
    "draining": (503, "The server is stopping"),
}
HEADERS: dict[str, dict[str, str]] = {
    "invalid-credential": {"WWW-Authenticate": "Bearer"},
    "idempotency-in-progress": {"Retry-After": "1"},
    "unsupported-encoding": {"Accept-Encoding": "gzip, deflate"},
    "quota-exceeded": {"x-should-retry": "false"},
    "store-unavailable": {"Retry-After": "2"},
    "overloaded": {"Retry-After": "1"},
    "draining": {"Retry-After": "5"},
}
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"
TYPES = {"quota-exceeded": QUOTA_EXCEEDED, "rate-limited": QUOTA_EXCEEDED}
OAUTH_ERRORS = {400: "invalid_request", 401: "invalid_client"}
PLAIN_JSON = "/v2/"
FRAMEWORK_CODES = {404: "not-found", 405: "method-not-allowed"}


def problem(
    code: str,
    detail: str,
    *,
    path: str,
    request_id: str,
    error: str | None = None,
    headers: Mapping[str, str] = {},
    members: Mapping[str, object] = {},
) -> Response:
    """A refusal as `application/problem+json`; `error` is the same in one string, for clients that expect one.

    Clients of the Open Inference Protocol read it only if it is called `application/json`.
    """
    status, title = STATUS[code]
    body = {
        "type": TYPES.get(code, f"urn:sdb:problem:{code}"),
        "title": title,
        "status": status,
        "detail": detail,
        "instance": path,
        "code": code,
        "request_id": request_id,
        "error": error or f"{code}: {detail}",
        **members,
    }
    return Response(
        orjson.dumps(body),
        status,
        media_type="application/json" if path.startswith(PLAIN_JSON) else "application/problem+json",
        headers={**HEADERS.get(code, {}), **headers, "Cache-Control": "no-store"},
    )


def _answer(
    request: Request,
    code: str,
    detail: str,
    *,
    error: str | None = None,
    headers: Mapping[str, str] = {},
    members: Mapping[str, object] = {},
) -> Response:
    path, request_id = request.scope["path"], request.scope["request_id"]
    request.scope["code"] = code
    if path.startswith("/oauth2/"):  # RFC 6749 §5.2 fixes the values of `error`, and the challenge after HTTP Basic
        error, members = error or OAUTH_ERRORS.get(STATUS[code][0]), {**members, "error_description": detail}
        if code == "invalid-credential" and request.headers.get("authorization", "").lower().startswith("basic"):
            headers = {**headers, "WWW-Authenticate": 'Basic realm="sdb"'}
    return problem(code, detail, path=path, request_id=request_id, error=error, headers=headers, members=members)


async def _domain_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, RequestError | KeyServiceError)  # noqa: S101 - registered for these alone
    code, detail = exception.code, str(exception)
    match exception:
        case QuotaExceeded():
            members = {"violated-policies": [BUDGET]}
            return _answer(request, code, detail, headers=_spent_headers(exception), members=members)
        case RateLimited():
            headers = never_or_after(exception.retry_after_s)
            return _answer(request, code, detail, headers=headers, members={"violated-policies": [exception.name]})
        case InvalidGrant():
            return _answer(request, code, detail, error=exception.oauth_error)
        case _:
            return _answer(request, code, detail)


def _spent_headers(refusal: QuotaExceeded) -> dict[str, str]:
    budget = Budget(limit=refusal.limit, remaining=refusal.remaining, resets_at=refusal.resets_at)
    headers = rate_limit_headers(budget, ())
    if refusal.resets_at is not None:
        headers["Retry-After"] = str(_seconds_until(refusal.resets_at))
    return headers


def never_or_after(seconds: float | None) -> dict[str, str]:
    """Headers that say when to come again; None is never."""
    return {"x-should-retry": "false"} if seconds is None else {"Retry-After": str(math.ceil(seconds))}


def _seconds_until(time: datetime) -> int:
    return max(1, math.ceil((time - datetime.now(UTC)).total_seconds()))


async def _validation_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, RequestValidationError)  # noqa: S101 - registered for this alone
    return _answer(request, "invalid-request", explain(exception.errors()))


async def _framework_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)  # noqa: S101 - registered for this alone
    code = FRAMEWORK_CODES.get(exception.status_code, "invalid-request")
    return _answer(request, code, str(exception.detail), headers=exception.headers or {})


def explain(errors: object) -> str:
    """The first of pydantic's errors as one line, without the value that was refused."""
    first = errors[0] if isinstance(errors, list | tuple) and errors else {}
    place = ".".join(str(part) for part in first.get("loc", ()))
    said = str(first.get("msg", "not valid")).removeprefix("Value error, ")
    return f"{place}: {said}" if place else said


def validated(shape: type[Shape], value: object) -> Shape:
    """What somebody sent or typed, in the shape that it must have.

    Raises:
        InvalidRequest: it has another, in one line that does not repeat it.
    """
    try:
        return shape.model_validate(value)
    except ValidationError as error:
        raise InvalidRequest(explain(error.errors())) from None


def rate_limit_headers(budget: Budget | None, standings: Sequence[Standing]) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers); none if nothing is limited."""
    policies, states = [], []
    if budget is not None and budget.limit is not None:
        reset = "" if budget.resets_at is None else f";t={_seconds_until(budget.resets_at)}"
        policies.append(f'"{BUDGET}";q={budget.limit}')
        states.append(f'"{BUDGET}";r={budget.remaining}{reset}')
    for standing in standings:
        rate = standing.rate
        policies.append(f'"{rate.name}";q={rate.limit};w={rate.window_s}')
        states.append(f'"{rate.name}";r={standing.remaining};t={math.ceil(standing.reset_s)}')
    return {"RateLimit-Policy": ", ".join(policies), "RateLimit": ", ".join(states)} if policies else {}


async def refusal(request: Request, error: Exception) -> Response:
    """The answer to a request that failed in one of the ways that are REFUSED."""
    for kind, answer in _ANSWERS.items():
        if isinstance(error, kind):
            return await answer(request, error)
    raise error


_ANSWERS: dict[type[Exception], Callable[[Request, Exception], Awaitable[Response]]] = {
    RequestError: _domain_error,
    KeyServiceError: _domain_error,
    RequestValidationError: _validation_error,
    HTTPException: _framework_error,
}
REFUSED = tuple(_ANSWERS)
"""What a request can be refused with; anything else that is raised is the server's own failure."""


def install(app: FastAPI) -> None:
    """Register the answers; all are asynchronous, since any other would be run in a thread, which takes 150 µs."""
    for kind, answer in _ANSWERS.items():
        app.add_exception_handler(kind, answer)
