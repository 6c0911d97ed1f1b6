"""Every refusal of the HTTP API: one table from stable codes to statuses, one shape of body (RFC 9457).

Knows codes and HTTP; the errors themselves are raised where they happen and never mention a status.
"""

from collections.abc import Mapping

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from keys.errors import InvalidGrant, KeyServiceError, QuotaExceeded


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


class Overloaded(RequestError):
    """The queue is full, or the model did not answer in time."""

    code = "overloaded"


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
    "body-too-large": (413, "The body is too large"),
    "unsupported-image": (415, "The image format is not supported"),
    "undecodable-image": (422, "The image cannot be decoded"),
    "undecryptable-image": (422, "The image cannot be decrypted"),
    "quota-exceeded": (429, "The budget is spent"),
    "internal-error": (500, "The server failed"),
    "store-unavailable": (503, "The key store does not answer"),
    "overloaded": (503, "The server is busy"),
    "draining": (503, "The server is stopping"),
}
HEADERS: dict[str, dict[str, str]] = {
    "invalid-credential": {"WWW-Authenticate": "Bearer"},
    "quota-exceeded": {"x-should-retry": "false"},
    "store-unavailable": {"Retry-After": "2"},
    "overloaded": {"Retry-After": "1"},
    "draining": {"Retry-After": "5"},
}
TYPES = {"quota-exceeded": "https://iana.org/assignments/http-problem-types#quota-exceeded"}
OAUTH_ERRORS = {400: "invalid_request", 401: "invalid_client"}
FRAMEWORK_CODES = {404: "not-found", 405: "method-not-allowed"}


def problem(
    code: str, detail: str, *, path: str, request_id: str, error: str | None = None, headers: Mapping[str, str] = {}
) -> Response:
    """A refusal as `application/problem+json`; `error` is the same in one string, for clients that expect one."""
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
    }
    return Response(
        orjson.dumps(body),
        status,
        media_type="application/problem+json",
        headers={**HEADERS.get(code, {}), **headers, "Cache-Control": "no-store"},
    )


def _answer(
    request: Request, code: str, detail: str, error: str | None = None, headers: Mapping[str, str] = {}
) -> Response:
    path, request_id = request.scope["path"], request.scope["request_id"]
    if path.startswith("/oauth2/"):  # RFC 6749 §5.2 fixes the values of `error`, and the challenge after HTTP Basic
        error = error or OAUTH_ERRORS.get(STATUS[code][0])
        if code == "invalid-credential" and request.headers.get("authorization", "").lower().startswith("basic"):
            headers = {**headers, "WWW-Authenticate": 'Basic realm="sdb"'}
    return problem(code, detail, path=path, request_id=request_id, error=error, headers=headers)


def _domain_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, RequestError | KeyServiceError)  # noqa: S101 - registered for these alone
    headers: dict[str, str] = {}
    if isinstance(exception, QuotaExceeded):
        headers = budget_headers(exception.limit, exception.remaining)
    error = exception.oauth_error if isinstance(exception, InvalidGrant) else None
    return _answer(request, exception.code, str(exception), error, headers)


def _validation_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, RequestValidationError)  # noqa: S101 - registered for this alone
    return _answer(request, "invalid-request", explain(exception.errors()))


def _framework_error(request: Request, exception: Exception) -> Response:
    assert isinstance(exception, HTTPException)  # noqa: S101 - registered for this alone
    code = FRAMEWORK_CODES.get(exception.status_code, "invalid-request")
    return _answer(request, code, str(exception.detail), headers=exception.headers or {})


def explain(errors: object) -> str:
    """The first of pydantic's errors as one line, without the value that was refused."""
    first = errors[0] if isinstance(errors, list | tuple) and errors else {}
    place = ".".join(str(part) for part in first.get("loc", ()))
    return f"{place}: {first.get('msg', 'not valid')}" if place else str(first.get("msg", "not valid"))


def budget_headers(limit: int | None, remaining: int | None) -> dict[str, str]:
    """`RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers) of a budget; none if unlimited."""
    if limit is None or remaining is None:
        return {}
    return {"RateLimit-Policy": f'"budget";q={limit}', "RateLimit": f'"budget";r={remaining}'}


def install(app: FastAPI) -> None:
    """Register the handlers."""
    app.add_exception_handler(RequestError, _domain_error)
    app.add_exception_handler(KeyServiceError, _domain_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _framework_error)
