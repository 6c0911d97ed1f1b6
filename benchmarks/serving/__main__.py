"""`make bench`: measure in rounds, print the tables, keep results/serving.json and write docs/performance.md."""

import argparse
import math
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.serving import report, workloads
from benchmarks.serving.ceiling import Ceiling
from benchmarks.serving.contestants import ALL, Contestant
from benchmarks.serving.environments import NotInstallable
from benchmarks.serving.figures import Figures, Ledger, written
from benchmarks.serving.generator import Pace
from benchmarks.serving.processes import NotStarted
from benchmarks.serving.rounds import Cell, Session, ceilings
from benchmarks.serving.targets import targets
from benchmarks.serving.workloads import Workload
from models.environment import environment

RESULTS = Path(__file__).parents[1] / "results" / "serving.json"
MAKERS = {"small": workloads.small, "large": workloads.large, "wide": workloads.wide}
ANSWERS = 128  # a window has room for, at the ceiling: twice what the most connections have under way
QUICK = ("ours/one pass", "fastapi_naive")


def main() -> None:
    """Measure, or write the tables of an earlier run anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=1.2, help="of each load; more where few images fit")
    parser.add_argument("--workloads", default="small,large,wide")
    parser.add_argument("--servers", default="", help="names that begin so, with commas between; all when left out")
    parser.add_argument("--quick", action="store_true", help="one short round of the small model, two servers")
    parser.add_argument("--output", type=Path, help="keep the figures there, and leave the documentation as it is")
    parser.add_argument(
        "--again", action="store_true", help="measure nothing: write the documentation from the figures"
    )
    asked = parser.parse_args()
    if asked.again:
        report.write(Figures.read(RESULTS))
        return
    if asked.quick:
        asked.rounds, asked.seconds, asked.workloads, asked.servers = 1, 0.5, "small", ",".join(QUICK)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # a server that runs just then is ended
    figures = _measured(asked)
    report.show(figures)
    _keep(figures, asked)
    if figures.about["errors"]:
        sys.exit(f"{figures.about['errors']} requests were not answered with 200: these figures are worth nothing")


def _measured(asked: argparse.Namespace) -> Figures:
    contestants = _chosen(asked.servers)
    command = " ".join(["python -m benchmarks.serving", *sys.argv[1:]])
    cores = str(len(os.sched_getaffinity(0)))
    about = {"command": command, **environment(), "cores": cores, "rounds": asked.rounds, "seconds": asked.seconds}
    ledger = Ledger(Figures({**about, "errors": 0}, [], [], [], []))
    begun = time.monotonic()
    with TemporaryDirectory() as folder:
        made = [MAKERS[name](Path(folder) / name) for name in asked.workloads.split(",")]
        for number in range(asked.rounds):
            for workload in made:
                _round(number, workload, contestants, asked.seconds, ledger)
    ledger.figures.about["minutes"] = round((time.monotonic() - begun) / 60, 1)
    return ledger.figures


def _chosen(prefixes: str) -> Sequence[Contestant]:
    wanted = tuple(prefixes.split(","))
    return [contestant for contestant in ALL if contestant.name.startswith(wanted)]


def _round(number: int, workload: Workload, contestants: Sequence[Contestant], seconds: float, ledger: Ledger) -> None:
    """All contestants once; every other round in reverse, so that a drift does not favour who comes first."""
    contestants = [contestant for contestant in contestants if contestant.serves(workload)]
    right: dict[str, Ceiling] = {}
    for name, ceiling in ceilings(workload, {contestant.reference for contestant in contestants}, seconds / 2):
        _tell(f"round {number + 1}, {workload.name}: ceiling of {name}, {ceiling.best:.0f} images/s")
        ledger.ceiling(name, workload.name, ceiling)
        right[name] = ceiling
    pace = Pace.of(max(seconds, ANSWERS / min((ceiling.best for ceiling in right.values()), default=math.inf)))
    for contestant in contestants if number % 2 == 0 else reversed(contestants):
        _play(Session(contestant, workload, pace), right[contestant.reference], ledger)


def _play(session: Session, right: Ceiling, ledger: Ledger) -> None:
    contestant = session.contestant
    try:
        for found in session.play(right):
            if isinstance(found, Cell):
                _tell(f"  {found.server}, {found.load}: {found.result.per_second:.0f}/s, p50 {found.result.p50_ms} ms")
                ledger.figures.about["errors"] += found.result.errors
                ledger.cell(found, peer=contestant.kind == "peer")
            else:
                ledger.start(found, contestant.versions())
    except (NotInstallable, NotStarted) as error:
        _tell(f"  {contestant.name} is left out: {error}")
        ledger.skip(contestant.name, session.workload.name, str(error))


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _keep(figures: Figures, asked: argparse.Namespace) -> None:
    """The document: what was measured, and what it means for the targets."""
    judged = [{**asdict(target), "verdict": target.verdict} for target in targets(figures)]
    document = {**asdict(figures), "targets": judged}
    if asked.output:
        asked.output.write_text(written(document))
    elif not asked.quick:
        RESULTS.write_text(written(document))
        report.write(figures)


if __name__ == "__main__":
    main()
