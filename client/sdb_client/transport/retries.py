"""Which requests are sent again, and after how long.

Knows statuses and headers; knows no clock of its own and sends nothing.
"""

import random
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from sdb_client.environment import BASE_URL, HERE
from sdb_client.errors import APIConnectionError, APIError, APITimeoutError

FIRST_PAUSE_S, LONGEST_PAUSE_S, JITTER = 0.5, 8.0, 0.25
LONGEST_WAIT_S = 60.0
"""A server that wants a longer pause is not asked again: the caller knows better what to do in that time."""
PASSING = frozenset({408, 429})
NOT_SENT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.InvalidURL)


def backoff(attempt: int) -> float:
    """Seconds before attempt 1, 2, …: twice as long each time, a little less by chance so that callers part."""
    pause: float = min(FIRST_PAUSE_S * 2 ** (attempt - 1), LONGEST_PAUSE_S)
    return pause * (1 - JITTER * random.random())  # noqa: S311 - no secret


def retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that the server asks to wait (RFC 9110 §10.2.3: a number or a date); None if it does not say."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,9}", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())


def after_refusal(refusal: APIError, headers: Mapping[str, str], attempt: int) -> float | None:
    """Seconds before attempt 1, 2, … after a refusal; None: not again. `x-should-retry` beats the status."""
    match headers.get("x-should-retry"):
        case "false":
            return None
        case "true":
            pass
        case _:
            passing = refusal.status in PASSING or refusal.status >= 500
            if not passing and refusal.code != "idempotency-in-progress":
                return None
    asked = refusal.retry_after
    if asked is None:
        return backoff(attempt)
    return asked if asked <= LONGEST_WAIT_S else None


def after_failure(failure: Exception, attempt: int) -> float | None:
    """Seconds before attempt 1, 2, … when no answer came; None if none can come, for there is no such address."""
    passing = isinstance(failure, httpx.TransportError) and not isinstance(failure, NOT_SENT)
    return backoff(attempt) if passing else None


def failure(error: Exception, where: str) -> APIConnectionError:
    """What the caller is told when no answer came from `where`."""
    kind = APITimeoutError if isinstance(error, httpx.TimeoutException) else APIConnectionError
    remedy = f"; {BASE_URL} names another server" if where == HERE else ""
    return kind(f"{where} does not answer: {str(error) or type(error).__name__}{remedy}")


def now() -> datetime:
    """The time that a date in a header is compared with."""
    return datetime.now(UTC)
