"""What must hold on a CUDA device; `make gpu` runs it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.predictor import Predictor
from tests.conftest import SECRET, smooth_images

pytestmark = pytest.mark.gpu


def test_the_gpu_answers_as_the_cpu_does(zoo: Path) -> None:
    pixels = smooth_images(64, seed=2).permute(0, 2, 3, 1).numpy()
    keyed, views = np.arange(64) % 2 == 0, np.full(64, 2)
    answers = [Predictor(zoo / "tiny", SECRET, torch.device(name))(pixels, keyed, views) for name in ("cpu", "cuda")]
    np.testing.assert_allclose(answers[0], answers[1], rtol=1e-2, atol=2e-2)
    assert (answers[0].argmax(1) == answers[1].argmax(1)).mean() > 0.95
