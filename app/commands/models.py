"""`sdb models`: what a server here would load, whether it is intact, who vouches for it, and the key of a lock."""

from pathlib import Path
from typing import Annotated

import typer

from app.commands.output import Json, report
from app.commands.own_models import find, manifests
from app.settings import Settings
from app.state import State
from keys.errors import ConfigurationError
from keys.material import load_or_create, to_text, write_private
from models import bundles
from models.bundles import BundleError, Manifest
from models.key_stream import lock_secret
from models.lock import KID
from models.predictor import Predictor, choose_device

commands = typer.Typer(
    no_args_is_help=True, help="List, show, verify and sign models; hand out the key of a locked one."
)
Model = Annotated[str, typer.Argument(help="name of a model in SDB_MODELS_DIR")]
SUMMARY = ("top1_keyed", "top1_unkeyed", "top1_right_key", "top1_no_key")  # of the metrics, in a terminal's one line


@commands.command("list")
def list_(as_json: Json = False) -> None:
    """All models, by the name of their folder."""
    found = manifests(Settings.from_environment()).values()
    report([_record(manifest) if as_json else _line(manifest) for manifest in found], as_json)


@commands.command()
def show(model: Model, as_json: Json = False) -> None:
    """What a bundle says of itself."""
    _, manifest = find(Settings.from_environment(), model)
    report({**manifest.model_dump(mode="json"), "guards": manifest.guards}, as_json)


@commands.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="name of a model; all of them when left out")] = None,
    as_json: Json = False,
) -> None:
    """Check that files are intact, fit their architecture and open with their secret; exit status 1 if one does not."""
    settings = Settings.from_environment()
    folders = bundles.discover(settings.models_dir) if model is None else [find(settings, model)[0]]
    rows = [_verified(settings, folder) for folder in folders]
    report(rows, as_json)
    if any(row["result"] != "ok" for row in rows):
        raise typer.Exit(1)


@commands.command()
def sign(
    model: Model,
    key: Annotated[Path, typer.Option(help="file of the private key, made when missing, mode 0600", dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Sign an intact model, and say which public key servers are to trust: SDB_BUNDLE_SIGNERS.

    A model may have several signers; the private key belongs on the machine where models are made, not on a server.
    """
    folder, manifest = find(Settings.from_environment(), model)
    signer = bundles.sign(folder, load_or_create(key))
    report({"model": manifest.name, "version": manifest.version, "signer": signer, "private_key": str(key)}, as_json)


@commands.command("unlock-key")
def unlock_key(
    model: Model,
    out: Annotated[Path, typer.Option(help="new file for the key, mode 0600", dir_okay=False)],
    as_json: Json = False,
) -> None:
    """Write the key of a locked model for a client that transforms images itself, and say how the key is used.

    It tells nothing of the model's secret; who has it needs no scope `unlock`, and cannot be shut out again.
    """
    settings = Settings.from_environment()
    folder, manifest = find(settings, model)
    if manifest.lock is None:
        raise BundleError(f"model {model} is not locked")
    secret, _ = State(settings).model_secret(model, folder)
    write_private(out, (to_text(lock_secret(secret)) + "\n").encode())
    use = {"kid": KID, "model": manifest.name, "steps": manifest.lock.steps, "block": manifest.lock.block}
    size = {"height": manifest.input.height, "width": manifest.input.width}
    report({"key": str(out), **use, **size}, as_json)


def _record(manifest: Manifest) -> dict[str, object]:
    return {
        "name": manifest.name,
        "version": manifest.version,
        "architecture": manifest.architecture,
        "classes": len(manifest.classes),
        "input": {"height": manifest.input.height, "width": manifest.input.width},
        "guards": manifest.guards,
        "metrics": manifest.metrics,
    }


def _line(manifest: Manifest) -> dict[str, object]:
    """A model in one line of a terminal."""
    measured = {name: manifest.metrics[f"test_{name}"] for name in SUMMARY if f"test_{name}" in manifest.metrics}
    return {
        **{name: value for name, value in _record(manifest).items() if name not in {"input", "metrics"}},
        "guards": " ".join(manifest.guards),
        "test": ", ".join(f"{name} {value:.4f}" for name, value in measured.items()),
    }


def _verified(settings: Settings, folder: Path) -> dict[str, str]:
    row = {"model": folder.name, "result": "fail"}
    try:
        manifest = bundles.load_manifest(folder, settings.bundle_signers)
        secret, public = State(settings).model_secret(manifest.name, folder)
        Predictor(folder, secret, choose_device("cpu"))
        bundles.check(folder, manifest)
    except (BundleError, ConfigurationError) as error:
        return {**row, "detail": str(error)}
    trusted = ", signed by one who is trusted" if settings.bundle_signers else ""
    detail = f"files intact, opens with its secret{trusted}" + (", DEMO: its secret is public" if public else "")
    return {**row, "result": "ok", "detail": detail}
