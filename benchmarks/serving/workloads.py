"""The networks to be served and the images to serve them: each as bundles for us, and bare for the other servers.

Knows bundles and files; knows no server. Where a network was not trained its weights are random: that changes its
answers and not its speed.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from app.settings import ZOO
from app.state import DEMO_SECRET
from benchmarks.peers.work import SUBJECT, Subject, Work
from benchmarks.serving.pictures import jpegs
from keys.material import from_text, to_text, write_private
from models import bundles
from models.bundles import BACKBONE, GuardSpec, InputSpec, Manifest
from models.key_stream import fingerprint
from models.release import FEWEST_IMAGES

PICTURES = 16
Way = Literal["tiers", "schedules", "bulk"]
SECRET = bytes(range(32))


@dataclass(frozen=True)
class Workload:
    """One network and its images; `folder` holds it bare, and each of `variants` as a folder of bundles for us.

    Servers are asked over so many `connections`, and this one in its other ways too, if `ways` says so.
    """

    name: str
    model: str
    folder: Path
    pictures: tuple[bytes, ...]
    variants: tuple[str, ...] = ("one pass",)
    connections: tuple[int, ...] = (1, 8, 32, 64)
    ways: frozenset[Way] = frozenset()

    def models_dir(self, variant: str) -> Path:
        """What `SDB_MODELS_DIR` is for that variant."""
        return self.folder / variant

    def bundle(self, variant: str) -> Path:
        """The bundle itself."""
        return self.models_dir(variant) / self.model


def small(folder: Path) -> Workload:
    """The shipped model: "shipped" as it is (every image in two views), "one pass" with one view, as the peers do."""
    manifest, tensors = bundles.load(ZOO / "cifar10")
    once = manifest.model_copy(update={"guard": manifest.guard.model_copy(update={"passes": 1})})
    for variant, chosen in (("shipped", manifest), ("one pass", once)):
        _bundle(folder / variant, chosen, tensors, (ZOO / "cifar10" / DEMO_SECRET).read_text())
    _bare(folder, manifest, tensors, max_batch=32)
    pictures, ways = tuple(jpegs(PICTURES, 32)), frozenset[Way](("tiers", "schedules", "bulk"))
    return Workload("small", manifest.name, folder, pictures, ("shipped", "one pass"), ways=ways)


def large(folder: Path) -> Workload:
    """torchvision's ResNet-18 at 224 px with 1,000 classes and random weights; images have 256 px."""
    return _one_pass("large", folder, _untrained("resnet18", 224), jpegs(PICTURES, 256), max_batch=8)


def gpu(folder: Path) -> Workload:
    """torchvision's ResNet-50 likewise, for a CUDA device."""
    manifest = _untrained("resnet50", 224)
    made = _one_pass("gpu", folder, manifest, jpegs(PICTURES, 256), max_batch=64, device="cuda")
    return replace(made, connections=(1, 64, 256), ways=frozenset[Way](("bulk",)))


def wide(folder: Path) -> Workload:
    """Next to no network, but 1,000 classes: what is measured is how an answer is written."""
    made = _one_pass("wide", folder, _untrained("plain_cnn", 8), jpegs(PICTURES, 8), max_batch=32)
    return replace(made, connections=(32,))


def _untrained(architecture: str, side: int) -> Manifest:
    return Manifest(
        name=architecture.replace("_", "-"),
        architecture=architecture,
        classes=tuple(f"class {number}" for number in range(1000)),
        input=InputSpec(height=side, width=side),
        guard=GuardSpec(passes=1, secret_fingerprint=fingerprint(SECRET)),
    )


def _one_pass(
    name: str, folder: Path, manifest: Manifest, pictures: list[bytes], *, max_batch: int, device: str = "cpu"
) -> Workload:
    torch.manual_seed(0)
    box = bundles.assemble(manifest, SECRET)
    tensors = box.state_dict()
    _bare(folder, manifest, tensors, max_batch=max_batch, device=device)
    work = Work(folder)
    decoded = torch.stack([work.decode(picture) for picture in pictures])
    box.release.calibrate(torch.cat([decoded.roll(shift, 3) for shift in range(FEWEST_IMAGES // PICTURES)]))
    _bundle(folder / "one pass", manifest, tensors, to_text(SECRET))
    return Workload(name, manifest.name, folder, tuple(pictures))


def _bundle(models_dir: Path, manifest: Manifest, tensors: Mapping[str, Tensor], secret: str) -> None:
    bundle = models_dir / manifest.name
    shutil.rmtree(bundle, ignore_errors=True)
    bundles.save(bundle, manifest, dict(tensors), from_text(secret.strip()))
    write_private(bundle / DEMO_SECRET, secret.strip().encode())


def _bare(
    folder: Path, manifest: Manifest, tensors: Mapping[str, Tensor], *, max_batch: int, device: str = "cpu"
) -> None:
    """The network without the box, for the peers."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {name.removeprefix(BACKBONE): tensor for name, tensor in tensors.items() if name.startswith(BACKBONE)}
    save_file({name: tensor.contiguous() for name, tensor in own.items()}, folder / "bare.safetensors")
    spec = manifest.input
    subject = Subject(
        manifest.architecture,
        len(manifest.classes),
        spec.height,
        spec.mean,
        spec.std,
        max_batch,
        "bare.safetensors",
        device,
    )
    (folder / SUBJECT).write_text(json.dumps(asdict(subject)))
