"""`sdb wrap`: from a trained classifier, or a locked bundle, to a bundle with a Safe Distillation Box."""

import time
from pathlib import Path
from typing import Annotated

import typer

from app.commands import training
from app.commands.output import command_line, report
from app.settings import Settings
from app.state import DEMO_SECRET, State
from keys.material import to_text, write_private
from models import bundles
from models.bundles import GuardSpec, InputSpec, Manifest
from models.key_stream import fingerprint
from models.training.loop import Recipe
from models.training.wrap import Mixture, Plan, wrap
from models.views import MAX_PASSES

commands = typer.Typer()


@commands.command()
def command(  # noqa: PLR0917 - typer reads options from parameters
    data: training.Data,
    out: training.Out,
    arch: Annotated[str | None, typer.Option(help="architecture: cifar_resnet20 or any torchvision classifier")] = None,
    weights: Annotated[
        Path | None, typer.Option(help="the teacher's weights, .safetensors", exists=True, dir_okay=False)
    ] = None,
    locked: Annotated[
        Path | None, typer.Option(help="instead of both: a locked bundle, which is boxed as it is", file_okay=False)
    ] = None,
    backbone: Annotated[
        Path | None,
        typer.Option(help="with --locked: the public weights that the lock began from", exists=True, dir_okay=False),
    ] = None,
    name: training.Name = None,
    version: training.Version = "1",
    size: training.Size = None,
    mean: Annotated[
        training.Triple,
        typer.Option(metavar=training.RGB, help="of the teacher's normalisation; ImageNet's when left out"),
    ] = training.MEAN,
    std: Annotated[training.Triple, typer.Option(metavar=training.RGB, help="its standard deviation")] = training.STD,
    epochs: Annotated[int, typer.Option(min=1, help="epochs of the box")] = 8,
    learning_rate: Annotated[float, typer.Option(help="peak learning rate of the box")] = 0.02,
    teacher_epochs: Annotated[
        int, typer.Option(min=0, help="first fine-tune the teacher for so long, with a new head for other classes")
    ] = 0,
    teacher_learning_rate: Annotated[float, typer.Option(help="its peak learning rate")] = 0.05,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    held_out: training.HeldOut = None,
    lam: Annotated[float, typer.Option(min=0.01, max=0.99, help="λ of the key embedding x_κ = λx + (1−λ)κ")] = 0.9,
    temperature: training.Temperature = 4.0,
    passes: Annotated[
        int | None, typer.Option(min=1, max=MAX_PASSES, help="keyed passes that an answer averages; 2, with a lock 1")
    ] = None,
    confidence: training.Confidence = 0.7,
    confidence_levels: Annotated[
        int, typer.Option(min=1, max=64, help="levels of calibrated public confidence; 1 is the constant one")
    ] = 1,
    disturbance: Annotated[float, typer.Option(min=0, help="weight of the un-keyed network's disturbance")] = 0.3,
    seed: training.Seed = 0,
    device: training.Device = "auto",
    devices: training.Devices = 1,
    precision: training.Precisions = "auto",
    work: training.Work = None,
    demo_secret: training.DemoSecret = False,
    json_output: training.Json = False,
) -> None:
    """Put a trained classifier into a Safe Distillation Box. Ctrl-C stops; the same command goes on."""
    started = time.monotonic()
    if locked is not None:
        if arch or weights or name or demo_secret or teacher_epochs:
            raise typer.BadParameter(
                "--locked brings its architecture, weights, name and secret, and trains no teacher"
            )
        teacher = _locked(locked)
        arch, weights, name, spec = teacher.architecture, locked / bundles.WEIGHTS, teacher.name, teacher.input
    elif arch is None or weights is None:
        raise typer.BadParameter("--arch and --weights are needed, or --locked")
    elif backbone is not None:
        raise typer.BadParameter("--backbone goes with --locked")
    else:
        height = training.side(arch, size)
        spec, teacher = InputSpec(height=height, width=height, mean=mean, std=std), None
        name = training.named(name, out)
    fabric = training.launched(device, devices, precision)
    if locked is None:
        secret = training.own_secret(fabric, name, out, demo_secret)
    else:
        with fabric.rank_zero_first():
            secret = _carried(name, locked, out)
    plan = Plan(
        name=name,
        version=version,
        architecture=arch,
        weights=weights,
        data=data,
        input=spec,
        guard=GuardSpec(
            lam=lam,
            temperature=temperature,
            passes=passes or (2 if teacher is None else 1),
            confidences=(confidence,),
            own_normalisation=True,
            secret_fingerprint=fingerprint(secret),
        ),
        recipe=Recipe(epochs, learning_rate, batch_size, seed=seed),
        teacher_recipe=Recipe(teacher_epochs, teacher_learning_rate, batch_size, seed=seed) if teacher_epochs else None,
        held_out=held_out,
        confidence_levels=confidence_levels,
        mixture=Mixture(disturbance=disturbance),
        command=command_line(),
        lock=None if teacher is None else teacher.lock,
        plain_input=None if teacher is None else teacher.plain_input,
        public=backbone,
    )
    finished = wrap(plan, secret, out, work or Path("runs") / name, fabric)
    if fabric.is_global_zero:
        report(finished.model_dump(mode="json"), json_output, f"{out} in {time.monotonic() - started:.0f} s")


def _locked(folder: Path) -> Manifest:
    """The manifest of a bundle that has a lock and no box yet."""
    manifest, _ = bundles.load(folder)
    if manifest.guards != ("lock",):
        raise typer.BadParameter(f"--locked: {folder} is no bundle made by `sdb lock`")
    return manifest


def _carried(name: str, locked: Path, out: Path) -> bytes:
    """The secret of the locked bundle; a public one is laid beside the new bundle too."""
    secret, public = State(Settings.from_environment()).model_secret(name, locked)
    if public and not (out / DEMO_SECRET).exists():
        write_private(out / DEMO_SECRET, (to_text(secret) + "\n").encode())
    return secret
