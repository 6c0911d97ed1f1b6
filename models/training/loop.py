"""The only training loop: batches, schedule, progress, checkpoints, Ctrl-C and resume, one device or many.

Knows how to train, not what: a `Step` turns a batch into losses. Every random choice is drawn from a generator seeded
by (seed, epoch, step), so a run that was interrupted and resumed ends, on one CPU, bit for bit where an uninterrupted
one does.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import torch
from lightning_fabric import Fabric
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sdb_client.distillation.schedule import warmed_cosine
from sdb_client.distillation.seeds import generator_of
from torch import Tensor, nn

from models.data import LabelledImages

CHECKPOINT_EVERY_S = 300.0
PREDICTION_BATCH = 500


class Interrupted(Exception):
    """Ctrl-C: the checkpoint is on disk, the same command goes on from it."""


class CheckpointMismatch(ValueError):
    """The checkpoint found is damaged, or belongs to a run with other settings."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast: SGD with Nesterov momentum, linear warm-up, cosine decay to zero, clipped gradients."""

    epochs: int
    learning_rate: float
    batch_size: int = 128
    warmup: float = 0.1  # share of all steps
    momentum: float = 0.9
    weight_decay: float = 5e-4
    clip_norm: float = 5.0
    seed: int = 0


@dataclass(frozen=True)
class Batch:
    """Images float [B, 3, H, W] in [0, 1], labels [B], their rows in the training set [B], a seeded generator.

    `progress` in [0, 1) is the share of the training that lies behind.
    """

    images: Tensor
    labels: Tensor
    rows: Tensor
    generator: torch.Generator
    progress: float


Step = Callable[[nn.Module, Batch], dict[str, Tensor]]
Validate = Callable[[nn.Module], dict[str, float]]


def train(
    fabric: Fabric,
    model: nn.Module,
    data: LabelledImages,
    step: Step,
    recipe: Recipe,
    *,
    title: str,
    identity: Mapping[str, object] = {},
    checkpoint: Path | None = None,
    validate: Validate | None = None,
) -> nn.Module:
    """Minimise the sum of the losses that `step` returns, and return the trained model in evaluation mode.

    Raises:
        Interrupted: Ctrl-C; the state is in `checkpoint`.
        CheckpointMismatch: `checkpoint` is damaged, or was written under another title, recipe or `identity`: whatever
            else decides what is trained.
    """
    stride = fabric.world_size
    share = len(data) // stride
    batch_size = min(recipe.batch_size, share)
    steps = share // batch_size
    total = recipe.epochs * steps
    wrapped, optimizer = fabric.setup(model.to(memory_format=torch.channels_last), sgd(model, recipe))
    facts = {"title": title, **asdict(recipe), "images": len(data), "processes": stride, **identity}
    state = _State(fabric, wrapped, optimizer, checkpoint, facts)

    def optimise(position: int, rows: Tensor) -> dict[str, float]:
        wrapped.train()
        generator = generator_of(recipe.seed, position, fabric.global_rank, 1)
        torch.manual_seed(generator.initial_seed())  # dropout and stochastic depth
        losses = step(wrapped, _batch(fabric, data, rows, generator, position / total))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * warmed_cosine(position / total, recipe.warmup)
        optimizer.zero_grad()
        fabric.backward(torch.stack(list(losses.values())).sum())
        fabric.clip_gradients(wrapped, optimizer, max_norm=recipe.clip_norm)
        optimizer.step()
        return {name: value.item() for name, value in losses.items()}

    console = Console(stderr=True, quiet=not fabric.is_global_zero)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with _interruptible() as interrupted, Progress(*columns, console=console) as progress:
        done, order = state.resume(), torch.empty(0)
        bar = progress.add_task(title, total=total, completed=done)
        for position in range(done, total):
            epoch, number = divmod(position, steps)
            if number == 0 or not len(order):
                order = torch.randperm(len(data), generator=generator_of(recipe.seed, epoch))
            losses = optimise(position, order[number * batch_size * stride + fabric.global_rank :: stride][:batch_size])
            shown = f"{title} {epoch + 1}/{recipe.epochs} " + " ".join(f"{k} {v:.3f}" for k, v in losses.items())
            progress.update(bar, completed=position + 1, description=shown)
            epoch_ends = number + 1 == steps
            if epoch_ends and validate is not None:
                wrapped.eval()
                figures = " ".join(f"{name} {value:.4f}" for name, value in validate(wrapped).items())
                console.print(shown, figures, highlight=False)
            stop, due = _agreed(fabric, interrupted(), state.age() > CHECKPOINT_EVERY_S)
            if epoch_ends or stop or due:
                state.save(position + 1)
            if stop:
                raise Interrupted(f"{title} stopped after {position + 1} of {total} steps")
    return model.eval()


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The optimiser of `recipe`; its schedule and clipping are the loop's."""
    return torch.optim.SGD(
        model.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )


class _State:
    """Model and optimizer on disk, with the number of steps done and the identity of the run."""

    def __init__(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        path: Path | None,
        identity: dict[str, object],
    ) -> None:
        self._fabric, self._model, self._optimizer = fabric, model, optimizer
        self._path, self._identity, self._saved = path, identity, time.monotonic()

    def age(self) -> float:
        """Seconds since the last save."""
        return time.monotonic() - self._saved

    def save(self, done: int) -> None:
        """Replace the checkpoint as a whole."""
        self._saved = time.monotonic()
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_suffix(".partial")
        state = {"model": self._model, "optimizer": self._optimizer, "done": done, "identity": self._identity}
        self._fabric.save(partial, state)
        if self._fabric.is_global_zero:
            partial.replace(self._path)
        self._fabric.barrier()

    def resume(self) -> int:
        """Load the checkpoint, if there is one, and return the number of steps done."""
        if self._path is None or not self._path.exists():
            return 0
        try:
            found = self._fabric.load(self._path, weights_only=True)
        except Exception as error:  # whatever torch says of a file that a full disk or a power cut has damaged
            raise CheckpointMismatch(f"{self._path} is damaged; delete it to start anew") from error
        if found["identity"] != self._identity:
            raise CheckpointMismatch(f"{self._path} belongs to another run; delete it to start anew")
        self._model.load_state_dict(found["model"])
        self._optimizer.load_state_dict(found["optimizer"])
        done: int = found["done"]
        return done


def _agreed(fabric: Fabric, *flags: bool) -> list[bool]:
    """Each flag as soon as one process has it: processes that stop at different steps would wait for ever."""
    if fabric.world_size == 1:
        return list(flags)
    votes = fabric.all_reduce(torch.tensor(flags, dtype=torch.float32, device=fabric.device), reduce_op="sum")
    return [bool(vote) for vote in votes]


def _batch(fabric: Fabric, data: LabelledImages, rows: Tensor, generator: torch.Generator, progress: float) -> Batch:
    images = data.images[rows].to(fabric.device, non_blocking=True).float().div_(255)
    labels = data.labels[rows].to(fabric.device, non_blocking=True)
    return Batch(images.contiguous(memory_format=torch.channels_last), labels, rows, generator, progress)


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C sets a flag that is looked at between steps; the second one is the usual interrupt."""
    flag = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal flag
        if flag:
            signal.default_int_handler(number, frame)
        flag = True

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: flag
    finally:
        signal.signal(signal.SIGINT, previous)


def predict(answer: Callable[[Tensor], Tensor], images: Tensor, device: torch.device) -> Tensor:
    """What `answer` says of images uint8 [N, 3, H, W], given to it as floats in [0, 1]: logits [N, K] on the CPU."""
    with torch.inference_mode():
        parts = [
            answer(chunk.to(device).float().div_(255).contiguous(memory_format=torch.channels_last)).float().cpu()
            for chunk in torch.split(images, PREDICTION_BATCH)
        ]
    return torch.cat(parts)
