"""`sdb watch`: what the extraction watch takes for usual, measured on the owner's own images."""

from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from torch import Tensor

from app.commands.output import command_line, report
from app.settings import Settings
from app.state import State
from models import bundles
from models.bundles import write_atomically
from models.data import load
from models.engines.engine import Logits
from models.predictor import Predictor, choose_device
from models.training.watch import FEWEST_IMAGES
from models.training.watch import calibrate as calibrated
from models.watch import FILE, WatchError

commands = typer.Typer(no_args_is_help=True, help="Teach the extraction watch what a model's customers send.")
BATCH = 32


@commands.callback()
def root() -> None:
    """Teach the extraction watch what a model's customers send."""


@commands.command()
def calibrate(  # noqa: PLR0917 - typer reads options from parameters
    model: Annotated[str, typer.Option(help="name of a model in SDB_MODELS_DIR, or the folder of its bundle")],
    data: Annotated[
        Path, typer.Option(help="images as customers send them: image folder, or PATH of PATH_test.parquet")
    ],
    split: Annotated[
        Literal["train", "test"], typer.Option(help="which images of it: those that the model was not trained on")
    ] = "test",
    most: Annotated[int, typer.Option("--images", min=FEWEST_IMAGES, help="use no more than so many of them")] = 4000,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Write `watch.json` into the model's bundle: how sure it is of your images, and when a caller is suspected."""
    settings, folder = Settings.from_environment(), Path(model)
    if not (folder / bundles.MANIFEST).is_file():
        folder = settings.models_dir / model
    manifest = bundles.load_manifest(folder)
    secret, _ = State(settings).model_secret(manifest.name, folder)
    predictor = Predictor(folder, secret, choose_device(device))
    images = load(data, split, manifest.input.height, manifest.input.width)
    if images.classes != manifest.classes:
        raise WatchError(f"{data} has other classes than the model")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images = images.subset(order[:most])

    weights = manifest.sha256[bundles.WEIGHTS]
    reference = calibrated(partial(_asked, predictor), images, weights, command=command_line(), seed=seed)
    try:
        write_atomically(folder / FILE, (reference.model_dump_json() + "\n").encode())
    except OSError as error:
        raise WatchError(f"{folder / FILE} cannot be written: {error.strerror}") from None
    figures = {"allowance": reference.allowance, "threshold": reference.threshold, **reference.provenance}
    report(figures, json_output, f"{folder / FILE}")


def _asked(predictor: Predictor, shown: Tensor) -> Logits:
    """Undisturbed logits float32 [N, K] of images uint8 [N, 3, H, W], as whoever may unlock the model gets them."""
    parts = [np.ascontiguousarray(part.permute(0, 2, 3, 1).numpy()) for part in torch.split(shown, BATCH)]
    return np.concatenate([predictor(part, *[np.ones(len(part), np.bool_)] * 2) for part in parts])
