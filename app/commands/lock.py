"""`sdb lock`: from pre-trained weights to a bundle that answers right to images transformed with a secret key only."""

import time
from pathlib import Path
from typing import Annotated

import typer

from app.commands import training
from app.commands.output import command_line, report
from models.backbones import takes_stem
from models.bundles import GuardSpec, InputSpec, LockSpec
from models.key_stream import fingerprint
from models.stem import STEPS as STEM_STEPS
from models.training.lock import Plan, lock
from models.training.loop import Recipe
from models.training.match import match
from models.training.refusal import Refusal

commands = typer.Typer()

IMAGENET = InputSpec(height=224, width=224)
HALF = (0.5, 0.5, 0.5)  # one number for all channels: a transform mixes them


@commands.command()
def command(  # noqa: PLR0917 - typer reads options from parameters
    arch: Annotated[str, typer.Option(help="architecture: cifar_resnet20 or any torchvision classifier")],
    weights: Annotated[Path, typer.Option(help="pre-trained weights, .safetensors", exists=True, dir_okay=False)],
    data: training.Data,
    out: training.Out,
    transform: Annotated[
        str, typer.Option(help="steps joined by +, in order: shf, np, ffx, scramble, shf-each, np-each")
    ] = "shf+np",
    block: Annotated[int, typer.Option(help="height and width of the blocks: 2, 4, 8 or 16")] = 4,
    match_weights: Annotated[
        bool, typer.Option("--match", help="train nothing: match the weights of a vision transformer to the key")
    ] = False,
    stem: Annotated[
        bool | None,
        typer.Option(
            help="undo the key before the network, and refuse what goes around; left out, wherever that works"
        ),
    ] = None,
    name: training.Name = None,
    version: training.Version = "1",
    size: training.Size = None,
    mean: Annotated[
        training.Triple | None,
        typer.Option(
            metavar=training.RGB, help="with --match or a stem: of the plain model's normalisation, else ImageNet's"
        ),
    ] = None,
    std: Annotated[
        training.Triple | None,
        typer.Option(metavar=training.RGB, help="with --match or a stem: its standard deviation"),
    ] = None,
    subset: Annotated[float, typer.Option(min=0.001, max=1, help="share of the training images that is read")] = 1.0,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="epochs of fine-tuning; 20 with a stem, or more where images are few and no --batch-size is said, "
            "else 10",
        ),
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="its peak learning rate; 0.01 with a stem, else 0.05")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=2, help="128; with a stem and few images down to 32, unless --epochs is said")
    ] = None,
    held_out: training.HeldOut = None,
    negatives: Annotated[
        float, typer.Option(min=0, max=1, help="rows with a wrong key, for each row with the right one")
    ] = Refusal().share,
    compare: Annotated[
        bool,
        typer.Option(help="fine-tune without transform too, and state its accuracy; with a stem that is done anyway"),
    ] = False,
    wrong_keys: Annotated[int, typer.Option(min=1, help="wrong keys that the test images are transformed with")] = 10,
    temperature: training.Temperature = 4.0,
    confidence: training.Confidence = 0.7,
    seed: training.Seed = 0,
    device: training.Device = "auto",
    devices: training.Devices = 1,
    precision: training.Precisions = "auto",
    work: training.Work = None,
    demo_secret: training.DemoSecret = False,
    json_output: training.Json = False,
) -> None:
    """Lock a classifier with a secret key. Ctrl-C stops; the same command goes on."""
    started = time.monotonic()
    if match_weights and stem:
        raise typer.BadParameter("--match trains nothing: no stem goes with it")
    steps = tuple(transform.split("+"))
    undone = set(steps) <= set(STEM_STEPS)
    if stem and not undone:
        raise typer.BadParameter(f"a stem can undo the steps {', '.join(STEM_STEPS)} only")
    if stem is None:
        stem = undone and not match_weights and takes_stem(arch)
    if not (match_weights or stem) and (mean or std):
        raise typer.BadParameter("--mean and --std go with --match or a stem: otherwise all channels are alike")
    name = training.named(name, out)
    side = training.side(arch, size)
    shape = {"height": side, "width": side}
    plain = InputSpec(**shape, mean=mean or IMAGENET.mean, std=std or IMAGENET.std)
    spec = plain if match_weights else InputSpec(**shape, mean=HALF, std=HALF)
    lock_spec = LockSpec(steps=steps, block=block, method="matched" if match_weights else "trained")
    fabric = training.launched(device, devices, precision)
    secret = training.own_secret(fabric, name, out, demo_secret)
    guard = GuardSpec(
        kind="lock",
        lam=1.0,
        passes=1,
        temperature=temperature,
        confidences=(confidence,),
        secret_fingerprint=fingerprint(secret),
    )
    plan = Plan(
        name=name,
        version=version,
        architecture=arch,
        weights=weights,
        data=data,
        input=spec,
        guard=guard,
        lock=lock_spec,
        recipe=Recipe(
            (20 if stem else 10) if epochs is None else epochs,
            (0.01 if stem else 0.05) if learning_rate is None else learning_rate,
            128 if batch_size is None else batch_size,
            seed=seed,
        ),
        held_out=held_out,
        command=command_line(),
        subset=subset,
        refusal=Refusal(share=negatives),
        wrong_keys=wrong_keys,
        compare=compare,
        plain_input=plain if stem else None,
        stretched=stem and epochs is None and batch_size is None,
    )
    if match_weights:
        finished = match(plan, secret, out, fabric)
    else:
        finished = lock(plan, secret, out, work or Path("runs") / name, fabric)
    if fabric.is_global_zero:
        report(finished.model_dump(mode="json"), json_output, f"{out} in {time.monotonic() - started:.0f} s")
