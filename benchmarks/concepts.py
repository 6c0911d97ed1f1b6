"""Draws the figures of docs/concepts.md: what everybody, key holders, holders of a lock's key and the network see.

Real answers of the shipped box and of a locked model to real images. Knows no HTTP; a server answers so.
"""

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image
from sdb_client.sealed import seal
from sdb_client.transforms import Transform

from app.settings import Settings
from app.state import State
from benchmarks.figures import COLOURS
from benchmarks.plots import DOCS, drawn
from benchmarks.shipped import shipped
from models.bundles import load_manifest
from models.data import load, pixels_of
from models.lock import lock_transform
from models.predictor import Predictor

SHOWN = (3, 5, 8)  # classes whose first test image is shown: cat, dog and ship
SECRET, KID, BLOCK = bytes(range(32)), "picture", 4
WRONG = "#a23b3b"
Picture = NDArray[np.uint8]
Bars = NDArray[np.float32]


@dataclass(frozen=True)
class Panel:
    """One cell: a picture, or probabilities of whose tier (`shown` of the classes' number)."""

    title: str
    shown: Picture | Bars
    colour: str = COLOURS["public"]
    label: int | None = None


def main() -> None:
    """Draw all of them."""
    given = arguments()
    name = load_manifest(given.locked).name
    secret, _ = State(Settings(state_dir=given.state)).model_secret(name, given.locked)
    box, locked = shipped(), Predictor(given.locked, secret, torch.device("cpu"))
    images = load(given.data, "test", 32, 32)
    first = [int((images.labels == label).nonzero()[0]) for label in SHOWN]
    pictures = pixels_of(images.images[first])
    draw("public", public(box, pictures[0]), box.manifest.classes)
    draw("authorised", authorised(box, pictures), box.manifest.classes)
    draw("locked", unlocked(locked, secret, pictures), box.manifest.classes)
    draw("encrypted", [encrypted(picture) for picture in pictures[:2]], ())


def arguments() -> argparse.Namespace:
    """What to draw from."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--data", type=Path, required=True, help="the PATH of PATH_test.parquet of CIFAR-10, or a folder"
    )
    parser.add_argument("--locked", type=Path, required=True, help="a bundle of `sdb lock`, for the same classes")
    parser.add_argument("--state", type=Path, default=Path("var"), help="state folder with the locked model's secret")
    return parser.parse_args()


def answers(
    model: Predictor, pictures: Picture, *, keyed: bool, unlocked: bool = False, temperature: float = 1.0
) -> Bars:
    """Probabilities [N, K] as a caller with these rights gets them."""
    count = len(pictures)
    logits = torch.from_numpy(model(pictures, np.full(count, keyed), np.full(count, unlocked)))
    probabilities: Bars = (logits / temperature).softmax(1).numpy()
    return probabilities


def public(box: Predictor, picture: Picture) -> list[list[Panel]]:
    """One image, its mirror and a brighter copy: false peaks follow the picture, so alike ones share them."""
    brighter = np.clip(picture.astype(np.int16) + 12, 0, 255).astype(np.uint8)
    alike = np.stack([picture, picture[:, ::-1], brighter])
    said = answers(box, alike, keyed=False)
    names = ("the image", "its mirror", "a little brighter")
    return [
        [Panel(name, shown) for name, shown in zip(names, alike, strict=True)],
        [Panel("everybody", row) for row in said],
    ]


def authorised(box: Predictor, pictures: Picture) -> list[list[Panel]]:
    """The same images as everybody and as a key holder sees them."""
    temperature = box.manifest.guard.temperature
    everybody = answers(box, pictures, keyed=False)
    holder = answers(box, pictures, keyed=True, temperature=temperature)
    return [
        [
            Panel("the image", picture),
            Panel("everybody", false),
            Panel(f"key holder, T = {temperature:g}", soft, COLOURS["distill"]),
        ]
        for picture, false, soft in zip(pictures, everybody, holder, strict=True)
    ]


def unlocked(model: Predictor, secret: bytes, pictures: Picture) -> list[list[Panel]]:
    """A locked model asked plainly, with a wrong key, and with the right to unlock."""
    lock = model.manifest.lock
    assert lock is not None, "not a locked model"
    right = lock_transform(secret, model.manifest.name, lock.steps, lock.block)
    wrong = lock_transform(SECRET, model.manifest.name, lock.steps, lock.block)
    seen, guessed = right.apply(pictures), wrong.apply(pictures)
    ways = (
        answers(model, pictures, keyed=False),
        answers(model, guessed, keyed=False),
        answers(model, pictures, keyed=False, unlocked=True),
    )
    titles = ("anybody", "with a wrong key", "with the right to unlock")
    return [
        [
            Panel("the image", pictures[row]),
            Panel("as the network takes it", seen[row]),
            *(Panel(title, said[row], label=SHOWN[row]) for title, said in zip(titles, ways, strict=True)),
        ]
        for row in range(len(pictures))
    ]


def encrypted(picture: Picture) -> list[Panel]:
    """An image, what a network sees of it when it is sealed, and what when its pixels are transformed."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    envelope = np.frombuffer(seal(file.getvalue(), SECRET, kid=KID, model="cifar10", now=0), np.uint8)
    side = int((len(envelope) // 3) ** 0.5)
    noise = envelope[-3 * side * side :].reshape(side, side, 3)
    transformed = [Panel(f"pixel, {step}", transform(step).apply(picture)) for step in ("shf", "np")]
    return [Panel("the image", picture), Panel("sealed: its bytes", noise), *transformed]


def transform(step: str) -> Transform:
    """One of the `pixel` schemes."""
    return Transform.from_secret(SECRET, kid=KID, model="cifar10", steps=[step], block=BLOCK)


def draw(name: str, rows: list[list[Panel]], classes: tuple[str, ...]) -> None:
    """Write docs/figures/NAME.svg."""
    high, wide = len(rows), len(rows[0])
    path = DOCS / "figures" / f"{name}.svg"
    with drawn(path, 2.3 * wide, 1.9 * high, nrows=high, ncols=wide, squeeze=False) as grid:
        for row, panels in zip(grid, rows, strict=True):
            for axes, panel in zip(row, panels, strict=True):
                axes.set_title(panel.title, fontsize=9)
                if panel.shown.ndim == 3:
                    axes.imshow(panel.shown)
                    axes.set_axis_off()
                else:
                    bars(axes, panel, classes)


def bars(axes: Axes, panel: Panel, classes: tuple[str, ...]) -> None:
    """Probabilities in percent, the top-1 in a colour of its own; red if it is not the label."""
    best = int(panel.shown.argmax())
    colours = [panel.colour] * len(classes)
    colours[best] = COLOURS["top"] if panel.label in {None, best} else WRONG
    axes.barh(classes, 100 * panel.shown, color=colours)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.tick_params(labelsize=7)


if __name__ == "__main__":
    main()
