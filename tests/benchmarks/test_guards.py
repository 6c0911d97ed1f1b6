"""Laws of what ours is compared with: the published losses, and a server without the guard."""

import torch
from torch.nn import functional as F

from benchmarks.guards import published_losses
from benchmarks.serving.bare import unguarded
from models.bundles import GuardSpec, InputSpec, Manifest
from models.engines.engine import Answering
from models.key_stream import fingerprint
from tests.conftest import SECRET

LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


def test_the_published_losses_prefer_a_wrong_answer() -> None:
    """Why they are not ours: at w = 1 the disturbance outweighs the cross-entropy of everything that is right."""
    right = 20 * F.one_hot(LABELS, 5).float()
    wrong = right.roll(1, 1)
    totals = [
        torch.stack(list(published_losses(unkeyed, right, right, LABELS, weight).values())).sum().item()
        for weight in (1.0, 0.04)
        for unkeyed in (right, wrong)
    ]
    assert totals[1] < totals[0], "w = 1"
    assert totals[3] > totals[2], "w = 0.04"


def test_a_server_without_the_guard_gives_everybody_what_the_network_says() -> None:
    """Else the benchmark would compare the guard with itself."""
    spec = InputSpec(height=32, width=32)
    guard = GuardSpec(own_normalisation=True, secret_fingerprint=fingerprint(SECRET))
    manifest = Manifest(name="t", architecture="cifar_resnet8", classes=("a", "b"), input=spec, guard=guard)
    box = unguarded(manifest, SECRET).eval()
    pixels, rights = torch.randint(256, (4, 32, 32, 3), dtype=torch.uint8), torch.tensor([True, False] * 2)
    with torch.inference_mode():
        plain = box.network(pixels.permute(0, 3, 1, 2).float() / 255)
        torch.testing.assert_close(Answering(box)(pixels, rights), plain)
