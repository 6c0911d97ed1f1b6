"""The shipped model in this process, opened with its public secret."""

import torch

from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models.engines.choice import Wanted
from models.predictor import EAGER, Predictor

FOLDER = ZOO / "cifar10"


def shipped(wanted: Wanted = EAGER) -> Predictor:
    """On the CPU; `wanted` says by which engine."""
    secret = parse_secret((FOLDER / DEMO_SECRET).read_text(), "demo")
    return Predictor(FOLDER, secret, torch.device("cpu"), wanted=wanted)
