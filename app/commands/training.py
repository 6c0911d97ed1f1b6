"""Options that several commands have, and what `sdb wrap` and `sdb lock` do alike.

That is: what the new model is called, where its training runs, and whose secret it is for.
"""

import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from lightning_fabric import Fabric

from app.settings import Settings
from app.state import State, new_demo_secret
from models.backbones import CIFAR
from models.bundles import NAME, InputSpec
from models.predictor import choose_device

Precision = Literal["auto", "32-true", "bf16-mixed"]
Triple = tuple[float, float, float]
RGB = "R G B"  # how a Triple is written: three numbers, without commas
MEAN, STD = InputSpec.model_fields["mean"].default, InputSpec.model_fields["std"].default

Data = Annotated[Path, typer.Option(help="image folder, or the PATH of PATH_train.parquet")]
Out = Annotated[Path, typer.Option(help="folder of the new bundle")]
Name = Annotated[str | None, typer.Option(help="model name; the folder's name when left out")]
Version = Annotated[str, typer.Option(help="model version")]
Size = Annotated[int | None, typer.Option(help="input height and width; 32 for CIFAR networks, else 224")]
HeldOut = Annotated[int | None, typer.Option(min=1, help="images held out; a tenth, at most 5000")]
Temperature = Annotated[float, typer.Option(help="default temperature of the soft labels")]
Confidence = Annotated[float, typer.Option(min=0.55, max=0.99, help="public probability of the top-1")]
Seed = Annotated[int, typer.Option(min=0)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N")]
Devices = Annotated[int, typer.Option(min=1, help="GPUs to train on")]
Precisions = Annotated[Precision, typer.Option(help="auto is bf16-mixed on CUDA, 32-true on the CPU")]
Work = Annotated[Path | None, typer.Option(help="checkpoints; runs/NAME when left out")]
DemoSecret = Annotated[bool, typer.Option(help="lay a PUBLIC secret beside the bundle, for demos")]
Json = Annotated[bool, typer.Option("--json", help="print the manifest as JSON")]


def launched(device: str, devices: int, precision: Precision) -> Fabric:
    """The processes of a training, running.

    Raises:
        DeviceError: the device does not exist here.
    """
    target = choose_device(device)
    cuda = target.type == "cuda"
    if precision == "auto":
        precision = "bf16-mixed" if cuda else "32-true"
    where = [target.index or 0] if cuda and devices == 1 else devices
    fabric = Fabric(accelerator=target.type, devices=where, precision=precision)
    fabric.launch()
    return fabric


def named(name: str | None, out: Path) -> str:
    """The name of the model to be made: `name`, or that of its folder.

    Raises:
        typer.BadParameter: a bundle cannot be called so, which is better known before the training than after it.
    """
    found = name or out.resolve().name
    if not re.fullmatch(NAME, found):
        raise typer.BadParameter(f"{found!r}: small letters, digits, `.`, `_` and `-`, 64 at most", param_hint="--name")
    return found


def own_secret(fabric: Fabric, name: str, out: Path, demo: bool) -> bytes:
    """The secret of the model to be made: the one in the state folder, or a public one beside the bundle."""
    with fabric.rank_zero_first():
        return new_demo_secret(out) if demo else State(Settings.from_environment()).new_model_secret(name)


def side(architecture: str, size: int | None) -> int:
    """Height and width of the input: `size`, or what the architecture is usual with."""
    return size or (32 if architecture in CIFAR else 224)
