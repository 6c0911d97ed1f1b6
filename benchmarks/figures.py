"""Draws the README's figures: what the shipped box answers whom, and what students learned from it.

The first asks the box, the second reads the protection report in docs/reports.
"""

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from matplotlib import pyplot as plt
from PIL import Image
from torch import Tensor

from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models.predictor import Predictor

GREY = "#8a8f98"
DOCS = Path(__file__).parent.parent / "docs"
COLOURS = {"top": "#2a7f62", "public": "#c8553d", "distill": "#5b8db8"}


STUDENTS = (  # group, name, holdings, colour
    ("reference", "alone", "labelled", GREY),
    ("attack", "hard labels", "unlabelled", GREY),
    ("attack", "hard labels, softened", "unlabelled", GREY),
    ("reference", "bare teacher, one label, α = 0.9", "labelled", GREY),
    ("attack", "soft labels, T = 4, α = 1", "unlabelled", COLOURS["public"]),
    ("attack", "soft labels, T = 4, α = 0.9", "labelled", COLOURS["public"]),
    ("attack", "ridge regression", "unlabelled", COLOURS["public"]),
    ("attack", "class means", "unlabelled", COLOURS["public"]),
    ("key holder", "key, one label, α = 0.9", "labelled", COLOURS["distill"]),
    ("key holder", "key, 16 views", "labelled", COLOURS["distill"]),
)


def main() -> None:
    """Draw both."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sdb"
    tiers()
    students()


def students() -> None:
    """One bar per student of docs/reports/cifar10.json, with its standard error."""
    report = json.loads((DOCS / "reports" / "cifar10.json").read_text())
    known = {(row["group"], row["name"], row["holdings"]): row for row in report["figures"] if row["share"] == 1.0}
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for place, (group, name, holdings, colour) in enumerate(STUDENTS):
        row = known[group, name, holdings]
        value, error = row["test_top1"], row["standard_error"] or 0.0
        axes.barh(place, value, xerr=error, color=colour, error_kw={"lw": 1})
        axes.text(value + error + 0.8, place, f"{value:.1f}", va="center", fontsize=8)
    floor = known["attack", "hard labels", "unlabelled"]["test_top1"]
    axes.axvline(floor, color="#333333", lw=0.8, ls="--")
    axes.set_yticks(range(len(STUDENTS)), [f"{group}: {name} ({holdings})" for group, name, holdings, _ in STUDENTS])
    axes.tick_params(labelsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("student's top-1 on the test set, % (dashed: hard labels, the floor)", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "figures" / "students.svg", metadata={"Date": None})


def tiers() -> None:
    """One image, and what the box answers the public and a key holder."""
    folder = ZOO / "cifar10"
    secret = parse_secret((folder / DEMO_SECRET).read_text(), "demo")
    box = Predictor(folder, secret, torch.device("cpu"))
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
    figure, axes = plt.subplots(1, 3, figsize=(9, 2.6), layout="constrained", width_ratios=[1, 1.5, 1.5])
    axes[0].imshow(image)
    axes[0].set_axis_off()
    axes[0].set_title("POST /v1/models/cifar10/predict", fontsize=7, family="monospace")
    for panel, (title, (tier, probabilities)) in zip(axes[1:], answers.items(), strict=True):
        colours = [COLOURS["top" if rank == probabilities.argmax() else tier] for rank in range(len(classes))]
        panel.barh(classes, 100 * probabilities, color=colours)
        panel.invert_yaxis()
        panel.set_xlim(0, 100)
        panel.set_title(title, fontsize=9)
        panel.tick_params(labelsize=8)
        panel.set_xlabel("%", fontsize=8)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "figures" / "tiers.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
