"""The loop: batches of images, labels and soft labels into one student.

Knows neither where soft labels come from nor what is reported. Every random choice is drawn from a generator seeded by
(seed, epoch, step), so that on a CPU a training that was stopped and gone on with ends bit for bit where another does.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from sdb_client.distillation.augmentation import random_views
from sdb_client.distillation.checkpoint import Checkpoint, Epoch
from sdb_client.distillation.evaluation import pixels, top1
from sdb_client.distillation.loss import student_loss
from sdb_client.distillation.recipe import Recipe
from sdb_client.distillation.schedule import warmed_cosine
from sdb_client.distillation.seeds import generator_of

Batch = tuple[Tensor, Tensor, Tensor]
Logits = Callable[[Tensor], Tensor]
READ, TRAIN = 0, 1  # what the random numbers of a step are for


def train(
    student: nn.Module,
    loader: DataLoader[Batch],
    recipe: Recipe,
    *,
    logits: Logits,
    device: torch.device,
    held_out: Iterable[tuple[Tensor, ...]] | None,
    checkpoint: Path | None,
    identity: Mapping[str, object],
    told: Callable[[int], object],
) -> list[Epoch]:
    """Train the student in place; what each epoch came to.

    `logits` maps the loader's soft labels [B, K] to logits. `told` hears of every epoch.

    Raises:
        OtherTraining: `checkpoint` belongs to another training.
    """
    student.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        student.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.momentum > 0,
    )
    state = Checkpoint(checkpoint, student, optimizer, identity)
    epochs, work = state.resume(), _Work(student, optimizer, recipe, logits, device)
    told(len(epochs))
    with torch.random.fork_rng():
        for number in range(len(epochs), recipe.epochs):
            started = time.monotonic()
            loss = work.epoch(loader, number)
            accuracy = None if held_out is None else top1(student, held_out, device)
            epochs.append(Epoch(loss, round(time.monotonic() - started, 3), accuracy))
            state.save(epochs)
            told(1)
    student.eval()
    return epochs


@dataclass(frozen=True)
class _Work:
    """A student and what changes it."""

    student: nn.Module
    optimizer: torch.optim.Optimizer
    recipe: Recipe
    logits: Logits
    device: torch.device

    def epoch(self, loader: DataLoader[Batch], number: int) -> float:
        """One pass through the loader; the mean loss of its batches; raises ValueError if there was none."""
        self.student.train()
        seed, steps, losses = self.recipe.seed, _steps(loader), []
        for step, batch in enumerate(_batches(loader, seed, number)):
            draw = generator_of(seed, number, step, TRAIN)
            torch.manual_seed(draw.initial_seed())  # dropout and stochastic depth
            progress = (number + (step / steps if steps else 0.0)) / self.recipe.epochs
            if len(batch[1]) > 1:  # batch normalisation needs two; one may be left over
                losses.append(self._step(batch, draw, progress))
        if not losses:
            raise ValueError("the loader gave no batch of two images or more: raise its batch_size")
        return torch.stack(losses).mean().item()

    def _step(self, batch: Batch, draw: torch.Generator, progress: float) -> Tensor:
        images, labels, soft = batch
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * warmed_cosine(progress, self.recipe.warmup)
        shown = pixels(images, self.device)
        answer = self.student(random_views(shown, draw) if self.recipe.augment else shown)
        target, truth = self.logits(soft).to(self.device), labels.to(self.device)
        loss = student_loss(answer, target, truth, temperature=self.recipe.temperature, alpha=self.recipe.alpha)
        self.optimizer.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.student.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        return loss.detach()


def _batches(loader: DataLoader[Batch], seed: int, epoch: int) -> Iterator[Batch]:
    """The loader's batches in an order, and with augmentations, that (seed, epoch) decide."""
    draw = generator_of(seed, epoch)
    torch.manual_seed(draw.initial_seed())  # the sampler's, and what workers are seeded by
    if loader.generator is not None:
        loader.generator.manual_seed(draw.initial_seed())
    step, batches = 0, iter(loader)
    while True:
        torch.manual_seed(generator_of(seed, epoch, step, READ).initial_seed())  # transforms in this process
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch
        step += 1


def _steps(loader: DataLoader[Batch]) -> int | None:
    """How many batches an epoch has; None if nobody knows before it ends."""
    try:
        return len(loader)
    except TypeError:
        return None
