"""PromQL as the dashboard and the alerts use it: which metrics a query reads, and which labels it expects of them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import promql_parser as promql
import yaml

from tests.conftest import ROOT

ALERTS = ROOT / "docker" / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "docker" / "grafana" / "dashboards" / "sdb.json"
VARIABLES = {"$__rate_interval": "1m", "$instance": ".*"}
OF_PROMETHEUS = {"job", "instance", "le"}
PARTS = {
    "MatrixSelector": ("vector_selector",),
    "Call": ("args",),
    "BinaryExpr": ("lhs", "rhs"),
    "ParenExpr": ("expr",),
    "UnaryExpr": ("expr",),
    "SubqueryExpr": ("expr",),
    "NumberLiteral": (),
    "StringLiteral": (),
}
LEGEND = re.compile(r"{{\s*(?:\$labels\.)?(\w+)\s*}}")
Rule = dict[str, Any]


@dataclass
class Query:
    """What is asked: metrics, labels that each of them must have, values that labels must be able to have.

    `named` are the labels that a legend or a summary shows: one of the metrics must have them.
    """

    text: str
    metrics: set[str] = field(default_factory=set)
    labels: set[tuple[str, str]] = field(default_factory=set)
    values: list[tuple[str, str]] = field(default_factory=list)
    named: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, text: str, legend: str = "") -> "Query":
        """Read the text; raises ValueError if it is no PromQL."""
        plain = text
        for variable, value in VARIABLES.items():
            plain = plain.replace(variable, value)
        query = cls(text, named=set(LEGEND.findall(legend)) - OF_PROMETHEUS)
        query.metrics = query._read(promql.parse(plain))
        query.labels = {(metric, label) for metric, label in query.labels if label not in OF_PROMETHEUS}
        return query

    def _read(self, node: Any) -> set[str]:  # noqa: ANN401 - the parser's nodes have no common type
        """The metrics below a node, or below several."""
        if isinstance(node, list):
            return set().union(*map(self._read, node))
        match type(node).__name__:
            case "VectorSelector":
                self.labels |= {(node.name, one.name) for one in node.matchers.matchers}
                self.values += [(one.name, one.value) for one in node.matchers.matchers]
                return {node.name}
            case "AggregateExpr":
                below = self._read(node.expr)
                kept = node.modifier.labels if node.modifier is not None else []
                self.labels |= {(metric, label) for metric in below for label in kept}
                return below
            case kind:
                return set().union(*(self._read(getattr(node, part)) for part in PARTS[kind]))


def alerts() -> list[Rule]:
    """All alerts."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """All panels of the dashboard."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def queries() -> Iterator[Query]:
    """Whatever is asked of Prometheus."""
    for rule in alerts():
        yield Query.of(rule["expr"], rule["annotations"]["summary"])
    for panel in panels():
        for target in panel.get("targets", ()):
            yield Query.of(target["expr"], target["legendFormat"])
