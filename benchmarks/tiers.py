"""Draws docs/figures/tiers.svg: one image, and what the shipped box answers the public and a key holder."""

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

DOCS = Path(__file__).parent.parent / "docs"
COLOURS = {"top": "#2a7f62", "public": "#c8553d", "distill": "#5b8db8"}


def main() -> None:
    """Ask the box and draw."""
    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "sdb"
    folder = ZOO / "cifar10"
    secret = parse_secret((folder / DEMO_SECRET).read_text(), "demo")
    box = Predictor(folder, secret, torch.device("cpu"))
    guard, classes = box.manifest.guard, box.manifest.classes
    image = Image.open(DOCS / "example.png").convert("RGB")
    pixels = np.stack([box.fit(image)] * 2)
    logits: Tensor = torch.from_numpy(box(pixels, np.array([False, True]), np.full(2, guard.views)))
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
