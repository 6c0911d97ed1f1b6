"""Laws of `distill`: a training that is stopped ends where another does, and the report says what was measured."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from sdb_client import distill
from sdb_client.distillation import loss
from sdb_client.distillation.checkpoint import OtherTraining
from sdb_client.progress import Bar
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader, IterableDataset, Subset, TensorDataset

import models.losses
from models.backbones import build
from tests.conftest import smooth_images

IMAGES, LABELS = smooth_images(64, side=16), torch.arange(64) % 10
TEACHER = torch.randn(64, 10, generator=torch.Generator().manual_seed(1)) + 6 * nn.functional.one_hot(LABELS, 10)
Batch = tuple[Tensor, Tensor, Tensor]


def loader(soft: Tensor = TEACHER, generator: torch.Generator | None = None) -> DataLoader[Batch]:
    data = TensorDataset(IMAGES, LABELS, soft)
    return DataLoader(data, batch_size=32, shuffle=True, generator=generator)  # type: ignore[arg-type]


def held_out() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(smooth_images(50, side=16, seed=2), torch.arange(50) % 10), batch_size=25)


def student(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build("plain_cnn", 10)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def stopping(after: int) -> Bar:
    """A progress bar that is interrupted after so many epochs."""

    @contextmanager
    def bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
        del title, total
        done = 0

        def told(more: int) -> None:
            nonlocal done
            done += more
            if done == after:
                raise KeyboardInterrupt

        yield told

    return bar


@pytest.mark.parametrize("stopped", [1, 2])
def test_a_training_that_was_stopped_ends_bit_for_bit_where_another_does(tmp_path: Path, stopped: int) -> None:
    whole, again = student(), student()
    report = distill(whole, loader(), held_out=held_out(), epochs=3, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        distill(student(), loader(), held_out=held_out(), epochs=3, out=tmp_path / "again", bar=stopping(stopped))
    second = distill(again, loader(), held_out=held_out(), epochs=3, out=tmp_path / "again")
    assert torch.equal(weights(whole), weights(again))
    assert [epoch.loss for epoch in second.distilled.epochs] == [epoch.loss for epoch in report.distilled.epochs]
    assert second.alone is not None
    assert report.alone is not None
    assert second.alone.top1 == report.alone.top1


def test_a_training_goes_on_with_the_student_that_began_it(tmp_path: Path) -> None:
    """A script that does not seed its student ends where it would have without the interruption."""
    whole, other = student(), student(seed=5)
    distill(whole, loader(), epochs=2, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        distill(student(), loader(), epochs=2, out=tmp_path / "again", bar=stopping(1))
    distill(other, loader(), epochs=2, out=tmp_path / "again")
    assert torch.equal(weights(whole), weights(other))


def test_a_finished_training_is_not_done_again(tmp_path: Path) -> None:
    first = distill(student(), loader(), held_out=held_out(), epochs=1, out=tmp_path)
    assert distill(student(), loader(), held_out=held_out(), epochs=1, out=tmp_path) == first


@pytest.mark.parametrize("change", [{"alpha": 0.5}, {"learning_rate": 0.05}, {"epochs": 2}, {"seed": 1}])
def test_a_folder_is_of_one_training(tmp_path: Path, change: dict[str, float]) -> None:
    distill(student(), loader(), epochs=1, alone=False, out=tmp_path)
    with pytest.raises(OtherTraining):
        distill(student(), loader(), alone=False, out=tmp_path, **{"epochs": 1, **change})  # type: ignore[arg-type]


def test_a_folder_is_of_one_student(tmp_path: Path) -> None:
    distill(student(), loader(), epochs=1, alone=False, out=tmp_path)
    with pytest.raises(OtherTraining):
        distill(build("cifar_resnet8", 10), loader(), epochs=1, alone=False, out=tmp_path)


def test_the_report_and_the_weights_are_written(tmp_path: Path) -> None:
    model = student()
    report = distill(model, loader(), held_out=held_out(), epochs=2, out=tmp_path)
    document = json.loads((tmp_path / "report.json").read_text())
    assert document["distilled"]["top1"] == report.distilled.top1
    assert document["gain"] == report.gain
    assert len(document["alone"]["epochs"]) == 2
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert "src=" not in page
    assert str(report) in page
    model.load_state_dict(load_file(tmp_path / "student.safetensors"))


def test_the_student_alone_never_sees_a_soft_label() -> None:
    first, second = (distill(student(), loader(soft), epochs=1) for soft in (TEACHER, -TEACHER))
    assert first.alone is not None
    assert second.alone is not None
    assert first.alone.epochs[0].loss == second.alone.epochs[0].loss
    assert first.distilled.epochs[0].loss != second.distilled.epochs[0].loss


@pytest.mark.parametrize("own", [None, torch.Generator()])
def test_the_seed_decides_the_order_and_the_augmentation(own: torch.Generator | None) -> None:
    same, again, other = (student() for _ in range(3))
    for number, model in enumerate((same, again, other)):
        torch.manual_seed(number)
        distill(model, loader(generator=own), epochs=1, alone=False, seed=number // 2)
    assert torch.equal(weights(same), weights(again))
    assert not torch.equal(weights(same), weights(other))


def test_the_callers_random_numbers_are_left_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model = build("plain_cnn", 10)
    torch.manual_seed(3)
    distill(model, loader(), epochs=1, alone=False)
    assert torch.equal(torch.rand(1), expected)


def test_probabilities_teach_what_their_logits_do() -> None:
    class Warm(TensorDataset):
        temperature = 3.0

    probabilities = Warm(IMAGES, LABELS, (TEACHER / 3).softmax(1))
    of_logits = distill(student(), loader(), epochs=1, temperature=3.0, alone=False)
    halves: ConcatDataset[tuple[Tensor, ...]] = ConcatDataset(
        [Subset(probabilities, range(32)), Subset(probabilities, range(32, 64))]
    )
    of_probabilities = distill(student(), DataLoader(halves, batch_size=32, shuffle=True), epochs=1, alone=False)
    assert of_probabilities.recipe.temperature == 3
    assert of_probabilities.distilled.epochs[0].loss == pytest.approx(of_logits.distilled.epochs[0].loss, rel=1e-4)


def test_images_that_stream_by_teach_too() -> None:
    class Passing(IterableDataset[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            return zip(IMAGES, LABELS, TEACHER, strict=True)

    report = distill(student(), DataLoader(Passing(), batch_size=19), epochs=2, alone=False)
    assert report.images is None
    assert report.distilled.epochs[1].loss < report.distilled.epochs[0].loss


def test_who_has_nothing_to_learn_from_or_to_be_measured_on_is_told_so() -> None:
    alone = DataLoader(TensorDataset(IMAGES, LABELS, TEACHER), batch_size=1, sampler=range(2))
    with pytest.raises(ValueError, match="batch_size"):
        distill(student(), alone, epochs=1)
    with pytest.raises(ValueError, match="held-out"):
        distill(student(), loader(), held_out=[], epochs=1)


def test_there_is_one_distillation_loss() -> None:
    assert models.losses.student_loss is loss.student_loss
