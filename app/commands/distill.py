"""`sdb distill`: trains a student on what a running server says of images, as any partner could."""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from sdb_client import Client, ModelCard
from sdb_client.distillation.distill import distill, save_weights
from sdb_client.distillation.recipe import Recipe
from sdb_client.soft_labels import BudgetSpent, SoftLabels
from torch.utils.data import DataLoader, TensorDataset

from app.commands import credential, training
from app.commands.output import report
from app.commands.progress import bar
from models import backbones
from models.data import LabelledImages, check_classes, check_same_classes, load
from models.predictor import choose_device
from models.training.loop import Interrupted

commands = typer.Typer()
BACKBONE = "backbone.safetensors"  # the student without its normalisation, as `sdb wrap --weights` reads it


@commands.command()
def command(  # noqa: PLR0917 - typer reads options from parameters
    model: Annotated[str, typer.Option(help="name of the model on the server")],
    data: Annotated[Path, typer.Option(help="image folder, or the PATH of PATH_train.parquet; its classes in order")],
    out: Annotated[Path, typer.Option(help="folder of student, report and checkpoints", file_okay=False)],
    url: Annotated[str | None, typer.Option(help="the server; SDB_BASE_URL, or this machine's")] = None,
    token: Annotated[
        Path | None, typer.Option(help="file with an API key of scope distill; - is standard input; or SDB_API_KEY")
    ] = None,
    arch: Annotated[str, typer.Option(help="the student: mobilenet_v2, cifar_resnet20, any torchvision one")] = (
        "mobilenet_v2"
    ),
    images: Annotated[int | None, typer.Option(min=2, help="only so many training images, at random")] = None,
    views: Annotated[int, typer.Option(min=1, max=16, help="views of each image, charged like images")] = 1,
    store: Annotated[str, typer.Option(help="float32, float16, or top16 and the like")] = "float32",
    cache: Annotated[
        Path | None, typer.Option(help="folder of soft labels; OUT/labels when left out", file_okay=False)
    ] = None,
    estimate: Annotated[bool, typer.Option("--estimate", help="only say what it would cost")] = False,
    partial: Annotated[bool, typer.Option("--partial", help="go on with what a spent budget has paid for")] = False,
    epochs: Annotated[int, typer.Option(min=1)] = Recipe.epochs,
    batch_size: Annotated[int, typer.Option(min=2)] = 128,
    learning_rate: Annotated[float, typer.Option(help="peak learning rate")] = Recipe.learning_rate,
    temperature: Annotated[float, typer.Option(help="of the distillation", min=0.01)] = Recipe.temperature,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="weight of the soft labels against the labels")] = (
        Recipe.alpha
    ),
    alone: Annotated[bool, typer.Option(help="also train the student without soft labels, to compare")] = True,
    mean: Annotated[
        training.Triple, typer.Option(metavar=training.RGB, help="of the student's normalisation")
    ] = training.MEAN,
    std: Annotated[training.Triple, typer.Option(metavar=training.RGB, help="its standard deviation")] = training.STD,
    seed: training.Seed = 0,
    device: training.Device = "auto",
    json_output: Annotated[bool, typer.Option("--json", help="print the report as JSON")] = False,
) -> None:
    """Train a student through the HTTP API. Ctrl-C stops; the same command goes on, and pays for no image twice."""
    started, target = time.monotonic(), choose_device(device)
    if arch not in backbones.architectures():
        raise typer.BadParameter(f"one of {', '.join(backbones.architectures())}", param_hint="--arch")
    with Client(credential.read(token), url) as client:
        card = client.models.get(model)
        shown, tested = _images(data, card, images, seed)
        labels = SoftLabels(
            TensorDataset(shown.images, shown.labels),
            client,
            model=model,
            cache=cache or out / "labels",
            temperature=temperature if store.startswith("top") else None,
            views=views,
            store=store,
        )
        if estimate:
            found = labels.estimate()
            summary = "enough" if found.enough else "not enough"
            report({**vars(found), "cost": found.cost, "enough": found.enough}, json_output, summary)
            return
        try:
            labels.fetch(bar)
        except BudgetSpent:
            if not partial:
                raise
        except KeyboardInterrupt:
            raise Interrupted("stopped while fetching soft labels") from None
    torch.manual_seed(seed)
    student = backbones.Classifier(backbones.build(arch, len(card.classes)), mean, std)
    try:
        finished = distill(
            student,
            DataLoader(labels, batch_size=batch_size, shuffle=True),
            held_out=DataLoader(TensorDataset(tested.images, tested.labels), batch_size=500),
            epochs=epochs,
            temperature=temperature,
            alpha=alpha,
            learning_rate=learning_rate,
            seed=seed,
            alone=alone,
            out=out,
            device=target,
            bar=bar,
        )
    except KeyboardInterrupt:
        raise Interrupted("stopped while training") from None
    save_weights(student.backbone, out / BACKBONE)
    rows = [
        {"student": student.name, "top1": student.top1, "standard_error": student.standard_error}
        for student in finished.students
    ]
    report(rows, json_output, f"{finished}\n{out / 'report.html'} in {time.monotonic() - started:.0f} s")


def _images(data: Path, card: ModelCard, count: int | None, seed: int) -> tuple[LabelledImages, LabelledImages]:
    """Training and test images at the size of the model's input.

    Raises:
        DataError: a split is missing, or has other classes than the model.
    """
    check_classes(data)
    shown, tested = (load(data, split, card.input.height, card.input.width) for split in ("train", "test"))
    check_same_classes(data, shown.classes, card.classes)
    if count is not None and count < len(shown):
        order = torch.randperm(len(shown), generator=torch.Generator().manual_seed(seed))
        shown = shown.subset(order[:count])
    return shown, tested
