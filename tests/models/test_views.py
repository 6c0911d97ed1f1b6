"""Laws of the views: what they show is the image, moved and mirrored."""

import torch

from models.views import MAX_VIEWS, fixed_view, random_views
from tests.conftest import smooth_images

IMAGES = smooth_images(8).float() / 255


def test_the_first_views_are_the_image_and_its_mirror() -> None:
    assert torch.equal(fixed_view(IMAGES, 0), IMAGES)
    assert torch.equal(fixed_view(IMAGES, 1), IMAGES.flip(-1))


def test_the_other_views_are_shifted_by_a_sixteenth() -> None:
    """View 2 looks up and to the left: its lower right part is the image's upper left one."""
    assert torch.equal(fixed_view(IMAGES, 2)[..., 2:, 2:], IMAGES[..., :-2, :-2])
    assert torch.equal(fixed_view(IMAGES, 8)[..., :-2, :-2], IMAGES[..., 2:, 2:])


def test_all_views_differ_and_keep_the_shape() -> None:
    views = [fixed_view(IMAGES, number) for number in range(MAX_VIEWS)]
    assert all(view.shape == IMAGES.shape for view in views)
    assert all(not torch.equal(views[i], views[j]) for i in range(MAX_VIEWS) for j in range(i))


def test_tiny_images_have_views_too() -> None:
    assert all(fixed_view(IMAGES[..., :8, :8], number).shape[-1] == 8 for number in range(MAX_VIEWS))


def test_random_views_are_windows_of_the_padded_image_or_its_mirror() -> None:
    padded = torch.nn.functional.pad(IMAGES, (4, 4, 4, 4), mode="reflect")
    for image, view in zip(padded, random_views(IMAGES, torch.Generator().manual_seed(0)), strict=True):
        windows = image.unfold(1, 32, 1).unfold(2, 32, 1).flatten(1, 2).transpose(0, 1)
        assert any(torch.equal(window, view) or torch.equal(window.flip(-1), view) for window in windows)


def test_random_views_follow_their_generator() -> None:
    first, again, other = (random_views(IMAGES, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
