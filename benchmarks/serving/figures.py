"""What the rounds come to: medians with their range, and ratios of two servers in the same rounds.

Knows the JSON document that is kept; knows no process.
"""

import json
import statistics
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.serving.ceiling import Ceiling
from benchmarks.serving.contestants import REFERENCES
from benchmarks.serving.rounds import Cell, Start

SPEED, P50, P99 = "per_second", "p50_ms", "p99_ms"
KEPT = (SPEED, P50, P99)


@dataclass
class Figures:
    """All rows of a run; a row's numbers are lists with one entry per round."""

    about: dict[str, Any]
    rows: list[dict[str, Any]]
    starts: list[dict[str, Any]]
    ceilings: list[dict[str, Any]]
    skipped: list[dict[str, str]]

    @classmethod
    def read(cls, path: Path) -> "Figures":
        """Those of an earlier run."""
        document = json.loads(path.read_text())
        return cls(**{field: document[field] for field in cls.__dataclass_fields__})

    def rounds(self, server: str, workload: str, load: str, number: str = SPEED) -> list[float]:
        """One number per round; empty if that was not measured."""
        return next((row[number] for row in self.rows if _is(row, server, workload, load)), [])

    def median(self, server: str, workload: str, load: str, number: str = SPEED) -> float | None:
        """The median over rounds; None if that was not measured."""
        return median(self.rounds(server, workload, load, number))

    def peers(self, workload: str) -> list[str]:
        """The other servers that were measured with it."""
        return [
            row["server"] for row in self.rows if row["workload"] == workload and row["load"] == "32" and row["peer"]
        ]

    def best_peer(
        self, workload: str, load: str, number: str, best: Callable[[Iterable[float]], float], but: Container[str] = ()
    ) -> list[float]:
        """The rounds of the peer whose median is best, of all `but` some."""
        peers = [peer for peer in self.peers(workload) if peer not in but]
        of_peers = [self.rounds(peer, workload, load, number) for peer in peers]
        medians = [statistics.median(found) for found in of_peers if found]
        return next((found for found in of_peers if found and statistics.median(found) == best(medians)), [])

    def ceiling(self, server: str, workload: str, number: str) -> list[float]:
        """One number per round of the ceiling that the server is held against."""
        of = (REFERENCES[server], workload)
        return next((row[number] for row in self.ceilings if (row["name"], row["workload"]) == of), [])


def _is(row: dict[str, Any], server: str, workload: str, load: str) -> bool:
    return (row["server"], row["workload"], row["load"]) == (server, workload, load)


def median(numbers: Sequence[float]) -> float | None:
    """None of none."""
    return statistics.median(numbers) if numbers else None


def ratio(above: Sequence[float], below: Sequence[float]) -> float | None:
    """The median of the ratios of the same rounds, None if there are none: what drifts in both drops out."""
    return median([one / other for one, other in zip(above, below, strict=False)])


@dataclass
class Ledger:
    """Takes down what the rounds give, in the order that it comes."""

    figures: Figures

    def cell(self, cell: Cell, *, peer: bool) -> None:
        """One load of one round."""
        row = _row(self.figures.rows, server=cell.server, workload=cell.workload, load=cell.load, peer=peer)
        result = asdict(cell.result)
        for number in (*KEPT, "errors", "client_us"):
            row.setdefault(number, []).append(result[number])

    def start(self, start: Start, versions: dict[str, str]) -> None:
        """One start of a server."""
        row = _row(self.figures.starts, server=start.server, workload=start.workload)
        numbers = {"seconds": start.seconds, **asdict(start.memory)}
        for name, number in numbers.items():
            row.setdefault(name, []).append(number)
        row["versions"] = versions

    def ceiling(self, name: str, workload: str, ceiling: Ceiling) -> None:
        """One ceiling of one round."""
        row = _row(self.figures.ceilings, name=name, workload=workload)
        row["runtime"] = ceiling.runtime
        numbers = {"best": ceiling.best, "best_forward": ceiling.best_forward, "forward_1_ms": ceiling.forward_1_ms}
        for number, value in numbers.items():
            row.setdefault(number, []).append(round(value, 3))

    def skip(self, server: str, workload: str, reason: str) -> None:
        """A server that does not take part."""
        self.figures.skipped.append({"server": server, "workload": workload, "reason": reason})


def _row(rows: list[dict[str, Any]], **names: object) -> dict[str, Any]:
    """The row of that name, made if it is the first time."""
    for row in rows:
        if names.items() <= row.items():
            return row
    rows.append(dict(names))
    return rows[-1]


def written(document: dict[str, Any]) -> str:
    """The JSON that is kept: one line for each row, so that a change of one is a change of one line."""
    parts = []
    for name, value in document.items():
        lines = [json.dumps(row, ensure_ascii=False) for row in (value if isinstance(value, list) else [value])]
        joined = ",\n  ".join(lines)
        parts.append(f'"{name}": [\n  {joined}\n ]' if isinstance(value, list) else f'"{name}": {lines[0]}')
    return "{\n " + ",\n ".join(parts) + "\n}\n"
