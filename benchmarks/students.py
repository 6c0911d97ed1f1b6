"""A first look at what students learn: alone, from hard labels, from the bare teacher and from the box's two tiers.

One architecture, one seed, CPU-sized. Every arm sees the same images, crops, schedule and seed; soft labels are asked
for once per image, from the box through `Predictor`, the door that the server uses. The last epoch counts.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from lightning_fabric import Fabric
from matplotlib import pyplot as plt
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from app.settings import ZOO
from app.state import DEMO_SECRET
from benchmarks.environment import RESULTS, environment
from keys.material import parse_secret
from models.backbones import Classifier, build
from models.data import LabelledImages, load
from models.metrics import top1
from models.predictor import Predictor
from models.training.loop import Recipe, predict
from models.training.student import distil

CPU = torch.device("cpu")
FIGURES = Path(__file__).parent.parent / "docs" / "figures"


@dataclass(frozen=True)
class Row:
    """One student's result."""

    student: str
    test_top1: float
    seconds: int


@dataclass(frozen=True)
class Arm:
    """One student: its soft labels (logits [N, K]), their temperature, and how much of its loss they are."""

    name: str
    soft: Tensor
    temperature: float
    alpha: float


def main() -> None:
    """Train every arm, print a table and write results/students.json and docs/figures/students.svg."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="PATH of PATH_train.parquet")
    parser.add_argument("--teacher", type=Path, required=True, help="the bare teacher, RUN/teacher.safetensors")
    parser.add_argument("--student", default="cifar_resnet8")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--temperature", type=float, default=4.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    box = Predictor(ZOO / "cifar10", parse_secret((ZOO / "cifar10" / DEMO_SECRET).read_text(), "demo"), CPU)
    spec = box.manifest.input
    _, chosen = load(arguments.data, "train", spec.height, spec.width).split(arguments.images, arguments.seed)
    test = load(arguments.data, "test", spec.height, spec.width)
    classes = len(chosen.classes)
    backbone = build(box.manifest.architecture, classes)
    backbone.load_state_dict(load_file(arguments.teacher))
    bare = predict(Classifier(backbone, spec.mean, spec.std).eval(), chosen.images, CPU)
    unkeyed, keyed = (_ask(box, chosen, keyed=tier) for tier in (False, True))
    hard = F.one_hot(unkeyed.argmax(1), classes).float() * 1e4  # softmax of it is the top-1 alone
    sources = {"bare teacher": bare, "un-keyed box": unkeyed, "keyed box": keyed}
    arms = [
        Arm("alone: true labels", bare, 1.0, 0.0),
        Arm("hard: the box's top-1 only", hard, 1.0, 1.0),
        *(
            Arm(f"{name}, α = {alpha}", soft, arguments.temperature, alpha)
            for name, soft in sources.items()
            for alpha in (1.0, 0.9)
        ),
    ]
    rows: list[Row] = []
    for arm in arms:
        started = time.monotonic()
        torch.manual_seed(arguments.seed)
        student = distil(
            Fabric(accelerator="cpu", devices=1),
            Classifier(build(arguments.student, classes), spec.mean, spec.std),
            chosen,
            arm.soft,
            Recipe(arguments.epochs, 0.1, seed=arguments.seed),
            temperature=arm.temperature,
            alpha=arm.alpha,
            title=arm.name,
        )
        accuracy = top1(predict(student, test.images, CPU), test.labels)
        rows.append(Row(arm.name, round(accuracy, 4), round(time.monotonic() - started)))
        print(f"{arm.name:28s} {accuracy:.4f}", flush=True)
    RESULTS.mkdir(exist_ok=True)
    document = {"environment": environment("benchmarks.students"), "students": [asdict(row) for row in rows]}
    (RESULTS / "students.json").write_text(json.dumps(document, indent=2) + "\n")
    _plot(rows, floor=rows[1].test_top1, standard_error=(0.2 / len(test)) ** 0.5)


def _ask(box: Predictor, data: LabelledImages, keyed: bool) -> Tensor:
    """The box's logits [N, K] for every image of `data`, one query each."""
    answers = []
    for chunk in torch.split(data.images, 500):
        pixels = np.ascontiguousarray(chunk.permute(0, 2, 3, 1).numpy())
        views = np.full(len(pixels), box.manifest.guard.views)
        answers.append(torch.from_numpy(box(pixels, np.full(len(pixels), keyed), views)))
    return torch.cat(answers)


def _plot(rows: list[Row], floor: float, standard_error: float) -> None:
    mpl.use("svg")
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for place, row in enumerate(rows):
        colour = {"un-keyed": "#c8553d", "keyed": "#2a7f62"}.get(row.student.partition(" ")[0], "#8a8f98")
        axes.barh(row.student, 100 * row.test_top1, color=colour, xerr=100 * standard_error, error_kw={"lw": 1})
        axes.text(100 * row.test_top1 + 1.2, place, f"{100 * row.test_top1:.1f}", va="center", fontsize=8)
    axes.axvline(100 * floor, color="#333333", lw=0.8, ls="--")
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("student's top-1 on the test set, % (dashed: hard labels, the floor)")
    axes.spines[["top", "right"]].set_visible(False)
    FIGURES.mkdir(parents=True, exist_ok=True)
    figure.savefig(FIGURES / "students.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
