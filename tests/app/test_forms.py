"""A form is read where it is: in memory."""

import tempfile

import numpy as np
import pytest

from app.settings import Settings
from tests.conftest import application, encode


async def test_no_image_of_a_form_is_written_to_a_disk(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), np.uint8)
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    async with application(settings.model_copy(update={"max_body_bytes": 2**22})) as api:
        answer = await api.client.post("/v1/models/tiny/predict", files={"image": encode(noise)})
    assert answer.status_code == 200, answer.text
