"""When a budget runs out if its holder goes on like in the last days.

Knows a budget, usage by days and the time; knows no store and no page.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.console.chart import CHARGED, kind_of
from keys.records import KeyRecord, UsageBucket

OBSERVED = timedelta(days=7)
FEWEST = timedelta(days=1)  # a key that was made an hour ago has not shown its daily use yet
FARTHEST_DAYS = 10 * 365


@dataclass(frozen=True)
class Forecast:
    """`per_day` images were charged on average; at that rate the budget is empty at `runs_out`.

    `runs_out` is None where nothing is used, nothing is limited, the budget is given anew before, or it takes decades.
    """

    per_day: float
    runs_out: datetime | None
    refilled_before: bool = False


def forecast(key: KeyRecord, days: Iterable[UsageBucket], now: datetime) -> Forecast:
    """The forecast of `key` by its usage in buckets of a day."""
    since = max(now - OBSERVED, key.created_at)
    day = since.replace(hour=0, minute=0, second=0, microsecond=0)
    charged = sum(found.images for found in days if kind_of(found) == CHARGED and found.start >= day)
    per_day = charged / (max(now - max(day, key.created_at), FEWEST) / timedelta(days=1))
    left = key.budget.remaining
    if left is None or not per_day or left / per_day > FARTHEST_DAYS:
        return Forecast(per_day, None)
    runs_out = now + timedelta(days=left / per_day)
    resets_at = key.budget.resets_at
    if resets_at is not None and resets_at <= runs_out:
        return Forecast(per_day, None, refilled_before=True)
    return Forecast(per_day, runs_out)
