"""A caller is suspected for images that a network is not as sure of as of its owner's, and for nothing else."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from models.bundles import WEIGHTS, BundleError, GuardSpec, InputSpec, Manifest, attach, check, load_manifest, save
from models.data import LabelledImages
from models.engines.engine import Logits
from models.training.watch import calibrate
from models.watch import ALIKE, FILE, QUANTILES, Reference, Suspicion, WatchError, certainty, quantiles, thumbnails
from tests.conftest import SECRET, smooth_images

CLASSES = 3
DRAW = np.random.default_rng(0)
OWN = DRAW.normal(6, 2, 6000).astype(np.float32)
TOP1 = DRAW.integers(0, CLASSES, 6000)
SCALED = (OWN * (1 + TOP1)).astype(np.float32)  # of some classes a network is surer than of others
SHOWN = DRAW.uniform(0, 255, (6000, 64)).astype(np.float32)
REFERENCE = Reference(
    weights_sha256="f" * 64, quantiles=quantiles(SCALED, TOP1, CLASSES, fewest=50), allowance=0.2, threshold=6.0
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """The folder of a bundle of so many classes."""
    manifest = Manifest(
        name="tiny",
        architecture="plain_cnn",
        classes=tuple(map(str, range(CLASSES))),
        input=InputSpec(height=8, width=8),
        guard=GuardSpec(secret_fingerprint=""),
    )
    save(tmp_path, manifest, {"a": torch.zeros(2)}, SECRET)
    return tmp_path


def sent(count: int, *, less_sure: float = 0.0, label: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log-odds, top-1 and thumbnails of the owner's images, or of others that the network is less sure of."""
    places = np.flatnonzero(label == TOP1)[:count] if label is not None else np.arange(count)
    return (SCALED - less_sure).astype(np.float32)[places], TOP1[places], SHOWN[places]


@given(arrays.arrays(np.float32, (3, 5), elements=st.floats(-1e4, 1e4, width=32)))
def test_certainty_is_the_log_odds_of_the_top1_and_finite(logits: np.ndarray) -> None:
    exact = logits.astype(np.float64)
    top = np.take_along_axis(exact, exact.argmax(1)[:, None], 1)
    others = np.sort(exact, 1)[:, :-1]
    highest = others.max(1)
    expected = top[:, 0] - highest - np.log(np.exp(others - highest[:, None]).sum(1))
    assert np.isfinite(certainty(logits)).all()
    np.testing.assert_allclose(certainty(logits), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("label", [None, *range(CLASSES)])
def test_customers_of_any_class_surprise_by_nothing_on_the_mean(label: int | None) -> None:
    odds, top1, _ = sent(2000, label=label)
    assert abs(REFERENCE.surprise(odds, top1).mean()) < 0.02


def test_a_class_of_few_images_is_measured_by_all_classes() -> None:
    few = np.where(np.arange(6000) < 10, 0, 1)
    table = quantiles(SCALED, few, CLASSES, fewest=50)
    assert table[0] == table[2] == quantiles(SCALED, np.zeros(6000, np.intp), 1, fewest=50)[0]
    assert table[1] != table[0]
    assert all(len(row) == QUANTILES for row in table)


def test_a_stranger_is_suspected_within_a_hundred_images_and_a_customer_in_none_of_thousands() -> None:
    customer, stranger = Suspicion(), Suspicion()
    assert not customer.add(REFERENCE, *sent(6000))
    assert customer.images == 6000
    assert stranger.add(REFERENCE, *sent(100, less_sure=8))


def test_who_asks_one_by_one_is_judged_as_who_asks_for_all_at_once() -> None:
    odds, top1, shown = sent(300, less_sure=3)
    together, alone = Suspicion(), Suspicion()
    together.add(REFERENCE, odds, top1, shown)
    alarms = [alone.add(REFERENCE, odds[[n]], top1[[n]], shown[[n]]) for n in range(300)]
    assert (alone.level, alone.suspected, alone.images) == (together.level, together.suspected, together.images)
    assert sum(alarms) <= 1 + (not together.suspected)


def test_who_ends_a_request_like_a_customer_is_found_all_the_same() -> None:
    odds, top1, shown = sent(500)
    odds[:100] -= 30
    suspicion = Suspicion()
    assert suspicion.add(REFERENCE, odds, top1, shown)
    assert not suspicion.suspected


def test_an_image_that_was_just_shown_adds_nothing() -> None:
    odds, top1, shown = sent(1, less_sure=8)
    again, suspicion = np.zeros(500, np.intp), Suspicion()
    assert not suspicion.add(REFERENCE, odds[again], top1[again], shown[again])
    assert suspicion.level < 1


def test_an_image_that_only_looks_like_the_one_before_counts_if_it_is_taken_for_something_else() -> None:
    odds, _, shown = sent(1, less_sure=30)
    again, suspicion = np.zeros(100, np.intp), Suspicion()
    assert not suspicion.add(REFERENCE, odds[again], np.arange(100) % CLASSES, shown[again])
    assert suspicion.level == pytest.approx(CLASSES * (0.5 - REFERENCE.allowance))


def test_a_suspect_who_sends_what_customers_send_is_one_no_longer() -> None:
    suspicion, suspected = Suspicion(), []
    assert suspicion.add(REFERENCE, *sent(1000, less_sure=30))
    assert suspicion.level == 2 * REFERENCE.threshold
    for count in (20, 300):
        assert not suspicion.add(REFERENCE, *sent(count))
        suspected.append(suspicion.suspected)
    assert suspected == [True, False]
    assert suspicion.add(REFERENCE, *sent(200, less_sure=30))


@pytest.mark.parametrize("side", [8, 32, 33, 224])
def test_thumbnails_tell_scenes_apart_and_not_two_takes_of_one(side: int) -> None:
    pixels = smooth_images(20, side).permute(0, 2, 3, 1).numpy()
    noise = np.random.default_rng(0).normal(0, 8, pixels.shape)
    grained = (pixels + noise).round().clip(0, 255).astype(np.uint8)
    first, second = thumbnails(pixels), thumbnails(grained)
    assert first.shape == (20, 64)
    assert np.abs(first - second).mean(1).max() < ALIKE
    assert np.abs(first - np.roll(first, 1, 0)).mean(1).min() > ALIKE


def test_a_reference_is_read_for_the_weights_it_was_made_for_and_no_others(bundle: Path) -> None:
    with pytest.raises(WatchError, match=r"watch\.json is not among the files .* `sdb watch calibrate`"):
        Reference.load(bundle, load_manifest(bundle))
    own = REFERENCE.model_copy(update={"weights_sha256": load_manifest(bundle).sha256[WEIGHTS]})
    own.save(bundle)
    assert Reference.load(bundle, load_manifest(bundle)) == own
    for other in ({"weights_sha256": "e" * 64}, {"quantiles": own.quantiles[1:]}):
        own.model_copy(update=other).save(bundle)
        with pytest.raises(WatchError, match="other weights"):
            Reference.load(bundle, load_manifest(bundle))
    attach(bundle, FILE, own.model_dump_json().replace('"quantiles":[[', '"quantiles":[[1e9,').encode())
    with pytest.raises(WatchError, match="cannot be used"):
        Reference.load(bundle, load_manifest(bundle))


def test_a_reference_that_was_changed_after_it_was_saved_is_refused_by_name(bundle: Path) -> None:
    """Who blunts the watch must change the manifest too, and that is what signers sign."""
    REFERENCE.save(bundle)
    check(bundle, load_manifest(bundle))
    (bundle / FILE).write_text((bundle / FILE).read_text().replace('"threshold":6.0', '"threshold":6e9'))
    refused = re.escape(f"{bundle / FILE} differs from the sha256 in bundle.json")
    with pytest.raises(WatchError, match=refused):
        Reference.load(bundle, load_manifest(bundle))
    with pytest.raises(BundleError, match=refused):
        check(bundle, load_manifest(bundle))


def test_calibration_needs_images_and_a_network_that_is_less_sure_of_blends() -> None:
    images = LabelledImages(smooth_images(400), torch.arange(400) % CLASSES, ("a", "b", "c"))

    def alike(shown: torch.Tensor) -> Logits:
        """Of a network that is as sure of anything as of anything else."""
        return np.eye(CLASSES, dtype=np.float32)[np.arange(len(shown)) % CLASSES]

    with pytest.raises(WatchError, match="at least"):
        calibrate(alike, images.subset(torch.arange(399)), "f" * 64)
    with pytest.raises(WatchError, match="cannot tell"):
        calibrate(alike, images, "f" * 64)
