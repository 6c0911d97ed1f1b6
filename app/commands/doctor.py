"""`sdb doctor`: whether the server would start here, and what to do where it would not."""

import asyncio
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from app.commands.output import report
from app.commands.service import key_service
from app.hosting import engine_wanted
from app.settings import Settings, SettingsError
from app.state import State
from keys.errors import ConfigurationError, KeyServiceError
from models import bundles
from models.predictor import DeviceError, Predictor, choose_devices

commands = typer.Typer()


@commands.command()
def command(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Check settings, secrets, store, device and models; exit status 1 if one of them fails."""
    rows: list[dict[str, str]] = []

    def check(name: str, work: Callable[[], str]) -> None:
        try:
            rows.append({"check": name, "result": "ok", "detail": work()})
        except (SettingsError, ConfigurationError, KeyServiceError, bundles.BundleError, DeviceError) as error:
            rows.append({"check": name, "result": "fail", "detail": str(error)})

    check("python", lambda: f"{platform.python_version()}, torch {torch.__version__}")
    check("settings", lambda: _settings(Settings.from_environment()))
    if rows[-1]["result"] == "ok":
        settings = Settings.from_environment()
        check("secrets", lambda: _secrets(settings))
        check("store", lambda: asyncio.run(_store(settings)))
        check("device", lambda: ", ".join(map(str, choose_devices(settings.device))))
        check("models", lambda: f"{len(bundles.discover(settings.models_dir))} in {settings.models_dir}")
        if rows[-1]["result"] == "ok":
            for folder in bundles.discover(settings.models_dir):
                check(f"model {folder.name}", partial(_model, settings, folder))
    report(rows, as_json)
    if any(row["result"] == "fail" for row in rows):
        raise typer.Exit(1)


def _settings(settings: Settings) -> str:
    changed = sorted(f"SDB_{name.upper()}" for name in settings.model_fields_set)
    return f"given: {', '.join(changed)}" if changed else "all defaults"


def _secrets(settings: Settings) -> str:
    state = State(settings)
    mode = state.folder.stat().st_mode & 0o777
    if mode & 0o022:
        raise ConfigurationError(f"{state.folder} has mode {mode:o}: others may write to it")
    return f"master and signing keys usable, state in {state.folder}"


async def _store(settings: Settings) -> str:
    async with key_service(settings) as keys:
        await keys.ready()
        admin = "an admin key exists" if await keys.has_admin() else "no admin key yet, the first start makes one"
    return f"{'external' if settings.redis_url.get_secret_value() else 'embedded'}, {admin}"


def _model(settings: Settings, folder: Path) -> str:
    name = bundles.load_manifest(folder).name
    secret, public = State(settings).model_secret(name, folder)
    device, wanted = choose_devices(settings.device)[0], engine_wanted(settings)
    torch.set_num_threads(wanted.cores.threads)  # as the server will run
    choice = Predictor(folder, secret, device, b"", wanted).choice
    return f"{name}, files intact, runs on {choice}" + (", DEMO: its secret is public" if public else "")
