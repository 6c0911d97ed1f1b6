"""A training on disk after each epoch, replaced as a whole: whoever is stopped goes on from the last one."""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdb_client.errors import SdbError


class OtherTraining(SdbError):
    """The checkpoint that was found belongs to a training with other settings or another student."""


@dataclass(frozen=True)
class Epoch:
    """What an epoch came to: its mean loss, how long it took, and the top-1 on held-out images, if there are any."""

    loss: float
    seconds: float
    top1: float | None


class Checkpoint:
    """One student and its optimiser at `path`; without a path nothing is kept. `identity` tells trainings apart."""

    def __init__(
        self, path: Path | None, student: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, object]
    ) -> None:
        self._path, self._student, self._optimizer, self._identity = path, student, optimizer, dict(identity)

    def save(self, epochs: list[Epoch]) -> None:
        """Replace what is there by the state after these epochs."""
        if self._path is not None:
            state = {"student": self._student.state_dict(), "optimizer": self._optimizer.state_dict()}
            replace(self._path, {**state, "epochs": [asdict(epoch) for epoch in epochs], "identity": self._identity})

    def resume(self) -> list[Epoch]:
        """Load what is there, and return the epochs that are done.

        Raises:
            OtherTraining: it is another training's.
        """
        if self._path is None or not self._path.exists():
            return []
        found = torch.load(self._path, map_location="cpu", weights_only=True)
        if found["identity"] != self._identity:
            raise OtherTraining(f"{self._path} belongs to another training; delete it, or choose another folder")
        self._student.load_state_dict(found["student"])
        self._optimizer.load_state_dict(found["optimizer"])
        return [Epoch(**epoch) for epoch in found["epochs"]]


def begun(path: Path, student: nn.Module) -> None:
    """Let the student begin where the first run began: at `path`, or where it is now if this is the first.

    Raises:
        OtherTraining: another student began there.
    """
    if not path.exists():
        replace(path, student.state_dict())
    try:
        student.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except RuntimeError:
        raise OtherTraining(f"{path} is of another student; delete it, or choose another folder") from None


def replace(path: Path, state: Mapping[str, Any]) -> None:
    """Write `state` so that `path` is at every moment the old file or the new one, also when the power goes."""
    written(path, lambda partial: torch.save(dict(state), partial))


def written(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, and put it at `path` when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    write(partial)
    with partial.open("rb+") as file:
        os.fsync(file.fileno())
    partial.replace(path)
