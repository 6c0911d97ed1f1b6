"""One target under libFuzzer, guided by the coverage of our code and of the Python libraries that parse for it.

`python -m tests.fuzz.guided NAME [libFuzzer options] FOLDER` ends as libFuzzer does: with status 0 after all runs, and
otherwise with the input that broke the law in a file. Native decoders are not instrumented: they count as one step.
"""

import sys
from pathlib import Path

import atheris

from tests.fuzz.targets import target

INSTRUMENTED = ["app", "keys", "models.bundles", "sdb_client", "jose", "PIL"]


def main() -> None:
    """Fuzz until libFuzzer ends the process."""
    program, name, *options = sys.argv
    with atheris.instrument_imports(include=INSTRUMENTED):
        chosen = target(name)
    folder = Path(options[-1])
    for number, seed in enumerate(chosen.seeds):
        (folder / f"seed-{number}").write_bytes(seed)
    atheris.Setup([program, *options], chosen.feed)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
