"""`sdb trace`: whose key leaked, from nothing but a suspect's answers.

Exit status 0: a key is named. 1: none is, or it could not be found out (one line on standard error). 2: wrong usage.
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import orjson
import typer

from app.commands import credential, training
from app.commands.issued_marks import Issued, since
from app.commands.output import command_line, report
from app.commands.own_models import find, opened
from app.commands.questions import Questions, Split
from app.commands.service import run
from app.commands.suspected import Named
from app.settings import Settings
from models import bundles
from models.evaluation import trace_report
from models.evaluation.tracing import Asked, Judgement, judge
from models.predictor import Predictor, choose_device
from models.tracing.waves import Floats

commands = typer.Typer()
SHOWN = 10  # keys in the table; the JSON has all
DATED = 20  # and for so many it is looked up since when their answers are marked


@commands.command()
def command(  # noqa: PLR0917 - typer reads options from parameters
    suspect: Annotated[
        str, typer.Option(help="folder of a bundle, weights (.safetensors), URL of a server, or answers (.csv)")
    ],
    model: Annotated[str, typer.Option(help="name of our model, whose soft labels may have leaked")],
    data: Annotated[Path, typer.Option(help="images to ask with: image folder, or the PATH of PATH_test.parquet")],
    split: Annotated[Split, typer.Option(help="which of them")] = "test",
    images: Annotated[int, typer.Option(min=1, help="so many of them, at random; of a .csv those it names")] = 5000,
    keys: Annotated[
        list[str] | None, typer.Option(help="id of a key; repeat for more; all ever issued if none")
    ] = None,
    top1: Annotated[bool, typer.Option("--top1", help="go by the suspect's top-1 alone")] = False,
    reference: Annotated[
        list[str] | None,
        typer.Option(help="like --suspect, a student of unmarked answers made much as it was; repeat for more"),
    ] = None,
    arch: Annotated[str | None, typer.Option(help="architecture of weights")] = None,
    mean: Annotated[training.Triple, typer.Option(metavar=training.RGB, help="of their normalisation")] = training.MEAN,
    std: Annotated[training.Triple, typer.Option(metavar=training.RGB, help="its standard deviation")] = training.STD,
    suspect_model: Annotated[str | None, typer.Option(help="name of the model on the server; ours if left out")] = None,
    token: Annotated[
        Path | None, typer.Option(help="file with an API key or token of that server; - is standard input")
    ] = None,
    seed: training.Seed = 0,
    device: training.Device = "auto",
    out: Annotated[
        Path | None, typer.Option(help="folder of the report; runs/trace/MODEL if left out", file_okay=False)
    ] = None,
    json_output: Annotated[bool, typer.Option("--json", help="print the document as JSON")] = False,
) -> None:
    """Test a suspect's answers for the mark of every key. Exit status 0: one is named; 1: none is."""
    settings, target = Settings.from_environment(), choose_device(device)
    named = Named(suspect, arch, mean, std, suspect_model or model, credential.read(token))
    own, _ = opened(settings, find(settings, model)[0], target)
    wanted = [] if keys in (None, ["all"]) else keys or []
    issued = run(partial(Issued.read, wanted=wanted))
    questions = Questions(own, data, split)
    if named.file_of_answers is not None:
        who, answers = {"kind": "answers", "name": named.file_of_answers.name}, questions.of_file(named.file_of_answers)
        answers = answers.argmax(1) if top1 and answers.ndim == 2 else answers
    else:
        found = named.open(own.manifest, settings, target)
        questions.choose(images, seed)
        who, answers = {"kind": found.kind, "name": found.name}, questions.asked_of(found, top1=top1)
    references = [_reference(replace(named, where=one), own, questions, settings) for one in reference or []]
    asked = Asked(answers, questions.clean(), questions.pixels, tuple(references))
    judgement = judge(asked, issued.marks(model, len(own.manifest.classes)))
    document = {
        **asdict(judgement),
        "made": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "model": {"name": own.manifest.name, "version": own.manifest.version},
        "suspect": who,
        "references": [Path(one).name for one in reference or []],
        "data": f"{data.name}, {split}",
        "keys": len(issued.keys),
        "chosen": bool(wanted),
        "closed": list(issued.closed),
        "since": run(partial(since, model=model, findings=judgement.findings[:DATED])),
        "command": command_line(),
    }
    folder = out or Path("runs") / "trace" / model
    folder.mkdir(parents=True, exist_ok=True)
    bundles.write_atomically(folder / "trace.json", orjson.dumps(document, option=orjson.OPT_INDENT_2))
    bundles.write_atomically(folder / "trace.html", trace_report.render(document).encode())
    shown = document if json_output else _lines(judgement)
    report(shown, json_output, f"{judgement.verdict}; {folder / 'trace.html'}")
    if not any(finding.named for finding in judgement.findings):
        raise typer.Exit(1)


def _reference(named: Named, own: Predictor, questions: Questions, settings: Settings) -> Floats:
    """What a student of unmarked answers says of the same images: probabilities float32 [N, K]."""
    if named.file_of_answers is not None:
        answers = questions.looked_up(named.file_of_answers)
    else:
        answers = questions.asked_of(named.open(own.manifest, settings, own.device), top1=False)
    if answers.ndim == 1:
        raise typer.BadParameter("a reference tells probabilities", param_hint="--reference")
    return answers.astype("float32")


def _lines(judgement: Judgement) -> list[dict[str, object]]:
    """The most likely marks as people read them."""
    return [
        {
            "key": one.key_id,
            "name": one.name,
            "generation": one.generation,
            "score": f"{one.score:.2f}",
            "corrected p": trace_report.probability(one.corrected),
            "verdict": "named" if one.named else "no",
        }
        for one in judgement.findings[:SHOWN]
    ]
