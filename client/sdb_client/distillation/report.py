"""What became of a distillation: the student beside the same student without soft labels, as JSON and as a page.

Knows figures; draws curves where matplotlib is installed (the extra `plots`).
"""

import html
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from sdb_client.distillation.checkpoint import Epoch, written
from sdb_client.distillation.recipe import Recipe

JSON, PAGE = "report.json", "report.html"
STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: 1rem 0; } td, th { padding: .2rem 1rem .2rem 0; text-align: left; }
svg { max-width: 100%; height: auto; }"""


@dataclass(frozen=True)
class Trained:
    """A student after its epochs: what it learned from, and its top-1 on the held-out images, None without them."""

    name: str
    alpha: float
    top1: float | None
    standard_error: float | None
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True)
class Report:
    """The distilled student, the one alone (None if it was not asked for), and what decided them.

    `labels` says where the soft labels came from, as far as the data set knew.
    """

    distilled: Trained
    alone: Trained | None
    recipe: Recipe
    labels: Mapping[str, object]
    images: int | None
    held_out: int | None
    environment: Mapping[str, str]

    @property
    def gain(self) -> float | None:
        """By how much the soft labels raised the top-1; None where that was not measured."""
        if self.alone is None or self.alone.top1 is None or self.distilled.top1 is None:
            return None
        return self.distilled.top1 - self.alone.top1

    @property
    def students(self) -> tuple[Trained, ...]:
        """Both, as far as they are there."""
        return tuple(student for student in (self.distilled, self.alone) if student is not None)

    def save(self, folder: Path) -> None:
        """Write `report.json` and `report.html`, which needs no other file."""
        document = json.dumps({**asdict(self), "gain": self.gain}, indent=2) + "\n"
        written(folder / JSON, lambda partial: partial.write_text(document))
        written(folder / PAGE, lambda partial: partial.write_text(self.page()))

    def page(self) -> str:
        """The report as one HTML page."""
        rows = "".join(
            f"<tr><th>{html.escape(student.name)}</th><td>α = {student.alpha:g}</td><td>{_percent(student)}</td></tr>"
            for student in self.students
        )
        facts = {**self.labels, **asdict(self.recipe), "images": self.images, "held_out": self.held_out}
        listed = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
            for name, value in {**facts, **self.environment}.items()
        )
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Distillation</title><style>{STYLE}</style>'
            f"<h1>Distillation</h1><p>{html.escape(str(self))}</p><table>{rows}</table>{_curves(self.students)}"
            f"<h2>What decided it</h2><table>{listed}</table></html>\n"
        )

    def __str__(self) -> str:
        found = "; ".join(f"{student.name}: {_percent(student)}" for student in self.students)
        return found if self.gain is None else f"{found}; soft labels are worth {100 * self.gain:+.2f} points"


def trained(name: str, alpha: float, epochs: list[Epoch], held_out: int | None) -> Trained:
    """A student by its epochs; the standard error is that of a share of so many held-out images."""
    top1 = epochs[-1].top1
    error = None if top1 is None or not held_out else math.sqrt(top1 * (1 - top1) / held_out)
    return Trained(name, alpha, top1, error, tuple(epochs))


def _percent(student: Trained) -> str:
    if student.top1 is None:
        return "not measured"
    error = "" if student.standard_error is None else f" ± {100 * student.standard_error:.2f}"
    return f"{100 * student.top1:.2f}{error} % top-1"


def _curves(students: tuple[Trained, ...]) -> str:
    try:
        from sdb_client.distillation.plots import curves  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        return ""
    return curves(students)
