"""The students' top-1 and loss over the epochs, as an SVG. Needs matplotlib."""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

if TYPE_CHECKING:
    from sdb_client.distillation.report import Trained

COLOURS = ("#2a7f62", "#8a8f98")


def curves(students: Sequence["Trained"]) -> str:
    """The element <svg>: a panel of losses, and one of top-1s if they were measured."""
    measured = any(student.top1 is not None for student in students)
    figure = Figure(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, 2 if measured else 1, squeeze=False)[0]
    for student, colour in zip(students, COLOURS, strict=False):
        numbers = range(1, len(student.epochs) + 1)
        panels[0].plot(numbers, [epoch.loss for epoch in student.epochs], color=colour, label=student.name)
        if measured:
            heights = [100 * (epoch.top1 or 0.0) for epoch in student.epochs]
            panels[1].plot(numbers, heights, color=colour, label=student.name)
    for panel, title in zip(panels, ("loss (each student's own)", "top-1, %"), strict=False):
        panel.set_title(title, fontsize=9)
        panel.set_xlabel("epoch", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(fontsize=8, frameon=False)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    return drawn.getvalue().partition("<!DOCTYPE")[2].partition(">")[2]
