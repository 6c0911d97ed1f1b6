"""Somebody who does what a page says: one shell and one Python for a whole page, in a folder like a clone of their own.

What the shell exports, Python finds in its environment. Both are processes of their own, which know nothing of tests.
"""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.conftest import ROOT, Server, free_port
from tests.docs.blocks import Block

DOCUMENTED = "127.0.0.1:8000"
ANOTHER = re.compile(r"\b8001\b")  # the port of a server that a page starts itself
SHELL = """
set -euo pipefail
exec 3<&0 4>&1 <&- >printed
while IFS= read -r script <&3; do
  cd "$PLACE"
  . "$script" </dev/null 3<&- 4>&- # what it starts in the background must not hold the replies open
  env -0 >"$script.env"
  echo done >&4
done
"""
PYTHON = """
import json, os, sys
requests, replies = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
os.dup2(os.open("printed", os.O_WRONLY | os.O_CREAT), 1)
os.chdir(os.environ["PLACE"])
sys.path[0] = ""
for request in requests:
    script, environment = json.loads(request)
    os.environ.update(environment)
    exec(compile(open(script).read(), script, "exec"), globals())
    sys.stdout.flush()
    print("done", file=replies, flush=True)
"""


class Failed(AssertionError):
    """A block ended with an error; the message is all that its page has written so far."""


class Session:
    """A process that runs one script after the other and keeps what they leave behind.

    Args:
        folder: where its scripts lie, and what they print.
        environment: all of the process's.
        command: what reads the name of a script from each line of its input, and answers with a line.
    """

    def __init__(self, folder: Path, environment: dict[str, str], *command: str) -> None:
        self._printed, self._errors, self._read = folder / "printed", folder / "errors", 0
        with self._errors.open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603 - the pages of this repository
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def run(self, request: str) -> str:
        """What a script printed.

        Raises:
            Failed: it ended with an error.
        """
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        if not self._process.stdout.readline():
            raise Failed(f"{self._printed.read_text()}\n{self._errors.read_text()}")
        printed = self._printed.read_text()
        new, self._read = printed[self._read :], len(printed)
        return new

    def end(self) -> None:
        """There is no more to run; what it has started ends too."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


class Reader:
    """Runs the blocks of one page in their order.

    Args:
        place: a folder like a clone, in which the page's commands run.
        server: what answers at the address that pages name.
    """

    def __init__(self, place: Path, server: Server) -> None:
        self._place, self._address, self._another = place, server.url.removeprefix("http://"), str(free_port())
        self._environment = {
            "PATH": f"{ROOT / '.venv' / 'bin'}:{os.defpath}:/usr/local/bin",
            "HOME": str(place),
            "PLACE": str(place),
            "OMP_NUM_THREADS": "1",
            "SDB_BASE_URL": server.url,
            "SDB_ENGINE": "eager",  # nothing to find out at each start
        }
        self._sessions: dict[str, Session] = {}
        self._exported: dict[str, str] = {}

    def run(self, block: Block) -> str:
        """What it printed on standard output.

        Raises:
            Failed: it ended with an error.
        """
        session, script = self._session(block.language), self._folder(block.language) / str(block.line)
        script.write_text(ANOTHER.sub(self._another, block.text.replace(DOCUMENTED, self._address)))
        if block.language == "python":
            return session.run(json.dumps([str(script), self._exported]))
        printed = session.run(str(script))
        pairs = script.with_name(f"{script.name}.env").read_text().split("\0")
        self._exported = dict(pair.split("=", 1) for pair in pairs if pair)
        return printed

    def end(self) -> None:
        """The page has been read."""
        for session in self._sessions.values():
            session.end()

    def _folder(self, language: str) -> Path:
        return self._place / f".{language}"

    def _session(self, language: str) -> Session:
        if language not in self._sessions:
            command = ("bash", "-c", SHELL) if language == "sh" else (sys.executable, "-c", PYTHON)
            self._folder(language).mkdir()
            self._sessions[language] = Session(self._folder(language), self._environment, *command)
        return self._sessions[language]


@contextmanager
def reading(place: Path, server: Server) -> Iterator[Reader]:
    """A reader of one page, until the body ends."""
    reader = Reader(place, server)
    try:
        yield reader
    finally:
        reader.end()
