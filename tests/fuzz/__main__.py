"""`python -m tests.fuzz`: each parser under a coverage-guided fuzzer, and a table of what came of it.

The corpus grows from run to run in a folder that is not part of the repository.
"""

import argparse
import re
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import orjson

from tests.fuzz.targets import NAMES

HANG_S, MEMORY_MB = 5, 2048
# A process that is started by one with much memory counts that as its own greatest (getrusage), even when it has
# become another program; not so its child.
AFRESH = ("sh", "-c", '"$@"; exit $?', "sh")
DONE = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+) corp: (\d+)/")


@dataclass(frozen=True)
class Outcome:
    """What came of one target; `edges` of the instrumented code were reached by some input."""

    target: str
    runs: int
    edges: int
    corpus: int
    crashes: int
    seconds: float


def fuzzed(name: str, runs: int, corpus: Path) -> tuple[Outcome, str]:
    """Try `runs` inputs on one target; with what the fuzzer said."""
    folder, found = corpus / name, corpus / "found"
    for needed in (folder, found):
        needed.mkdir(parents=True, exist_ok=True)
    limits = [f"-runs={runs}", f"-timeout={HANG_S}", f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={found}/{name}-"]
    command = [*AFRESH, sys.executable, "-m", "tests.fuzz.guided", name, *limits, str(folder)]
    began = time.monotonic()
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603 - ours
    done = DONE.search(ended.stderr)
    tried, edges, _, kept = map(int, done.groups()) if done else (0, 0, 0, 0)
    crashed = int(done is None or ended.returncode != 0)
    return Outcome(name, tried, edges, kept, crashed, round(time.monotonic() - began, 1)), ended.stderr


def main() -> int:
    """Fuzz what is named; 1 if a parser broke its law, hung or took too much memory."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="target", help=f"of {', '.join(NAMES)}; all when left out")
    parser.add_argument("--runs", type=int, default=20_000, help="inputs for each target")
    parser.add_argument("--corpus", type=Path, default=Path(".fuzz"), help="folder that keeps what was interesting")
    given = parser.parse_args()
    if not set(given.names) <= set(NAMES):
        parser.error(f"a target is one of {', '.join(NAMES)}")
    outcomes = []
    for name in given.names or NAMES:
        outcome, said = fuzzed(name, given.runs, given.corpus)
        outcomes.append(outcome)
        sys.stdout.write(f"{orjson.dumps(asdict(outcome)).decode()}\n")
        sys.stdout.flush()
        if outcome.crashes:
            sys.stderr.write(said[-4000:])
    (given.corpus / "outcomes.json").write_bytes(orjson.dumps([asdict(outcome) for outcome in outcomes]))
    return int(any(outcome.crashes for outcome in outcomes))


if __name__ == "__main__":
    sys.exit(main())
