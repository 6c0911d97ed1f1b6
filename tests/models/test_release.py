"""Laws of the release stage: what the public vector may and may not depend on."""

from pathlib import Path

import pytest
import torch

from models.data import load
from models.release import Release
from tests.conftest import SECRET, smooth_images

CLASSES = 10


@pytest.fixture(scope="module")
def release() -> Release:
    stage = Release(SECRET, CLASSES)
    stage.calibrate(smooth_images(1024))
    return stage


IMAGES = smooth_images(256, seed=7).float() / 255


def logits(seed: int, count: int = 256, classes: int = CLASSES) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def test_top1_is_the_true_one_by_exactly_the_margin(release: Release) -> None:
    truth = logits(0)
    public = release(IMAGES, truth)
    top = public.topk(2, dim=1)
    assert torch.equal(top.indices[:, 0], truth.argmax(1))
    torch.testing.assert_close(top.values[:, 0] - top.values[:, 1], torch.full((256,), 0.3), atol=1e-4, rtol=0)


def test_of_the_logits_only_the_argmax_matters(release: Release) -> None:
    """No inversion can find the dark knowledge: any two logits with one argmax leave as the same vector."""
    truth = logits(0)
    other = logits(1).scatter(1, truth.argmax(1, keepdim=True), 100.0)
    assert torch.equal(release(IMAGES, truth), release(IMAGES, other))


def test_rows_do_not_see_each_other(release: Release) -> None:
    truth, order = logits(0), torch.randperm(256, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(release(IMAGES, truth)[order], release(IMAGES[order], truth[order]))


def test_false_peaks_are_a_smooth_function_of_the_image(release: Release) -> None:
    """A step of 1/255 in every pixel moves them far less than another image does."""
    step = (release.false_peaks((IMAGES + 1 / 255).clamp(0, 1)) - release.false_peaks(IMAGES)).abs().mean()
    jump = (release.false_peaks(IMAGES.roll(1, 0)) - release.false_peaks(IMAGES)).abs().mean()
    assert step < 0.1 * jump


def test_false_peaks_have_the_scale_and_no_favourite(release: Release) -> None:
    peaks = release.false_peaks(smooth_images(2048, seed=3).float() / 255)
    assert 4 < peaks.std() < 8
    assert peaks.mean(0).abs().max() < 1


def test_every_class_is_a_false_peak_of_real_images(data: Path) -> None:
    images = load(data / "cifar10", "test", 32, 32).images
    stage = Release(SECRET, CLASSES)
    stage.calibrate(images[::2])
    share = torch.bincount(stage.false_peaks(images[1::2].float() / 255).argmax(1), minlength=CLASSES) / 5000
    assert share.min() > 0.03
    assert share.max() < 0.25


def test_works_for_a_thousand_classes_at_any_size() -> None:
    stage = Release(SECRET, 1000)
    stage.calibrate(smooth_images(256))
    truth = logits(0, 2, 1000)
    assert torch.equal(stage(torch.rand(2, 3, 200, 150), truth).argmax(1), truth.argmax(1))


def test_too_few_calibration_images_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 256"):
        Release(SECRET, CLASSES).calibrate(torch.rand(255, 3, 32, 32))
