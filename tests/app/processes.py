"""`sdb` as tests run it, as a process of its own or in theirs, and what it left behind."""

import asyncio
import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app import cli
from tests.conftest import ROOT

SDB = ROOT / ".venv" / "bin" / "sdb"
Json = dict[str, Any]
SDB_WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Uninstalled(MetaPathFinder):
    names = sys.argv.pop(1).split(",")

    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Uninstalled())
from app.cli import main
main()
"""
EXTRA = "art,matplotlib"  # torch itself brings jinja2


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    out: str
    err: str

    @property
    def record(self) -> Json:
        """What it printed with `--json` about one thing."""
        found: Json = json.loads(self.out)
        return found

    @property
    def records(self) -> list[Json]:
        """What it printed with `--json` about several."""
        found: list[Json] = json.loads(self.out)
        return found

    def assert_one_line(self, text: str) -> None:
        """It failed as commands fail: status 1 and a line on standard error."""
        assert (self.status, self.out) == (1, ""), self
        assert self.err.startswith("sdb: ")
        assert self.err.count("\n") == 1
        assert text in self.err


async def sdb(state_dir: Path, zoo: Path, *arguments: str, **environment: str) -> Outcome:
    """Run `sdb` beside a state folder that it is told only the name of, with nothing of this process's environment."""
    given = {"SDB_STATE_DIR": state_dir.name, "SDB_MODELS_DIR": str(zoo), **environment}
    return await _run(state_dir.parent, given, SDB, *arguments)


async def sdb_without(modules: str, folder: Path, *arguments: str) -> Outcome:
    """Run `sdb` in `folder` where these modules are not installed."""
    return await _run(folder, {}, sys.executable, "-c", SDB_WITHOUT, modules, *arguments)


def sdb_here(*arguments: str) -> Outcome:
    """Run `sdb` in this process, with its environment: in a tenth of the time."""
    out, err = io.StringIO(), io.StringIO()
    argv, sys.argv = sys.argv, ["sdb", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            cli.main()
        return Outcome(0, out.getvalue(), err.getvalue())
    except SystemExit as stopped:  # what the interpreter makes of it: a text is a line and status 1
        status, line = (stopped.code, "") if isinstance(stopped.code, int) else (1, f"{stopped.code}\n")
        return Outcome(status, out.getvalue(), err.getvalue() + line)
    finally:
        sys.argv = argv


async def _run(folder: Path, environment: dict[str, str], *command: str | Path) -> Outcome:
    process = await asyncio.create_subprocess_exec(
        *command, env=environment, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, out.decode(), err.decode())
