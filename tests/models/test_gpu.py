"""What must hold on a CUDA device; `make gpu` runs it."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning_fabric import Fabric

from models.backbones import Classifier, build
from models.data import LabelledImages
from models.guard import SafeDistillationBox
from models.predictor import Predictor
from models.release import Release
from models.training.loop import Recipe, train
from models.training.wrap import Mixture, box_step
from tests.conftest import SECRET, smooth_images

MEAN = (0.5, 0.5, 0.5)
pytestmark = pytest.mark.gpu


def test_the_gpu_answers_as_the_cpu_does(zoo: Path) -> None:
    pixels = smooth_images(64, seed=2).permute(0, 2, 3, 1).numpy()
    keyed = np.arange(64) % 2 == 0
    answers = [Predictor(zoo / "tiny", SECRET, torch.device(name))(pixels, keyed) for name in ("cpu", "cuda")]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-2, atol=2e-2)
    assert (answers[0].argmax(1) == answers[1].argmax(1)).mean() > 0.95


def test_a_box_trains_on_the_gpu_in_mixed_precision(tmp_path: Path) -> None:
    fabric = Fabric(accelerator="cuda", devices=1, precision="bf16-mixed")
    labels = torch.arange(256) % 4
    images = smooth_images(256) // 4 + (60 * labels).to(torch.uint8).view(-1, 1, 1, 1)
    data = LabelledImages(images, labels, ("a", "b", "c", "d"))
    torch.manual_seed(0)
    teacher, network = (Classifier(build("cifar_resnet8", 4), MEAN, MEAN).cuda().eval() for _ in range(2))
    box = SafeDistillationBox(copy.deepcopy(network), SECRET, Release(SECRET, 4), shape=(3, 32, 32))
    box.release.calibrate(images)
    frozen = box.requires_grad_(False).cuda()
    step = box_step(teacher.requires_grad_(False), frozen, frozen.release, temperature=4.0, mixture=Mixture())
    recipe = Recipe(2, 0.05, batch_size=64)
    for _ in range(2):  # the second time it resumes from the checkpoint
        trained = train(fabric, network, data, step, recipe, title="box", checkpoint=tmp_path / "box.pt")
        assert all(parameter.isfinite().all() for parameter in trained.parameters())
