"""`sdb audit`: who changed what, and whether the record of it is whole."""

import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from typing import Annotated, Any

import orjson
import typer
from pydantic import TypeAdapter

from app.commands.output import Json, printable, report
from app.commands.service import run
from app.commands.tables import audit_line
from keys.audit import AuditEntry, Verdict
from keys.directory import MAX_PAGE
from keys.service import KeyService

commands = typer.Typer(no_args_is_help=True, help="Read the audit log, and check that nobody changed it.")
POLL_S = 1.0
ENTRIES = TypeAdapter(list[AuditEntry])


@commands.command()
def tail(
    number: Annotated[int, typer.Option("-n", min=0, help="how many entries")] = 20,
    target: Annotated[str | None, typer.Option(help="only what was done to this key")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="go on with what is written from now on")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON; with --follow one entry per line")] = False,
) -> None:
    """The last entries of the audit log, the newest at the end."""
    found, seq = run(lambda keys: _last(keys, target, number))
    if not follow:
        report(_shown(found) if as_json else [audit_line(entry) for entry in found], as_json)
        return
    signal.signal(signal.SIGINT, _stopped)
    for entry in chain(found, _written_after(seq, target)):
        _print(entry, as_json)


def _stopped(*_: object) -> None:
    """Ctrl-C ends the command wherever it is; a task that is cancelled instead may just be forgiving that."""
    sys.exit(130)


@commands.command()
def verify(
    head: Annotated[str | None, typer.Option(help="hash of an entry, kept from an earlier verification")] = None,
    as_json: Json = False,
) -> None:
    """Check the whole chain, and that it goes on from `--head`; exit status 1 if it does not.

    Keep the head that is printed where the operator of the store cannot write: it proves later that nothing before it
    was changed or cut off.
    """
    verdict, contained = run(lambda keys: _verified(keys, head))
    report(asdict(verdict), as_json)
    if verdict.unsealed:
        sys.stderr.write(
            f"sdb: {verdict.unsealed} entries are sealed by a master key that is not given: "
            "that they belong together is sure, who wrote them is not\n"
        )
    if not verdict.intact:
        _fail(f"the audit log is broken: {verdict.problem}")
    if not contained:
        _fail(f"the audit log does not go on from {head}: it was cut or written anew")


def _fail(line: str) -> None:
    sys.stderr.write(f"sdb: {line}\n")
    raise typer.Exit(1)


async def _last(keys: KeyService, target: str | None, number: int) -> tuple[list[AuditEntry], int]:
    """The last `number` entries, the newest at the end, and the number of the last one of all."""
    newest, _ = await keys.audit.page(None, 1)
    entries: list[AuditEntry] = []
    cursor, more = None, number > 0
    while more:
        page, cursor = await keys.audit.page(cursor, min(number - len(entries), MAX_PAGE), target)
        entries += page
        more = cursor is not None and len(entries) < number
    return entries[::-1], max((entry.seq for entry in newest + entries), default=0)


async def _since(keys: KeyService, seq: int) -> list[AuditEntry]:
    """The entries after number `seq`, the newest at the end."""
    entries, cursor = await keys.audit.page(None, MAX_PAGE)
    while cursor is not None and entries[-1].seq > seq:
        page, cursor = await keys.audit.page(cursor, MAX_PAGE)
        entries += page
    return [entry for entry in reversed(entries) if entry.seq > seq]


async def _verified(keys: KeyService, head: str | None) -> tuple[Verdict, bool]:
    return await keys.audit.verify(), not head or await _contains(keys, head)


async def _contains(keys: KeyService, head: str) -> bool:
    entries, cursor = await keys.audit.page(None, MAX_PAGE)
    while not any(entry.hash == head for entry in entries):
        if cursor is None:
            return False
        entries, cursor = await keys.audit.page(cursor, MAX_PAGE)
    return True


def _written_after(seq: int, target: str | None) -> Iterator[AuditEntry]:
    """Entries as they are written, without end; the store is opened for each look, so that a server can have it."""
    while True:
        time.sleep(POLL_S)
        for entry in run(partial(_since, seq=seq)):
            seq = entry.seq
            if target in {None, entry.target}:
                yield entry


def _print(entry: AuditEntry, as_json: bool) -> None:
    (record,) = _shown([entry])
    cells = ["–" if cell is None else printable(str(cell)) for cell in audit_line(entry).values()]
    sys.stdout.write((orjson.dumps(record).decode() if as_json else "  ".join(cells)) + "\n")
    sys.stdout.flush()


def _shown(entries: Sequence[AuditEntry]) -> list[dict[str, Any]]:
    """Entries as the REST API shows them."""
    found: list[dict[str, Any]] = ENTRIES.dump_python(list(entries), mode="json")
    return found
