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


def test_top1_is_the_true_one_with_the_probability_that_was_asked_for(release: Release) -> None:
    truth = logits(0)
    confidence, top1 = release(IMAGES, truth).softmax(1).max(1)
    assert torch.equal(top1, truth.argmax(1))
    torch.testing.assert_close(confidence, torch.full((256,), 0.7), atol=1e-4, rtol=0)


def test_levels_of_confidence_are_all_that_may_be_added() -> None:
    """With L levels the vector is a function of the image, the top-1 and log₂ L bits of the confidence."""
    stage = Release(SECRET, CLASSES, confidences=(0.6, 0.8, 0.95), edges=(0.5, 0.9))
    stage.calibrate(smooth_images(512))
    truth = logits(0) * 4
    public, own = stage(IMAGES, truth), truth.softmax(1).amax(1)
    assert torch.equal(public.argmax(1), truth.argmax(1))
    expected = torch.tensor([0.6, 0.8, 0.95])[torch.bucketize(own, torch.tensor([0.5, 0.9]))]
    torch.testing.assert_close(public.softmax(1).amax(1), expected, atol=1e-4, rtol=0)
    assert set(expected.tolist()) == {expected.new_tensor(level).item() for level in (0.6, 0.8, 0.95)}
    same_level = torch.where(torch.isclose(truth, truth.amax(1, keepdim=True)), truth, truth.amax(1, keepdim=True) - 30)
    sure = own > 0.9
    assert sure.any()
    torch.testing.assert_close(public[sure], stage(IMAGES, same_level)[sure])


@pytest.mark.parametrize(
    ("confidences", "edges"), [((0.5,), ()), ((1.0,), ()), ((), ()), ((0.6, 0.7), ()), ((0.6, 0.7, 0.8), (0.9, 0.5))]
)
def test_confidences_that_could_lose_the_top1_are_refused(
    confidences: tuple[float, ...], edges: tuple[float, ...]
) -> None:
    with pytest.raises(ValueError, match="confidence"):
        Release(SECRET, CLASSES, confidences=confidences, edges=edges)


def test_a_mirrored_image_gets_the_same_false_peaks(release: Release) -> None:
    torch.testing.assert_close(release.false_peaks(IMAGES), release.false_peaks(IMAGES.flip(-1)))


def test_another_secret_turns_them_elsewhere(release: Release) -> None:
    other = Release(bytes(32), CLASSES)
    other.load_state_dict(release.state_dict())
    assert (other.false_peaks(IMAGES) - release.false_peaks(IMAGES)).abs().mean() > 5


def test_the_weights_file_holds_no_secret() -> None:
    first, second = Release(SECRET, CLASSES), Release(bytes(32), CLASSES)
    first.calibrate(smooth_images(512))
    second.calibrate(smooth_images(512))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


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
    assert 8 < peaks.std() < 16
    assert peaks.mean(0).abs().max() < 2


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
