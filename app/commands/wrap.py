"""`sdb wrap`: from a trained classifier to a bundle that the server loads."""

import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from lightning_fabric import Fabric

from app.commands.output import command_line, report
from app.settings import Settings
from app.state import State, new_demo_secret
from models.backbones import CIFAR
from models.bundles import GuardSpec, InputSpec
from models.key_stream import fingerprint
from models.predictor import choose_device
from models.training.loop import Recipe
from models.training.wrap import Mixture, Plan, wrap
from models.views import MAX_PASSES

commands = typer.Typer()

MEAN, STD = InputSpec.model_fields["mean"].default, InputSpec.model_fields["std"].default
Triple = tuple[float, float, float]
Precision = Literal["auto", "32-true", "bf16-mixed"]


@commands.command()
def command(  # noqa: PLR0917 - typer reads options from parameters
    arch: Annotated[str, typer.Option(help="architecture: cifar_resnet20 or any torchvision classifier")],
    weights: Annotated[Path, typer.Option(help="the teacher's weights, .safetensors", exists=True, dir_okay=False)],
    data: Annotated[Path, typer.Option(help="image folder, or the PATH of PATH_train.parquet")],
    out: Annotated[Path, typer.Option(help="folder of the new bundle")],
    name: Annotated[str | None, typer.Option(help="model name; the folder's name when left out")] = None,
    version: Annotated[str, typer.Option(help="model version")] = "1",
    size: Annotated[int | None, typer.Option(help="input height and width; 32 for CIFAR networks, else 224")] = None,
    mean: Annotated[Triple, typer.Option(help="of the teacher's normalisation; ImageNet's when left out")] = MEAN,
    std: Annotated[Triple, typer.Option(help="its standard deviation")] = STD,
    epochs: Annotated[int, typer.Option(min=1, help="epochs of the box")] = 8,
    learning_rate: Annotated[float, typer.Option(help="peak learning rate of the box")] = 0.02,
    teacher_epochs: Annotated[int, typer.Option(min=0, help="first fine-tune the teacher for so long")] = 0,
    teacher_learning_rate: Annotated[float, typer.Option(help="its peak learning rate")] = 0.05,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    held_out: Annotated[int | None, typer.Option(min=1, help="images held out; a tenth, at most 5000")] = None,
    lam: Annotated[float, typer.Option(help="λ of the key embedding x_κ = λx + (1−λ)κ")] = 0.9,
    temperature: Annotated[float, typer.Option(help="default temperature of the soft labels")] = 4.0,
    passes: Annotated[int, typer.Option(min=1, max=MAX_PASSES, help="keyed passes that an answer averages")] = 2,
    confidence: Annotated[float, typer.Option(min=0.55, max=0.99, help="public probability of the top-1")] = 0.7,
    confidence_levels: Annotated[
        int, typer.Option(min=1, max=64, help="levels of calibrated public confidence; 1 is the constant one")
    ] = 1,
    disturbance: Annotated[float, typer.Option(min=0, help="weight of the un-keyed network's disturbance")] = 0.5,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")] = "auto",
    devices: Annotated[int, typer.Option(min=1, help="GPUs to train on")] = 1,
    precision: Annotated[Precision, typer.Option(help="auto is bf16-mixed on CUDA, 32-true on the CPU")] = "auto",
    work: Annotated[Path | None, typer.Option(help="checkpoints; runs/NAME when left out")] = None,
    demo_secret: Annotated[bool, typer.Option(help="lay a PUBLIC secret beside the bundle, for demos")] = False,
    json_output: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
) -> None:
    """Put a trained classifier into a Safe Distillation Box. Ctrl-C stops; the same command goes on."""
    started = time.monotonic()
    name = name or out.resolve().name
    target = choose_device(device)
    cuda = target.type == "cuda"
    if precision == "auto":
        precision = "bf16-mixed" if cuda else "32-true"
    where = [target.index or 0] if cuda and devices == 1 else devices
    fabric = Fabric(accelerator=target.type, devices=where, precision=precision)
    fabric.launch()
    with fabric.rank_zero_first():
        secret = new_demo_secret(out) if demo_secret else State(Settings.from_environment()).new_model_secret(name)
    side = size or (32 if arch in CIFAR else 224)
    plan = Plan(
        name=name,
        version=version,
        architecture=arch,
        weights=weights,
        data=data,
        input=InputSpec(height=side, width=side, mean=mean, std=std),
        guard=GuardSpec(
            lam=lam,
            temperature=temperature,
            passes=passes,
            confidences=(confidence,),
            secret_fingerprint=fingerprint(secret),
        ),
        recipe=Recipe(epochs, learning_rate, batch_size, seed=seed),
        teacher_recipe=Recipe(teacher_epochs, teacher_learning_rate, batch_size, seed=seed) if teacher_epochs else None,
        held_out=held_out,
        confidence_levels=confidence_levels,
        mixture=Mixture(disturbance=disturbance),
        command=command_line(),
    )
    finished = wrap(plan, secret, out, work or Path("runs") / name, fabric)
    if fabric.is_global_zero:
        report(finished.model_dump(mode="json"), json_output, f"{out} in {time.monotonic() - started:.0f} s")
