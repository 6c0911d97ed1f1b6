"""The text of `/metrics`: the numbers of all processes of a server, summed, in Prometheus' format or in OpenMetrics'.

Knows blocks of numbers and what they are called; knows not where they come from.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

import numpy as np
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from app.metrics.families import FAMILIES, GAUGES, HEARTBEAT, Family
from app.metrics.share import Share
from app.metrics.tallies import Name, Tallies

WORKER, SILENT_S = "worker", 30.0
Rows = Mapping[Name, Sequence[float]]


class Exposition(Collector):
    """What a server has counted."""

    def __init__(self, share: Share) -> None:
        self._share, self._registry = share, CollectorRegistry()
        self._registry.register(self)

    def text(self, accept: str) -> tuple[bytes, str]:
        """All of it in the format that `accept`, a header, asks for; and that format's media type."""
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is none
            encode, media_type = choose_encoder("")
        return encode(self._registry), media_type

    def collect(self) -> Iterator[Metric]:
        """Called by prometheus_client."""
        rows = self._summed()
        for family in FAMILIES:
            yield _metric(family, {name[1:]: row for name, row in rows.items() if name[0] == family.name})

    def describe(self) -> Iterable[Metric]:
        """Called by prometheus_client; what there is, is known without counting."""
        return [_metric(family, {}) for family in FAMILIES]

    def _summed(self) -> Rows:
        how = {family.name: family.over_workers for family in FAMILIES}
        found: defaultdict[Name, list[Sequence[float]]] = defaultdict(list)
        for number, block in enumerate(self._share.blocks):
            rows = dict(Tallies(block).rows())
            silent = rows.get((HEARTBEAT.name,), [0.0])[0] < time.time() - SILENT_S
            for name, row in rows.items():
                if silent and name[0] in GAUGES:
                    continue  # how it was with a process that has ended
                found[(*name, str(number)) if how[name[0]] == "each" else name].append(row)
        return {name: _merged(rows, how[name[0]]) for name, rows in sorted(found.items())}


def _merged(rows: Sequence[Sequence[float]], how: str) -> list[float]:
    merge = {"max": np.max, "min": np.min}.get(how, np.sum)
    merged: list[float] = merge(rows, axis=0).tolist()
    return merged


def _metric(family: Family, rows: Rows) -> Metric:
    labels = [*family.labels, WORKER] if family.over_workers == "each" else list(family.labels)
    if family.kind == "histogram":
        histogram = HistogramMetricFamily(family.name, family.help, labels=labels)
        for values, row in rows.items():
            *counts, total = row
            bounds = [*map(str, family.buckets), "+Inf"]
            histogram.add_metric(list(values), list(zip(bounds, accumulate(counts), strict=True)), total)
        return histogram
    kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = kind(family.name, family.help, labels=labels)
    for values, row in rows.items():
        metric.add_metric(list(values), row[0])
    return metric
