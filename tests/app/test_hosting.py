"""Laws of a hosted model: its replicas share the work, memory that runs out is no error of ours, the engine is told."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from app.errors import ModelFailed, Overloaded
from app.hosting import HostedModel, Models, Rows, Vectors
from app.settings import Settings
from app.state import State
from models.data import Pixels
from models.engines.choice import Wanted
from models.engines.cores import Cores
from models.engines.engine import Logits, Rights
from models.predictor import Predictor
from tests.conftest import SECRET, smooth_images
from tests.cramped import Cramped

CPU = torch.device("cpu")
PIXELS = smooth_images(8, seed=3).permute(0, 2, 3, 1).contiguous().numpy()


class Counting(Predictor):
    """A replica that counts its images, and how many of its batches run at the same time."""

    images, running, most = 0, 0, 0

    def __call__(self, images: Pixels, keyed: Rights, unlocked: Rights | None = None) -> Logits:
        self.images, self.running = self.images + len(images), self.running + 1
        self.most = max(self.most, self.running)
        try:
            return super().__call__(images, keyed, unlocked)
        finally:
            self.running -= 1


@asynccontextmanager
async def started(model: HostedModel) -> AsyncIterator[HostedModel]:
    await model.start()
    try:
        yield model
    finally:
        await model.close()


async def test_replicas_share_the_work_and_none_gets_more_at_once_than_it_takes(zoo: Path, settings: Settings) -> None:
    wanted = Wanted("eager", Cores(2, 1))
    replicas = [Counting(zoo / "tiny", SECRET, CPU, wanted=wanted) for _ in range(2)]
    small = settings.model_copy(update={"max_batch": 2})
    alone = Predictor(zoo / "tiny", SECRET, CPU)(PIXELS, np.arange(8) >= 4)
    async with started(HostedModel(replicas, small)) as model:
        requests = (Rows(PIXELS[:4], keyed=False), Rows(PIXELS[4:], keyed=True))
        answers = await asyncio.gather(*(model.submit(rows) for rows in requests * 10))
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(answer.logits, alone[4:] if number % 2 else alone[:4], rtol=1e-4, atol=1e-4)
    assert sum(replica.images for replica in replicas) == 80
    assert all(replica.images and replica.most <= 2 for replica in replicas)


async def test_a_device_without_room_for_an_image_is_overloaded_and_goes_on(zoo: Path, settings: Settings) -> None:
    replica = Predictor(zoo / "tiny", SECRET, CPU)
    expected = replica(PIXELS, np.zeros(8, np.bool_))
    cramped = replica.box.network = Cramped(replica.box.network, most=1)  # an image is two rows, one per view
    async with started(HostedModel([replica], settings)) as model:
        with pytest.raises(Overloaded):
            await model.submit(Rows(PIXELS, keyed=False))
        cramped.most = 4
        answer = await model.submit(Rows(PIXELS, keyed=False))
        np.testing.assert_allclose(answer.logits, expected, rtol=1e-4, atol=1e-4)


class Dim(Predictor):
    """A replica whose answer to a black image is not a number."""

    def __call__(self, images: Pixels, keyed: Rights, unlocked: Rights | None = None) -> Logits:
        logits = super().__call__(images, keyed, unlocked)
        return np.where(images.max(axis=(1, 2, 3), keepdims=True)[:, 0, 0] > 0, logits, np.float32(np.nan))


async def test_what_is_not_a_number_does_not_leave_and_harms_no_other_request_of_its_batch(
    zoo: Path, settings: Settings
) -> None:
    async with started(HostedModel([Dim(zoo / "tiny", SECRET, CPU)], settings)) as model:
        bad, good = await asyncio.gather(
            *(model.submit(Rows(rows, keyed=True)) for rows in (np.zeros_like(PIXELS[:2]), PIXELS[:2])),
            return_exceptions=True,
        )
    assert isinstance(bad, ModelFailed)
    assert isinstance(good, Vectors)
    assert np.isfinite(good.logits).all()


def test_the_log_says_which_engine_runs(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Models.load(settings, State(settings))
    assert "model tiny ready on cpu" in caplog.text
    assert caplog.messages[-1].endswith(": eager")
