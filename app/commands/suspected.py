"""Who is suspected, as it is named on the command line: a bundle, bare weights, a server, a file of answers."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import typer

from app.remote import RemoteModel
from app.settings import Settings
from app.state import State
from models import bundles
from models.backbones import architectures
from models.bundles import BundleError, InputSpec, Manifest
from models.evaluation import suspects
from models.evaluation.suspects import Suspect

WEB = ("http://", "https://")
ANSWERS, WEIGHTS = ".csv", ".safetensors"


@dataclass(frozen=True)
class Named:
    """What was typed of a suspect: where it is, and what is needed to ask it there."""

    where: str
    architecture: str | None
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    model: str
    credential: str | None

    @property
    def file_of_answers(self) -> Path | None:
        """The file, if it was asked already."""
        path = Path(self.where)
        return path if path.suffix == ANSWERS and not self.where.startswith(WEB) else None

    def open(self, model: Manifest, settings: Settings, device: torch.device) -> Suspect:
        """What can be asked, with the classes of our `model`.

        Raises:
            BundleError: it cannot be opened, or has other classes.
            RemoteError: the server does not answer, or has no such model.
        """
        found = self._open(model, settings, device)
        if found.classes is not None and found.classes != model.classes:
            raise BundleError(f"{self.where} has other classes than {model.name}, or in another order")
        return found

    def _open(self, model: Manifest, settings: Settings, device: torch.device) -> Suspect:
        if self.where.startswith(WEB):
            return _remote(self.where, self.model, self.credential)
        path = Path(self.where)
        if path.suffix == WEIGHTS:
            if self.architecture not in architectures():
                raise typer.BadParameter(f"one of {', '.join(architectures())}", param_hint="--arch")
            spec = InputSpec(height=model.input.height, width=model.input.width, mean=self.mean, std=self.std)
            return suspects.weights(path, self.architecture, model, spec, device)
        if not (path / bundles.MANIFEST).is_file():
            raise typer.BadParameter("a bundle's folder, .safetensors, .csv or a URL", param_hint="--suspect")
        secret, _ = State(settings).model_secret(bundles.load_manifest(path).name, path)
        return suspects.bundle(path, secret, device)


def _remote(url: str, name: str, credential: str | None) -> Suspect:
    """A model on a server of this kind; what its box disturbs is told by the top-1 alone."""
    model = RemoteModel(url, name, credential)
    card = model.card()
    disturbed = "distill" not in card.tiers
    return Suspect(
        "server",
        f"{url}, model {card.name}",
        tuple(card.classes),
        (card.input.height, card.input.width),
        partial(RemoteModel.query, model),
        top1_only=disturbed,
    )
