"""What people read of a key says what it is, how much is left and how soon it ends."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.commands.tables import ago, card, line, usage_lines
from app.key_schemas import Key
from keys.records import Budget, RateLimit, UsageBucket

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)


def a_key(**changes: object) -> Key:
    fields: dict[str, Any] = {
        "id": "key_a",
        "name": "partner",
        "kind": "client",
        "scopes": ["distill", "predict"],
        "models": ["*"],
        "state": "active",
        "created_at": NOW,
        "expires_at": None,
        "last_used_at": None,
        "budget": Budget(limit=None, remaining=None),
        "rate_limits": [],
        "metadata": {},
        "mark": 0.5,
        "image_key": None,
        **changes,
    }
    return Key(**fields)


@pytest.mark.parametrize(
    ("span", "past", "future"),
    [
        (timedelta(seconds=0), "0 s ago", "0 s ago"),
        (timedelta(seconds=59), "59 s ago", "in 59 s"),
        (timedelta(seconds=60), "1 min ago", "in 1 min"),
        (timedelta(minutes=59, seconds=59), "59 min ago", "in 59 min"),
        (timedelta(hours=1), "1 hour ago", "in 1 hour"),
        (timedelta(days=1, hours=23), "1 day ago", "in 1 day"),
        (timedelta(days=29), "29 days ago", "in 29 days"),
        (timedelta(days=364), "12 months ago", "in 12 months"),
        (timedelta(days=2 * 365), "2 years ago", "in 2 years"),
    ],
    ids=str,
)
def test_a_time_is_told_in_the_largest_unit_that_it_fills(span: timedelta, past: str, future: str) -> None:
    assert (ago(NOW - span, NOW), ago(NOW + span, NOW)) == (past, future)


@pytest.mark.parametrize(
    ("limit", "remaining", "granted", "left"),
    [
        (None, None, 0, "unlimited"),
        (100, 100, 0, "█████ 100 of 100"),
        (100, 40, 0, "██░░░ 40 of 100"),
        (10**6, 1, 0, "█░░░░ 1 of 1000000"),
        (100, 0, 0, "░░░░░ 0 of 100"),
        (0, 0, 0, "░░░░░ 0 of 0"),
        (100, 150, 50, "█████ 150 of 100"),
        (0, 5, 5, "█████ 5 of 0"),
    ],
)
def test_what_is_left_is_a_bar_and_two_numbers(
    limit: int | None, remaining: int | None, granted: int, left: str
) -> None:
    key = a_key(budget=Budget(limit=limit, remaining=remaining, granted=granted))
    assert line(key, NOW)["left"] == left


def test_a_key_whose_time_is_over_is_expired_unless_it_ended_before() -> None:
    over = {"expires_at": NOW}
    assert line(a_key(**over), NOW)["state"] == "expired"
    assert line(a_key(expires_at=NOW + timedelta(seconds=1)), NOW)["state"] == "active"
    assert line(a_key(**over, state="revoked"), NOW)["state"] == "revoked"
    assert line(a_key(kind="admin", scopes=[]), NOW)["rights"] == "admin"


def test_a_card_tells_refills_grants_and_windows_in_words() -> None:
    budget = Budget(limit=10, remaining=12, granted=2, refill="daily", resets_at=NOW + timedelta(hours=12))
    windows = ((60, "burst"), (3600, "hour"), (90, "odd"), (86400, "day"), (7200, "two-hours"))
    rates = [RateLimit(name=name, limit=5, window_s=window_s) for window_s, name in windows]
    shown = card(a_key(budget=budget, rate_limits=rates, metadata={"team": "vision"}), NOW)
    assert shown["refill"] == "daily, next in 12 hours, 2 granted once"
    assert shown["rate limits"] == (
        "burst: 5 per 1 min, hour: 5 per 1 hour, odd: 5 per 90 s, day: 5 per 1 day, two-hours: 5 per 2 hours"
    )
    assert shown["metadata"] == "team=vision"


def test_usage_has_bars_against_its_fullest_line() -> None:
    counts = [UsageBucket(NOW, "tiny", outcome, images) for outcome, images in (("served", 80), ("failed", 20))]
    assert [row[""] for row in usage_lines(counts)] == ["█████", "█░░░░"]
    assert usage_lines([]) == []
    assert usage_lines([UsageBucket(NOW, "", "invalid-credential", 0)])[0][""] == "░░░░░"
