"""A key's usage as bars, one for each hour or day: what was charged, what was answered free, what was refused.

Knows buckets of usage and a drawing of 100 by 100 units; knows no store and no template.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from keys.records import Bucket, UsageBucket

SHOWN: dict[Bucket, tuple[timedelta, int, str]] = {
    "hour": (timedelta(hours=1), 48, "%d %b %H:00"),
    "day": (timedelta(days=1), 30, "%d %b"),
}
CHARGED = "charged"
KINDS = (CHARGED, "free", "refused")  # from the bottom of a bar to its top
KIND_OF = {"served": CHARGED, "public": "free", "replayed": "free"}  # every other outcome is a refusal
BAR = 0.8  # of a bar's slot


@dataclass(frozen=True)
class Part:
    """The images of one kind in one bucket, and where they are drawn."""

    kind: str
    images: int
    y: float
    height: float


@dataclass(frozen=True)
class Bar:
    """One bucket; `parts` has all kinds, also those of no images."""

    label: str
    x: float
    width: float
    parts: list[Part]

    @property
    def empty(self) -> bool:
        """Whether nothing was asked."""
        return not any(part.images for part in self.parts)


@dataclass(frozen=True)
class Chart:
    """Bars, oldest first; `top` images fill the height, `totals` counts each kind."""

    bucket: Bucket
    bars: list[Bar]
    top: int
    totals: dict[str, int]


def kind_of(found: UsageBucket) -> str:
    """The kind that an outcome is drawn as."""
    return KIND_OF.get(found.outcome, KINDS[-1])


def draw(usage: Iterable[UsageBucket], bucket: Bucket, now: datetime) -> Chart:
    """The last 48 hours or 30 days of `usage` until `now`, empty buckets too."""
    step, count, form = SHOWN[bucket]
    last = _start(now, bucket)
    counts: dict[datetime, Counter[str]] = {last - step * ago: Counter() for ago in reversed(range(count))}
    for found in usage:
        if found.start in counts:
            counts[found.start][kind_of(found)] += found.images
    top = max(kinds.total() for kinds in counts.values()) or 1
    slot = 100 / count
    bars = [
        Bar(start.strftime(form), round(slot * (number + (1 - BAR) / 2), 3), round(slot * BAR, 3), _parts(kinds, top))
        for number, (start, kinds) in enumerate(counts.items())
    ]
    totals = {kind: sum(kinds[kind] for kinds in counts.values()) for kind in KINDS}
    return Chart(bucket, bars, top, totals)


def _parts(images: Counter[str], top: int) -> list[Part]:
    parts, y = [], 100.0
    for kind in KINDS:
        height = 100 * images[kind] / top
        y -= height
        parts.append(Part(kind, images[kind], round(y, 3), round(height, 3)))
    return parts


def _start(now: datetime, bucket: Bucket) -> datetime:
    hour = now.astimezone(UTC).replace(minute=0, second=0, microsecond=0)
    return hour if bucket == "hour" else hour.replace(hour=0)
