"""`sdb keys rewrap` and `new-tracing-secret`: what the server keeps sealed, sealed anew or begun anew."""

from dataclasses import asdict

import typer

from app.commands.output import Json, report
from app.commands.service import ACT, run
from app.settings import Settings
from app.state import State
from keys.errors import ConfigurationError
from keys.rewrap import Tally
from keys.service import KeyService

commands = typer.Typer()


@commands.command()
def rewrap(as_json: Json = False) -> None:
    """Seal every stored secret under the newest master key, after SDB_MASTER_KEY was given a new first one.

    May be stopped and run again. The old master key may be dropped when every server and every `sdb` has run with the
    new one first, a rewrap after that finds nothing `unreadable`, and no key that is still needed is `waiting`: a
    waiting API key was not presented since the rotation, and is lost with the old master key.
    """
    tallies = {"model_secrets": State(Settings.from_environment()).rewrap()}
    (tallies["image_keys"], waiting), tallies["tracing_secrets"] = run(_rewrapped)
    report({**{kind: asdict(tally) for kind, tally in tallies.items()}, "waiting": waiting}, as_json)
    if any(tally.unreadable for tally in tallies.values()):
        raise ConfigurationError("some secrets do not open with SDB_MASTER_KEY; keep the master key that sealed them")


async def _rewrapped(keys: KeyService) -> tuple[tuple[Tally, list[str]], Tally]:
    return await keys.rewrap(), await keys.rewrap_tracing()


@commands.command()
def new_tracing_secret(as_json: Json = False) -> None:
    """Derive the marks of answers from another secret, within a minute on every server; old ones can still be traced.

    For when somebody may have read the store and the master key: with both, marks can be found and taken off.
    """
    report({"generation": run(lambda keys: keys.tracing.rotate(ACT))}, as_json)
