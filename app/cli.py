"""The `sdb` command: one line per failure, a traceback only for our own mistakes."""

import sys
from importlib import import_module
from typing import Any

import typer
from pydantic import ValidationError
from sdb_client.errors import SdbError
from typer.core import TyperCommand, TyperGroup

from app.errors import RemoteError, RequestError, explain
from app.settings import SettingsError
from keys.errors import ConfigurationError, KeyServiceError

COMMANDS = ("serve", "keys", "audit", "models", "wrap", "lock", "distill", "evaluate", "trace", "watch", "doctor")
EXTRA = {"art", "matplotlib"}  # what the extra `evaluate` brings


class Lazy(TyperGroup):
    """Imports a command when it is asked for: `sdb keys` need not wait for torch."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ANN401 - typer's own click is private
        """The names of the commands."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401
        """The command of this name."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        try:
            commands: typer.Typer = import_module(f"app.commands.{cmd_name}").commands
        except ModuleNotFoundError as error:
            if str(error.name).partition(".")[0] not in EXTRA:
                raise
            return _without_extra(cmd_name)
        command = typer.main.get_command(commands)
        command.name = cmd_name  # `sdb --help` lists it by this name
        return command


def _without_extra(name: str) -> TyperCommand:
    """Stands for a command that cannot be imported: takes any option, and says what to install."""

    def command() -> None:
        sys.exit(f"sdb: {name} needs more packages: pip install 'safe-distillation-box[evaluate]'")

    return TyperCommand(
        name,
        callback=command,
        help="Not installed: needs the extra `evaluate`.",
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    )


app = typer.Typer(cls=Lazy, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback()
def root() -> None:
    """Serve image classifiers that everybody can use and only key holders can learn from."""


def main() -> None:
    """Entry point of the `sdb` script."""
    try:
        app()
    except (ConfigurationError, KeyServiceError, RemoteError, RequestError, SdbError, SettingsError) as error:
        sys.exit(f"sdb: {_line(error)}")
    except ValidationError as error:
        sys.exit(f"sdb: {explain(error.errors())}")
    except OSError as error:
        if error.filename is None:
            raise
        sys.exit(f"sdb: {error.filename2 or error.filename}: {error.strerror}")
    except Exception as error:
        sys.exit(_explained(error))


def _explained(error: Exception) -> int:
    """The exit status for what only commands that need torch can raise; anything else is a mistake of ours.

    Raises:
        Exception: `error` itself, if nobody could have expected it.
    """
    from models.bundles import BundleError  # noqa: PLC0415 - imports torch, which a failing `sdb keys` never did
    from models.data import DataError  # noqa: PLC0415
    from models.matched import MatchError  # noqa: PLC0415
    from models.predictor import DeviceError  # noqa: PLC0415
    from models.training.loop import CheckpointMismatch, Interrupted  # noqa: PLC0415
    from models.watch import WatchError  # noqa: PLC0415

    if isinstance(error, Interrupted):
        sys.stderr.write(f"sdb: {_line(error)}; the same command goes on from there\n")
        return 130
    if isinstance(error, BundleError | CheckpointMismatch | DataError | DeviceError | MatchError | WatchError):
        sys.stderr.write(f"sdb: {_line(error)}\n")
        return 1
    raise error


def _line(error: Exception) -> str:
    """The message in one line: some quote a library that wrote several."""
    return " ".join(str(error).split())
