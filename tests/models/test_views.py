"""Laws of the views: what they show is the image, moved and mirrored."""

import numpy as np
import torch

from models.views import MAX_PASSES, View, draw_views, fixed_view, padding, random_views, seen
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
    views = [fixed_view(IMAGES, number) for number in range(MAX_PASSES)]
    assert all(view.shape == IMAGES.shape for view in views)
    assert all(not torch.equal(views[i], views[j]) for i in range(MAX_PASSES) for j in range(i))


def test_tiny_images_have_views_too() -> None:
    assert all(fixed_view(IMAGES[..., :8, :8], number).shape[-1] == 8 for number in range(MAX_PASSES))


def test_random_views_are_windows_of_the_padded_image_or_its_mirror() -> None:
    padded = torch.nn.functional.pad(IMAGES, (4, 4, 4, 4), mode="reflect")
    for image, view in zip(padded, random_views(IMAGES, torch.Generator().manual_seed(0)), strict=True):
        windows = image.unfold(1, 32, 1).unfold(2, 32, 1).flatten(1, 2).transpose(0, 1)
        assert any(torch.equal(window, view) or torch.equal(window.flip(-1), view) for window in windows)


def test_random_views_follow_their_generator() -> None:
    first, again, other = (random_views(IMAGES, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


PIXELS = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in smooth_images(4)]


def test_the_first_drawn_view_is_the_image_itself() -> None:
    view = draw_views(PIXELS, 2, 5, 0.5)[0]
    assert view == View(padding(32), padding(32))
    np.testing.assert_array_equal(seen(PIXELS, 2, view), PIXELS[2])


def test_views_are_drawn_by_the_pixels_and_more_begin_with_the_fewer() -> None:
    many = draw_views(PIXELS, 0, 16, 0.0)
    assert many == draw_views(PIXELS, 0, 16, 0.0)
    assert many[:4] == draw_views([PIXELS[0]], 0, 4, 0.0)
    assert many[1:] != draw_views(PIXELS, 1, 16, 0.0)[1:]
    assert len({(view.top, view.left, view.mirrored) for view in many}) > 10
    assert all(view.partner is None for view in many)


def test_a_view_is_a_window_of_the_padded_image_or_its_mirror() -> None:
    padded = np.pad(PIXELS[1], ((4, 4), (4, 4), (0, 0)), mode="reflect")
    for view in draw_views(PIXELS, 1, 16, 0.0):
        window = padded[view.top : view.top + 32, view.left : view.left + 32]
        np.testing.assert_array_equal(seen(PIXELS, 1, view), window[:, ::-1] if view.mirrored else window)


def test_mixing_blends_in_another_image_of_the_request_by_its_share() -> None:
    views = [view for view in draw_views(PIXELS, 0, 16, 0.5) if view.partner is not None]
    assert views
    assert all(0.5 <= view.share <= 1 and view.partner in {1, 2, 3} for view in views)
    half = seen(PIXELS, 0, View(4, 4, partner=3, share=0.5)).astype(int)
    assert np.abs(half - (PIXELS[0].astype(int) + PIXELS[3]) / 2).max() <= 0.5
    assert all(view.partner is None for view in draw_views(PIXELS[:1], 0, 16, 0.5)), "nothing to mix with"
