"""A student distilled over HTTP is the student distilled beside the model: the same soft labels, the same accuracy."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sdb_client import SoftLabels, distill
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models.backbones import build
from models.data import load
from models.predictor import Predictor
from tests.client.partners import partner
from tests.conftest import free_port, start_server

pytestmark = pytest.mark.slow
IMAGES, TESTED, BATCH = 1500, 1000, 100


def beside(images: Tensor) -> Tensor:
    """Soft labels of images uint8 [N, 3, H, W] by the model in this process, logits [N, K]."""
    secret = parse_secret((ZOO / "cifar10" / DEMO_SECRET).read_text(), "demo")
    predictor = Predictor(ZOO / "cifar10", secret, torch.device("cpu"))
    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    keyed = np.ones(BATCH, dtype=np.bool_)
    parts = (pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH))
    return torch.cat([torch.from_numpy(predictor(part, keyed[: len(part)])) for part in parts])


def student() -> nn.Module:
    torch.manual_seed(0)
    return build("plain_cnn", 10)


def test_over_http_or_beside_the_model_is_the_same(data: Path, tmp_path: Path) -> None:
    shown = load(data / "cifar10", "train", 32, 32).subset(torch.arange(IMAGES))
    tested = load(data / "cifar10", "test", 32, 32).subset(torch.arange(TESTED))
    held_out = DataLoader(TensorDataset(tested.images, tested.labels), batch_size=500)
    server = start_server(tmp_path / "var", ZOO, free_port())
    try:
        with partner(server, mark=0) as holder:
            images = TensorDataset(shown.images, shown.labels)
            labels = SoftLabels(
                images, holder.client, model="cifar10", cache=tmp_path / "labels", batch_size=BATCH, concurrency=1
            )
            labels.fetch()
    finally:
        server.process.terminate()
        server.process.wait()
    fetched = torch.stack([labels[number][2] for number in range(IMAGES)])
    own = beside(shown.images)
    assert torch.equal(fetched, own), "bit for bit, by one engine, whatever batches the server has made of them"
    local = TensorDataset(shown.images, shown.labels, own)
    reports = [
        distill(student(), DataLoader(source, 128, shuffle=True), held_out=held_out, epochs=4, alone=False)
        for source in (labels, local)
    ]
    over_http, in_process = (report.distilled.top1 or 0.0 for report in reports)
    standard_error = math.sqrt(in_process * (1 - in_process) / TESTED)
    assert abs(over_http - in_process) <= standard_error
    assert in_process > 0.3, "they have learned something"
