"""`distill`: a student learns from soft labels, and is compared with itself alone."""

import copy
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sdb_client.distillation.checkpoint import begun, written
from sdb_client.distillation.recipe import Recipe
from sdb_client.distillation.report import Report, Trained, trained
from sdb_client.distillation.training import Batch, Logits, train
from sdb_client.progress import Bar, bar

WEIGHTS, BEGINNING = "student.safetensors", "beginning.pt"


def distill(
    student: nn.Module,
    loader: DataLoader[Any],
    *,
    held_out: Iterable[tuple[Tensor, ...]] | None = None,
    epochs: int = Recipe.epochs,
    temperature: float | None = None,
    alpha: float = Recipe.alpha,
    learning_rate: float = Recipe.learning_rate,
    momentum: float = Recipe.momentum,
    weight_decay: float = Recipe.weight_decay,
    warmup: float = Recipe.warmup,
    clip_norm: float = Recipe.clip_norm,
    augment: bool | None = None,
    seed: int = Recipe.seed,
    alone: bool = True,
    out: str | os.PathLike[str] | None = None,
    device: str | torch.device = "auto",
    bar: Bar = bar,
) -> Report:
    """Train `student`, in place, on a loader of (images [B, 3, H, W], labels [B], soft labels [B, K]).

    The loader's data set is a `SoftLabels`, or one whose soft labels are logits. Images are uint8, or floats as the
    student takes them. The loss is α·T²·KL + (1−α)·cross-entropy; T is the data set's `temperature`, or 4. `augment`
    crops and mirrors at random; None: unless the data set has several views, which are that already.

    With `alone` a copy of the student learns the same steps with α = 0, to compare with on the loader `held_out`. With
    `out` the weights, the report and a checkpoint after each epoch go to that folder: whoever is stopped calls the same
    again and goes on, on a CPU to the same last bit. `device` "auto" is CUDA where there is some.

    Raises:
        OtherTraining: the folder `out` holds a training with other settings.
        ValueError: images of another shape, no batch of two of them, or none held out.
    """
    recipe = Recipe(
        epochs=epochs,
        temperature=temperature or made_at(loader) or Recipe.temperature,
        alpha=alpha,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        warmup=warmup,
        clip_norm=clip_norm,
        augment=getattr(_source(loader), "views", 1) == 1 if augment is None else augment,
        seed=seed,
    )
    folder = None if out is None else Path(out)
    if folder is not None:
        begun(folder / BEGINNING, student)
    where, twin = _device(device), copy.deepcopy(student)

    def learned(name: str, model: nn.Module, share: float) -> Trained:
        own = replace(recipe, alpha=share)
        with bar(name, epochs) as told:
            found = train(
                model,
                loader,
                own,
                logits=_logits(loader),
                device=where,
                held_out=held_out,
                checkpoint=None if folder is None else folder / f"{name}.pt",
                identity={**asdict(own), **_labels(loader), "images": _length(loader.dataset)},
                told=told,
            )
        return trained(name, share, found, _length(held_out))

    report = Report(
        distilled=learned("distilled", student, recipe.alpha),
        alone=learned("alone", twin, 0.0) if alone else None,
        recipe=recipe,
        labels=_labels(loader),
        images=_length(loader.dataset),
        held_out=_length(held_out),
        environment={"torch": torch.__version__, "python": platform.python_version(), "device": _name(where)},
    )
    if folder is not None:
        save_weights(student, folder / WEIGHTS)
        report.save(folder)
    return report


def save_weights(module: nn.Module, path: Path) -> None:
    """Write the weights of `module` as safetensors, from whatever device and memory format."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in module.state_dict().items()}
    written(path, lambda partial: save_file(tensors, partial))


def made_at(loader: DataLoader[Batch]) -> float | None:
    """The temperature of the loader's soft labels if they are probabilities; None if they are logits."""
    found: float | None = getattr(_source(loader), "temperature", None)
    return found


def _logits(loader: DataLoader[Batch]) -> Logits:
    """What makes logits of the loader's soft labels: of probabilities at T it is T·log, up to a constant."""
    temperature = made_at(loader)
    if temperature is None:
        return lambda soft: soft
    return lambda soft: temperature * soft.clamp_min(torch.finfo(soft.dtype).tiny).log()


def _source(loader: DataLoader[Batch]) -> object:
    """The data set behind the subsets of it, or the first behind the concatenations, that the loader may have."""
    found: Any = loader.dataset
    while not hasattr(found, "temperature") and (hasattr(found, "dataset") or hasattr(found, "datasets")):
        found = found.dataset if hasattr(found, "dataset") else found.datasets[0]
    return found


def _labels(loader: DataLoader[Batch]) -> dict[str, object]:
    """Where the soft labels come from."""
    source = _source(loader)
    names = ("model", "version", "temperature", "views", "store")
    return {name: getattr(source, name) for name in names if hasattr(source, name)}


def _length(images: object) -> int | None:
    """How many images a loader or a data set has, None if nobody knows."""
    counted = getattr(images, "dataset", images)
    return len(counted) if hasattr(counted, "__len__") else None


def _device(name: str | torch.device) -> torch.device:
    if name != "auto":
        return torch.device(name)
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
