"""Laws of the serving façade: rows are independent, tiers agree, views are averaged, the shipped model is as stated."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from app.settings import ZOO
from app.state import DEMO_SECRET
from keys.material import parse_secret
from models import bundles
from models.bundles import BundleError, GuardSpec, InputSpec, LockSpec, Manifest
from models.data import load
from models.key_stream import fingerprint
from models.lock import lock_transform
from models.predictor import Predictor, choose_device, choose_devices
from tests.conftest import CLASSES, SECRET, smooth_images

CPU = torch.device("cpu")
PIXELS = smooth_images(12, seed=5).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def predictor(zoo: Path) -> Predictor:
    return Predictor(zoo / "tiny", SECRET, CPU)


def flags(*values: bool) -> "np.ndarray[tuple[int], np.dtype[np.bool_]]":
    return np.array(values, dtype=np.bool_)


def test_a_row_is_answered_the_same_in_any_batch(predictor: Predictor) -> None:
    keyed = flags(*[True, False, True] * 4)
    together = predictor(PIXELS, keyed)
    alone = [predictor(PIXELS[i : i + 1], keyed[i : i + 1])[0] for i in range(12)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-4, atol=1e-4)
    assert together.dtype == np.float32


@pytest.mark.parametrize("keyed", [True, False])
def test_an_image_and_its_mirror_are_answered_alike(predictor: Predictor, keyed: bool) -> None:
    """Two passes see both, so asking for the mirror as well teaches nothing."""
    mirrored = np.ascontiguousarray(PIXELS[:, :, ::-1])
    first, second = predictor(PIXELS, flags(*[keyed] * 12)), predictor(mirrored, flags(*[keyed] * 12))
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-3)


def test_both_tiers_of_an_image_have_one_top1(predictor: Predictor) -> None:
    public, own = predictor(PIXELS, flags(*[False] * 12)), predictor(PIXELS, flags(*[True] * 12))
    np.testing.assert_array_equal(public.argmax(1), own.argmax(1))


def test_deployments_of_one_bundle_have_other_false_peaks_and_the_same_knowledge(zoo: Path) -> None:
    first, second = (Predictor(zoo / "tiny", SECRET, CPU, deployment) for deployment in (bytes(32), bytes([1]) * 32))
    np.testing.assert_array_equal(first(PIXELS, flags(*[True] * 12)), second(PIXELS, flags(*[True] * 12)))
    public = first(PIXELS, flags(*[False] * 12)), second(PIXELS, flags(*[False] * 12))
    assert np.abs(public[0] - public[1]).mean() > 1


def test_an_unlocked_row_is_answered_as_the_image_that_a_client_transformed(tmp_path: Path) -> None:
    lock = LockSpec(steps=("shf", "np"), block=4)
    guard = GuardSpec(kind="lock", lam=1.0, passes=1, secret_fingerprint=fingerprint(SECRET))
    spec = InputSpec(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    manifest = Manifest(name="t", architecture="cifar_resnet8", classes=CLASSES, input=spec, guard=guard, lock=lock)
    torch.manual_seed(0)
    bundles.save(tmp_path, manifest, bundles.assemble(manifest, SECRET).state_dict(), SECRET)
    served = Predictor(tmp_path, SECRET, CPU)
    transformed = lock_transform(SECRET, "t", lock.steps, lock.block).apply(PIXELS)
    everybody, unlocked = flags(*[True] * 12), flags(*[True, False] * 6)
    own, plain = served(transformed, everybody), served(PIXELS, everybody)
    mixed = served(PIXELS, everybody, unlocked)
    np.testing.assert_allclose(mixed[::2], own[::2], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(mixed[1::2], plain[1::2], rtol=1e-4, atol=1e-4)
    assert np.abs(own - plain).mean() > 0.01


@pytest.mark.parametrize(("stated", "other"), [("cifar_resnet8", "cifar_resnet20"), ('"truck"', '"truck", "van"')])
def test_weights_of_another_architecture_or_of_other_classes_are_refused(
    zoo: Path, tmp_path: Path, stated: str, other: str
) -> None:
    folder = Path(shutil.copytree(zoo / "tiny", tmp_path / "tiny"))
    manifest = folder / bundles.MANIFEST
    manifest.write_text(manifest.read_text().replace(stated, other))
    with pytest.raises(BundleError, match="do not fit"):
        Predictor(folder, SECRET, CPU)


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "meta", ""])
def test_a_device_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="device"):
        choose_device(name)


def test_a_device_is_named_once() -> None:
    assert choose_devices("cpu") == [CPU]
    for names in ("cpu,cpu", "cpu,cpu:0"):
        with pytest.raises(ValueError, match="twice"):
            choose_devices(names)


def test_the_shipped_model_is_as_good_as_its_manifest_says(data: Path) -> None:
    """On 1,000 test images both tiers agree on 95 % and have the stated accuracy, within three standard errors."""
    folder = ZOO / "cifar10"
    shipped = Predictor(folder, parse_secret((folder / DEMO_SECRET).read_text(), "demo"), CPU)
    test = load(data / "cifar10", "test", 32, 32)
    chosen = test.subset(torch.randperm(len(test), generator=torch.Generator().manual_seed(0))[:1000])
    pixels, labels = chosen.images.permute(0, 2, 3, 1).numpy(), chosen.labels.numpy()
    tiers = [
        np.concatenate([shipped(chunk, flags(*[keyed] * len(chunk))) for chunk in np.split(pixels, 10)]).argmax(1)
        for keyed in (False, True)
    ]
    assert (tiers[0] == tiers[1]).mean() >= 0.95
    for tier, name in zip(tiers, ("test_top1_unkeyed", "test_top1_keyed"), strict=True):
        stated = shipped.manifest.metrics[name]
        assert abs((tier == labels).mean() - stated) < 3 * (stated * (1 - stated) / 1000) ** 0.5, name


def test_the_shipped_bundle_is_small_and_states_its_figures() -> None:
    folder = ZOO / "cifar10"
    manifest, _ = bundles.load(folder)
    assert sum(file.stat().st_size for file in folder.iterdir()) < 5_000_000
    assert str(manifest.provenance["command"]).startswith("sdb wrap ")
    teacher = manifest.metrics["test_top1_teacher"]
    for name in ("test_top1_unkeyed", "test_top1_keyed"):
        assert abs(manifest.metrics[name] - teacher) < 0.01
    assert manifest.metrics["test_agreement_unkeyed_keyed"] >= 0.95
