"""`sdb watch`: what the extraction watch takes for usual, measured on the owner's own images."""

import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from app.commands import training
from app.commands.output import command_line, report
from app.commands.own_models import find_or_folder, opened
from app.settings import Settings
from models import bundles
from models.attacks.oracle import TierOracle
from models.data import check_same_classes, load
from models.predictor import choose_device
from models.training.watch import FEWEST_IMAGES
from models.training.watch import calibrate as calibrated
from models.watch import FILE

commands = typer.Typer(no_args_is_help=True, help="Teach the extraction watch what a model's customers send.")


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
    seed: training.Seed = 0,
    device: training.Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="print the figures as JSON")] = False,
) -> None:
    """Write `watch.json` into the model's bundle: how sure it is of your images, and when a caller is suspected."""
    settings = Settings.from_environment()
    folder = find_or_folder(settings, model)
    predictor, _ = opened(settings, folder, choose_device(device))
    manifest = predictor.manifest
    images = load(data, split, manifest.input.height, manifest.input.width)
    check_same_classes(data, images.classes, manifest.classes)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    images = images.subset(order[:most])

    weights = manifest.sha256[bundles.WEIGHTS]
    owner = TierOracle(predictor, keyed=True)
    reference = calibrated(lambda shown: owner.query(shown).numpy(), images, weights, command=command_line(), seed=seed)
    reference.save(folder)
    if (folder / bundles.SIGNATURES).exists():
        sys.stderr.write(f"{folder / bundles.MANIFEST} has changed: sign it again with `sdb models sign`\n")
    figures = {"allowance": reference.allowance, "threshold": reference.threshold, **reference.provenance}
    report(figures, json_output, f"{folder / FILE}")
