"""`sdb evaluate`: attacks a bundle or a live server, and writes the protection report."""

import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from lightning_fabric import Fabric
from rich.console import Console

from app.commands import credential, training
from app.commands.output import command_line, report
from app.commands.own_models import find_or_folder, opened
from app.remote import under_attack
from app.settings import Settings
from models.attacks.locks.thief import Budget
from models.evaluation.evaluate import Images, evaluate, read_images
from models.evaluation.lock_trials import Effort
from models.evaluation.locks import LockRow
from models.evaluation.study import Row
from models.evaluation.subject import Subject, in_process
from models.predictor import choose_device

commands = typer.Typer()
Students = Annotated[list[str] | None, typer.Option("--student", help="its architecture; may be given several times")]
Token = Annotated[Path | None, typer.Option(help="file with an API key or token of scope distill; - is standard input")]
Teacher = Annotated[
    Path | None, typer.Option(help="the bare teacher's weights, to compare with", exists=True, dir_okay=False)
]
Backbone = Annotated[
    Path | None, typer.Option(help="weights of a public backbone, as a thief might have", exists=True, dir_okay=False)
]
Folder = Annotated[
    Path | None, typer.Option(help="folder of the report; runs/evaluate/MODEL when left out", file_okay=False)
]
SHOWN = ("promise", "student", "target", "measured", "kept")


@commands.command()
def command(  # noqa: PLR0917 - typer reads options from parameters
    model: Annotated[str, typer.Option(help="name of a model, or the folder of its bundle")],
    data: Annotated[Path, typer.Option(help="the attacker's images: image folder, or the PATH of PATH_train.parquet")],
    url: Annotated[str | None, typer.Option(help="attack the model on this live server")] = None,
    token: Token = None,
    teacher: Teacher = None,
    backbone: Backbone = None,
    foreign: Annotated[Path | None, typer.Option(help="images of another distribution")] = None,
    students: Students = None,
    images: Annotated[int, typer.Option(min=100, help="images that each student learns from")] = 10_000,
    epochs: Annotated[int, typer.Option(min=1, help="epochs of each student")] = 12,
    seeds: Annotated[
        str, typer.Option(help="comma-separated; at least three for a standard error worth its name")
    ] = "0,1,2",
    arms: Annotated[
        str | None,
        typer.Option(
            help="only what matches: comma-separated patterns such as 'attack: soft*'; "
            "when left out, all, or for a model that is locked but not boxed those that fine-tune"
        ),
    ] = None,
    wrong_keys: Annotated[
        int, typer.Option(min=1, help="random wrong keys that a locked model is asked with")
    ] = Effort.wrong_keys,
    key_images: Annotated[int, typer.Option(min=1, help="test images that each wrong key is tried on")] = Effort.images,
    search_keys: Annotated[
        int, typer.Option(min=1, help="keys that each search for a lock's key may try")
    ] = Budget.keys,
    sweeps: Annotated[int, typer.Option(min=1, help="sweeps of hill climbing over a lock's key")] = Budget.sweeps,
    descent_steps: Annotated[int, typer.Option(min=1, help="steps of each gradient attack on a lock")] = Budget.steps,
    device: training.Device = "auto",
    out: Folder = None,
    json_output: Annotated[bool, typer.Option("--json", help="print the verdicts as JSON")] = False,
) -> None:
    """Attack a model as a customer could, and report what was learned. Ctrl-C stops; the same command goes on."""
    if url is not None and (teacher or backbone):
        raise typer.BadParameter("--teacher and --backbone go with a bundle, not with --url")
    if url is None and token is not None:
        raise typer.BadParameter("--token goes with --url")
    started, numbers, presented = time.monotonic(), _numbers(seeds), credential.read(token)
    target = choose_device(device)
    fabric = Fabric(accelerator=target.type, devices=[target.index or 0] if target.type == "cuda" else 1)
    if url is not None:
        subject, pictures = _remote(url, model, credential=presented, data=data, foreign=foreign, count=images)
    else:
        subject, pictures = _local(
            model, target=target, teacher=teacher, backbone=backbone, data=data, foreign=foreign, count=images
        )
    console = Console(stderr=True)

    def told(row: Row, number: int, total: int) -> None:
        arm = f"{row.group}: {row.name} ({row.holdings}, {row.share:.0%} of the images)"
        console.print(f"{number}/{total} {arm}, {row.student}, seed {row.seed}: {row.test_top1:.2%}", highlight=False)

    def told_of_lock(row: LockRow, number: int, total: int) -> None:
        highest = max(reading.best for reading in row.readings)
        console.print(f"{number}/{total} lock: {row.name}, seed {row.seed}: {highest:.2%}", highlight=False)

    folder = out or Path("runs") / "evaluate" / Path(model).name
    document = evaluate(
        subject,
        pictures,
        fabric,
        folder,
        students=students or ["plain_cnn"],
        epochs=epochs,
        seeds=numbers,
        chosen=arms,
        command=command_line(),
        told=told,
        effort=Effort(wrong_keys, key_images, Budget(search_keys, sweeps, descent_steps)),
        told_of_lock=told_of_lock,
    )
    verdicts = [{column: verdict[column] for column in SHOWN} for verdict in document["verdicts"]]
    report(verdicts, json_output, f"{folder / 'report.html'} in {time.monotonic() - started:.0f} s")


def _local(
    model: str,
    *,
    target: torch.device,
    teacher: Path | None,
    backbone: Path | None,
    data: Path,
    foreign: Path | None,
    count: int,
) -> tuple[Subject, Images]:
    """A bundle by name or by folder, opened with this machine's secrets."""
    settings = Settings.from_environment()
    predictor, secret = opened(settings, find_or_folder(settings, model), target)
    pictures = read_images(data, foreign, predictor.manifest.input, predictor.manifest.classes, count)
    return in_process(predictor, secret, teacher, backbone, pictures.own), pictures


def _remote(
    url: str, model: str, *, credential: str | None, data: Path, foreign: Path | None, count: int
) -> tuple[Subject, Images]:
    subject = under_attack(url, model, credential)
    return subject, read_images(data, foreign, subject.input, subject.classes, count)


def _numbers(text: str) -> list[int]:
    try:
        numbers = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or len(set(numbers)) < len(numbers) or min(numbers) < 0 or max(numbers) >= 2**32:
        raise typer.BadParameter("different whole numbers from 0 to 4294967295", param_hint="--seeds")
    return numbers
