"""How times and numbers read on a page; all times are UTC.

Knows no key and no template.
"""

from datetime import UTC, datetime

STEPS = ((86400, "day"), (3600, "hour"), (60, "minute"))


def now() -> datetime:
    """The present, in UTC."""
    return datetime.now(UTC)


def moment(time: datetime) -> str:
    """`2026-11-22 07:10`."""
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M}"


def number(value: int) -> str:
    """`12,345`."""
    return f"{value:,}"


def since(time: datetime) -> str:
    """`3 hours ago`, `in 2 days`, `just now`."""
    seconds = (now() - time).total_seconds()
    for length, unit in STEPS:
        if abs(seconds) >= length:
            count = int(abs(seconds) // length)
            span = f"{count} {unit}" + ("s" if count > 1 else "")
            return f"{span} ago" if seconds > 0 else f"in {span}"
    return "just now" if seconds >= 0 else "in a moment"
