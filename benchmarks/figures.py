"""Draws the README's figures: what the shipped box answers whom, and what students learned from it.

The first asks the box, the second reads the protection report in docs/reports.
"""

import json

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.plots import DOCS, drawn
from benchmarks.shipped import shipped

GREY = "#8a8f98"
COLOURS = {"top": "#2a7f62", "public": "#c8553d", "distill": "#5b8db8"}


STUDENTS = (  # group, name, holdings, colour
    ("reference", "alone", "labelled", GREY),
    ("attack", "hard labels", "unlabelled", GREY),
    ("attack", "hard labels, smoothing 0.1", "unlabelled", GREY),
    ("reference", "bare teacher, one label, α = 0.9", "labelled", GREY),
    ("attack", "soft labels, T = 4, α = 1", "unlabelled", COLOURS["public"]),
    ("attack", "soft labels, T = 4, α = 0.9", "labelled", COLOURS["public"]),
    ("attack", "class means", "unlabelled", COLOURS["public"]),
    ("key holder", "key, one label, α = 0.9", "labelled", COLOURS["distill"]),
    ("key holder", "key, 16 views", "labelled", COLOURS["distill"]),
)


def main() -> None:
    """Draw both."""
    tiers()
    students()


def students() -> None:
    """One bar per student of docs/reports/cifar10.json, with its standard error."""
    report = json.loads((DOCS / "reports" / "cifar10.json").read_text())
    rows = [row for row in report["figures"] if row["share"] == 1.0]
    known = {(row["group"], row["name"], row["holdings"]): row for row in rows}
    floor = known["attack", "hard labels", "unlabelled"]["test_top1"]
    told = [f"{group}: {name} ({holdings})" for group, name, holdings, _ in STUDENTS]
    with drawn(DOCS / "figures" / "students.svg", 7, 3) as axes:
        for place, (group, name, holdings, colour) in enumerate(STUDENTS):
            row = known[group, name, holdings]
            value, error = row["test_top1"], row["standard_error"] or 0.0
            axes.barh(place, value, xerr=error, color=colour, error_kw={"lw": 1})
            axes.text(value + error + 0.8, place, f"{value:.1f}", va="center", fontsize=8)
        axes.axvline(floor, color="#333333", lw=0.8, ls="--")
        axes.set_yticks(range(len(STUDENTS)), told)
        axes.tick_params(labelsize=7)
        axes.invert_yaxis()
        axes.set_xlabel("student's top-1 on the test set, % (dashed: hard labels, the floor)", fontsize=8)


def tiers() -> None:
    """One image, and what the box answers the public and a key holder."""
    box = shipped()
    guard, classes = box.manifest.guard, box.manifest.classes
    image = Image.open(DOCS / "example.png").convert("RGB")
    pixels = np.stack([box.fit(image)] * 2)
    logits: Tensor = torch.from_numpy(box(pixels, np.array([False, True])))
    answers = {
        "everybody: right label, false knowledge": ("public", logits[0].softmax(0)),
        f"key holder: soft labels at T = {guard.temperature:g}": (
            "distill",
            (logits[1] / guard.temperature).softmax(0),
        ),
    }
    with drawn(DOCS / "figures" / "tiers.svg", 9, 2.6, ncols=3, width_ratios=[1, 1.5, 1.5]) as (asked, *told):
        asked.imshow(image)
        asked.set_axis_off()
        asked.set_title("POST /v1/models/cifar10/predict", fontsize=7, family="monospace")
        for panel, (title, (tier, probabilities)) in zip(told, answers.items(), strict=True):
            colours = [COLOURS["top" if rank == probabilities.argmax() else tier] for rank in range(len(classes))]
            panel.barh(classes, 100 * probabilities, color=colours)
            panel.invert_yaxis()
            panel.set_xlim(0, 100)
            panel.set_title(title, fontsize=9)
            panel.tick_params(labelsize=8)
            panel.set_xlabel("%", fontsize=8)


if __name__ == "__main__":
    main()
