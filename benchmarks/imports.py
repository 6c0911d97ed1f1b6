"""How long the client library takes to import, in fresh interpreters that take turns: `python -m benchmarks.imports`.

Processor time and not time on the clock, so that other work on the machine changes little; the interpreter's own start
is taken off. What the imports load is a test's business (tests/client/test_client_imports.py).
"""

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

RESULT = Path(__file__).parent / "results" / "imports.json"
NOTHING = "pass"
IMPORTS = {
    "the package": "import sdb_client",
    "the client": "from sdb_client import Client",
    "the client, and a sealed image": "from sdb_client import Client; import sdb_client.encryption",
}
TARGET_MS = 250


@dataclass(frozen=True)
class Row:
    """One import: median and standard deviation in ms of `runs` fresh interpreters."""

    what: str
    code: str
    median_ms: float
    deviation_ms: float
    runs: int


def seconds(code: str) -> float:
    """Of the processor, for an interpreter that runs `code`."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], check=True)  # noqa: S603
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measured(runs: int) -> list[Row]:
    """Every import, and nothing, in turns."""
    taken: dict[str, list[float]] = {what: [] for what in IMPORTS}
    for code in (NOTHING, *IMPORTS.values()):
        seconds(code)  # the first one fills the caches of disk and bytecode
    for _ in range(runs):
        start = seconds(NOTHING)
        for what, code in IMPORTS.items():
            taken[what].append(1000 * (seconds(code) - start))
    return [
        Row(what, IMPORTS[what], statistics.median(times), statistics.stdev(times), runs)
        for what, times in taken.items()
    ]


def main() -> None:
    """Print the table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20, help="interpreters for each import; at least 2")
    rows = measured(parser.parse_args().runs)
    for row in rows:
        print(f"{row.what:32} {row.median_ms:6.0f} ms ± {row.deviation_ms:.0f}   (target {TARGET_MS})")
    machine = {"python": platform.python_version(), "machine": platform.machine()}
    RESULT.write_text(json.dumps({**machine, "rows": [asdict(row) for row in rows]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
