"""`sdb doctor`: whether the server would start here, who else could get at what it keeps, and what to do about it."""

import asyncio
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from app.advisories.known import installed
from app.commands.inspection import Finding, defaults, failed, jose_imports, permissions, store, versions
from app.commands.output import report
from app.commands.service import key_service
from app.hosting import engine_wanted
from app.settings import Settings, SettingsError
from app.state import State, open_store
from keys.embedded import EmbeddedStore, StoreInUse
from keys.errors import ConfigurationError, KeyServiceError
from keys.exposure import StoreFacts, store_facts
from models import bundles
from models.predictor import DeviceError, Predictor, choose_devices

EXPECTED = (ConfigurationError, KeyServiceError, bundles.BundleError, DeviceError, OSError)
commands = typer.Typer()


@commands.command()
def command(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """Check settings, secrets, store, device, models and who may get at them; exit status 1 if a check fails.

    A warning says what to look at; each finding says what to do.
    """
    findings = list(_findings())
    report([asdict(finding) for finding in findings], as_json)
    if failed(findings):
        raise typer.Exit(1)


def _findings() -> Iterator[Finding]:
    yield Finding("python", "ok", f"{platform.python_version()}, torch {torch.__version__}")
    yield jose_imports()
    try:
        settings = Settings.from_environment()
    except SettingsError as error:
        yield Finding("settings", "fail", str(error), "correct or remove the variable (docs/operation.md)")
        return
    changed = sorted(f"SDB_{name.upper()}" for name in settings.model_fields_set)
    yield Finding("settings", "ok", f"given: {', '.join(changed)}" if changed else "all defaults")
    yield from _checked("secrets", lambda: _secrets(settings))
    yield from _checked("store", lambda: _store(settings))
    yield from _checked("permissions", lambda: permissions(settings, Settings.secret_files()))
    yield from _checked("device", lambda: [_ok("device", ", ".join(map(str, choose_devices(settings.device))))])
    yield from _checked("models", lambda: _models(settings))


def _ok(check: str, detail: str) -> Finding:
    return Finding(check, "ok", detail)


def _checked(name: str, work: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """What a check finds; that it cannot be done is a finding too."""
    try:
        return list(work())
    except EXPECTED as error:
        return [Finding(name, "fail", str(error), "see docs/operation.md")]


def _secrets(settings: Settings) -> Iterator[Finding]:
    state = State(settings)
    yield _ok("secrets", f"master and signing keys usable, state in {state.folder}")
    yield from defaults(settings, state.vault, state.token_keys)


def _store(settings: Settings) -> Iterator[Finding]:
    kind = "external" if settings.redis_url.get_secret_value() else "embedded"
    admin, closed = asyncio.run(_kept(settings))
    yield _ok("store", f"{kind}, {admin}")
    if closed:
        detail = f"the tracing secrets {', '.join(map(str, closed))} do not open with SDB_MASTER_KEY"
        yield Finding("tracing", "fail", detail, "give the master key that sealed them beside the newest one")
    url, facts = _facts(settings)
    yield from store(url, facts)
    yield from versions({**installed(), facts.server: facts.version}, datetime.now(UTC).date())


async def _kept(settings: Settings) -> tuple[str, list[int]]:
    """Whether the store has an admin key, and which of its tracing secrets do not open."""
    async with key_service(settings) as keys:
        await keys.reachable()
        admin = "an admin key exists" if await keys.has_admin() else "no admin key yet, the first start makes one"
        _, closed = await keys.tracing.generations()
        return admin, closed


def _facts(settings: Settings) -> tuple[str, StoreFacts]:
    """What the store says of itself, and where it is; an embedded one that no server runs is run for so long."""
    with ExitStack() as stack:
        try:
            url = open_store(settings, stack, wait_s=0)
        except StoreInUse:
            url = EmbeddedStore(settings.state_dir / "store").url
        return url, asyncio.run(store_facts(url))


def _models(settings: Settings) -> Iterator[Finding]:
    folders = bundles.discover(settings.models_dir)
    yield _ok("models", f"{len(folders)} in {settings.models_dir}")
    for folder in folders:
        yield from _checked(f"model {folder.name}", partial(_model, settings, folder))


def _model(settings: Settings, folder: Path) -> Iterator[Finding]:
    name = bundles.load_manifest(folder, settings.bundle_signers).name
    secret, public = State(settings).model_secret(name, folder)
    device, wanted = choose_devices(settings.device)[0], engine_wanted(settings)
    torch.set_num_threads(wanted.cores.threads)  # as the server will run
    detail = f"{name}, files intact, runs on {Predictor(folder, secret, device, b'', wanted).choice}"
    if public:
        detail += ", DEMO: its secret is public"
        yield Finding(f"model {folder.name}", "warn", detail, "serve a model of your own: sdb wrap")
    else:
        yield _ok(f"model {folder.name}", detail)
