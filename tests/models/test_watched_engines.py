"""An engine that is watched answers as one that is not, and says besides how sure the network was."""

from pathlib import Path

import numpy as np
import pytest
import torch

from models.engines.agreement import pictures
from models.engines.choice import EngineName, Wanted
from models.predictor import Predictor
from models.watch import certainty
from tests.conftest import SECRET

CPU = torch.device("cpu")


@pytest.mark.parametrize("engine", ["eager", pytest.param("onnxruntime", marks=pytest.mark.slow)])
def test_certainty_is_that_of_the_undisturbed_logits_whatever_leaves(engine: EngineName, zoo: Path) -> None:
    alone = Predictor(zoo / "tiny", SECRET, CPU)
    watched = Predictor(zoo / "tiny", SECRET, CPU, wanted=Wanted(engine, watched=True))
    assert watched.choice.engine.name == engine
    for size in (1, 5):
        pixels, keyed = pictures(size, 32, 32), np.arange(size) % 2 == 0
        logits, odds = watched.watched(pixels, keyed)
        assert odds is not None
        assert logits.shape == (size, len(alone.manifest.classes))
        assert logits.flags.c_contiguous
        np.testing.assert_allclose(logits, alone(pixels, keyed), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(watched(pixels, keyed), logits, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(odds, certainty(alone(pixels, np.ones(size, np.bool_))), rtol=1e-3, atol=1e-3)
        assert alone.watched(pixels, keyed)[1] is None


@pytest.mark.slow
def test_graphs_of_engines_that_are_watched_are_kept_apart_from_others(zoo: Path, tmp_path: Path) -> None:
    for watched in (False, True, False):
        found = Predictor(zoo / "tiny", SECRET, CPU, wanted=Wanted("onnxruntime", memory=tmp_path, watched=watched))
        assert found.choice.engine.name == "onnxruntime"
        assert (found.watched(pictures(3, 32, 32), np.zeros(3, np.bool_))[1] is not None) == watched
