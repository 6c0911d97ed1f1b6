"""Models of this machine as they are named on the command line, opened with the secrets of its state folder."""

from pathlib import Path

import torch

from app.errors import UnknownModel
from app.settings import Settings
from app.state import State
from models import bundles
from models.bundles import Manifest
from models.predictor import Predictor


def manifests(settings: Settings) -> dict[Path, Manifest]:
    """What each bundle in SDB_MODELS_DIR says of itself, by its folder.

    Raises:
        BundleError: there is none, or one cannot be read.
    """
    return {folder: bundles.load_manifest(folder) for folder in bundles.discover(settings.models_dir)}


def find(settings: Settings, name: str) -> tuple[Path, Manifest]:
    """The bundle in SDB_MODELS_DIR that calls itself so.

    Raises:
        UnknownModel: there is none.
    """
    for folder, manifest in manifests(settings).items():
        if manifest.name == name:
            return folder, manifest
    raise UnknownModel(f"no model called {name} in {settings.models_dir}")


def find_or_folder(settings: Settings, named: str) -> Path:
    """The folder of a bundle, if `named` is one; else that of the bundle in SDB_MODELS_DIR that calls itself so."""
    folder = Path(named)
    return folder if (folder / bundles.MANIFEST).is_file() else find(settings, named)[0]


def opened(settings: Settings, folder: Path, device: torch.device) -> tuple[Predictor, bytes]:
    """A bundle as this deployment serves it, and its secret.

    Raises:
        BundleError, ConfigurationError: it is damaged, or there is no secret that opens it.
    """
    state = State(settings)
    secret, _ = state.model_secret(bundles.load_manifest(folder).name, folder)
    return Predictor(folder, secret, device, state.deployment), secret
