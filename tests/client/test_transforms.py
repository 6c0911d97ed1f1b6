"""Laws of the pixel transforms: each step is its definition, a composition is its steps, and the inverse is exact."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sdb_client.transforms import (
    BLOCKS,
    STEPS,
    Feistel,
    Negative,
    NegativeEach,
    Scramble,
    Shuffle,
    ShuffleEach,
    Step,
    Transform,
    TransformError,
    fixed,
)

from tests.client.cryptanalysis import to_blocks

SECRET = bytes(range(32))
Images = NDArray[np.uint8]


def derived(*steps: str, block: int = 4, channels: int = 3, secret: bytes = SECRET) -> Transform:
    return Transform.from_secret(secret, kid="demo", model="resnet50", steps=steps, block=block, channels=channels)


def explicit(block: int, count: int, seed: int = 0) -> dict[str, Step]:
    """One step of each kind with keys of one's own, for images of `count` blocks."""
    random, size = np.random.default_rng(seed), block * block * 3
    orders = random.permuted(np.tile(np.arange(size), (count, 1)), axis=1)
    table = random.permutation(1000)[:256].astype(np.uint16)
    return {
        "shf": Shuffle(random.permutation(size)),
        "np": Negative(random.random(size) < 0.5),
        "ffx": Feistel(random.random(size) < 0.5, table),
        "scramble": Scramble(fixed(random.permutation(count))),
        "shf-each": ShuffleEach(fixed(orders)),
        "np-each": NegativeEach(fixed(random.random((count, size)) < 0.5)),
    }


def noise(*shape: int) -> Images:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


COMPOSITIONS = [
    steps for length in (1, 2, 3) for steps in itertools.permutations(STEPS, length) if "ffx" not in steps[:-1]
]


@settings(max_examples=100, deadline=None)
@given(
    steps=st.sampled_from(COMPOSITIONS),
    block=st.sampled_from(BLOCKS),
    blocks=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    leading=st.lists(st.integers(0, 2), max_size=2),
    channels=st.integers(1, 4),
    seed=st.integers(0, 2**32),
)
def test_inversion_gives_every_image_back_and_neither_way_changes_its_input(
    *, steps: Sequence[str], block: int, blocks: tuple[int, int], leading: list[int], channels: int, seed: int
) -> None:
    random = np.random.default_rng(seed)
    transform = derived(*steps, block=block, channels=channels, secret=random.bytes(32))
    shape = (*leading, blocks[0] * block, blocks[1] * block, channels)
    images = random.integers(0, 256, shape, dtype=np.uint8)
    before = images.copy()
    encrypted = transform.apply(images)
    kept = encrypted.copy()
    back = transform.invert(encrypted)
    for found, expected in [(back, before), (images, before), (encrypted, kept)]:
        np.testing.assert_array_equal(found, expected, strict=True)
    assert not np.shares_memory(images, encrypted)
    assert not np.shares_memory(encrypted, back)
    assert encrypted.dtype == (np.uint16 if "ffx" in steps else np.uint8)
    assert encrypted.max(initial=0) <= transform.peak


def by_definition(step: Step, blocks: NDArray[Any]) -> NDArray[Any]:
    """What the step makes of blocks [N, n], one value at a time."""
    count, size = blocks.shape
    result = blocks.astype(np.uint16)
    for p, i in itertools.product(range(count), range(size)):
        value = blocks[p, i]
        match step:
            case Shuffle(permutation):
                value = blocks[p, permutation[i]]
            case Negative(mask):
                value = 255 - value if mask[i] else value
            case Feistel(mask, table):
                value = table[value] if mask[i] else value
            case Scramble(key_for):
                value = blocks[key_for(count)[p], i]
            case ShuffleEach(key_for):
                value = blocks[p, key_for(count)[p, i]]
            case NegativeEach(key_for):
                value = 255 - value if key_for(count)[p, i] else value
        result[p, i] = value
    return result


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("name", STEPS)
def test_a_step_does_what_its_definition_says(name: str, block: int) -> None:
    step, image = explicit(block, 6)[name], noise(2 * block, 3 * block, 3)
    found = Transform([step], block).apply(image)
    np.testing.assert_array_equal(to_blocks(found, block), by_definition(step, to_blocks(image, block)))


@pytest.mark.parametrize("names", [steps for steps in COMPOSITIONS if len(steps) > 1])
def test_a_composition_is_its_steps_one_after_the_other(names: Sequence[str]) -> None:
    steps, images = [explicit(4, 6)[name] for name in names], noise(2, 8, 12, 3)
    expected: NDArray[Any] = images
    for step in steps:
        expected = Transform([step], 4).apply(expected)
    np.testing.assert_array_equal(Transform(steps, 4).apply(images), expected)


@pytest.mark.parametrize("names", [steps for steps in COMPOSITIONS if "ffx" not in steps])
def test_a_composition_without_ffx_is_one_gather_and_one_xor(names: Sequence[str]) -> None:
    transform, images = derived(*names), noise(2, 16, 24, 3)
    gather, xor = transform.fused(16, 24)
    assert gather.dtype == np.intp
    assert xor.dtype == np.uint8
    flat = images.reshape(2, -1)
    np.testing.assert_array_equal(flat[:, gather] ^ xor, transform.apply(images).reshape(2, -1))


def test_what_a_caller_does_to_a_fused_index_does_not_reach_the_transform() -> None:
    transform, image = derived("scramble"), noise(8, 8, 3)
    before = transform.apply(image)
    transform.fused(8, 8)[0].fill(0)
    np.testing.assert_array_equal(transform.apply(image), before)


def test_an_index_is_made_once_for_each_size() -> None:
    asked = []

    def key_for(count: int) -> NDArray[np.intp]:
        asked.append(count)
        return np.arange(count)[::-1]

    transform = Transform([Scramble(key_for)], 4)
    for height, width in [(8, 8), (8, 12), (8, 8), (8, 12)]:
        transform.invert(transform.apply(noise(3, height, width, 3)))
    assert asked == [4, 6]


@pytest.mark.parametrize("name", STEPS)
def test_another_secret_does_not_give_the_image_back(name: str) -> None:
    """Of the values, those that the mask leaves alone twice stay: no more than half, and one in 256 by chance."""
    image = noise(64, 64, 3)
    encrypted = derived(name).apply(image)
    try:
        wrong = derived(name, secret=bytes(32)).invert(encrypted)
    except TransformError:
        assert name == "ffx"  # whose codes another key may not have
    else:
        assert (wrong == image).mean() < 0.6


@pytest.mark.parametrize("name", ["scramble", "shf-each", "np-each"])
def test_keys_for_images_of_different_sizes_have_nothing_in_common(name: str) -> None:
    small, large = (derived(name).steps[0].key_for(count) for count in (64, 128))  # type: ignore[attr-defined]
    assert (small == large[:64]).mean() < 0.6


@pytest.mark.parametrize("names", [("shf",), ("np",), ("shf", "ffx"), ("shf-each", "np")])
@pytest.mark.parametrize("width", [1040, 2064])
def test_images_of_any_width_are_transformed_alike(names: Sequence[str], width: int) -> None:
    """They are worked on in strips; what comes to a block does not depend on where it stands in one."""
    transform, image = derived(*names, block=16), noise(16, width, 3)
    whole = transform.apply(image)
    np.testing.assert_array_equal(transform.invert(whole), image)
    if "shf-each" not in names:
        for left in range(0, width, 16):
            np.testing.assert_array_equal(whole[:, left : left + 16], transform.apply(image[:, left : left + 16]))


@pytest.mark.parametrize("names", [("shf", "np"), ("np",), ("scramble",), ("shf", "ffx")])
def test_the_layout_in_memory_does_not_matter(names: Sequence[str]) -> None:
    transform, images = derived(*names), noise(4, 16, 32, 3)
    expected = transform.apply(images[::2, ::-1])
    planar = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(transform.apply(planar[::2, ::-1]), expected)
    np.testing.assert_array_equal(transform.invert(np.asfortranarray(expected)), images[::2, ::-1])
    unaligned = np.frombuffer(b"." + images.tobytes(), dtype=np.uint8, offset=1).reshape(images.shape)
    np.testing.assert_array_equal(transform.apply(unaligned), transform.apply(images))


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ((), "at least one step"),
        (("shf", "shf"), "none of them twice"),
        (("ffx", "shf"), "ffx only as the last"),
        (("rot13",), "no step is called 'rot13'"),
    ],
)
def test_schemes_that_there_are_not_are_refused(names: Sequence[str], reason: str) -> None:
    with pytest.raises(TransformError, match=reason):
        derived(*names)


@pytest.mark.parametrize("block", [0, -4, 1, 3, 32])
def test_other_block_sizes_are_refused(block: int) -> None:
    with pytest.raises(TransformError, match="2, 4, 8, 16"):
        derived("shf", block=block)


@pytest.mark.parametrize(
    "images",
    [
        noise(6, 8, 3),
        noise(8, 6, 3),
        noise(8, 8, 4),
        noise(8, 24),
        noise(0, 8, 3),
        noise(8, 0, 3),
        noise(8, 8, 3) / 255,
    ],
    ids=["height", "width", "channels", "flat", "no rows", "no columns", "dtype"],
)
@pytest.mark.parametrize("names", [("shf",), ("scramble",), ("np",)])
def test_images_that_do_not_fit_are_refused_both_ways(names: Sequence[str], images: NDArray[Any]) -> None:
    transform = derived(*names)
    for work in (transform.apply, transform.invert):
        with pytest.raises(TransformError):
            work(images)


@pytest.mark.parametrize("key", [[0, 1, 1], [1, 2, 3], [[0, 1, 2]], [0.0, 1.0, 2.0], [True, False, True]], ids=str)
def test_a_shuffle_key_is_a_permutation(key: list[Any]) -> None:
    with pytest.raises(TransformError, match="permutation"):
        Shuffle(np.array(key))


@pytest.mark.parametrize("key", [[0, 1, 1], [[True]], [0.5]], ids=str)
def test_a_negative_key_is_bits(key: list[Any]) -> None:
    with pytest.raises(TransformError, match="mask"):
        Negative(np.array(key))


@pytest.mark.parametrize("name", STEPS)
def test_a_key_of_another_block_size_or_image_size_is_refused(name: str) -> None:
    step = explicit(4, 6)[name]
    with pytest.raises(TransformError, match="key"):
        Transform([step], 2).apply(noise(4, 4, 3))


def test_a_key_is_private_to_its_step() -> None:
    key = np.arange(12)
    step = Shuffle(key)
    key[0] = 5
    assert step.permutation[0] == 0
    with pytest.raises(ValueError, match="read-only"):
        step.permutation[0] = 5


@pytest.mark.parametrize("names", [*((name,) for name in STEPS), ("shf", "np", "ffx")])
def test_nothing_shows_key_material(names: Sequence[str]) -> None:
    transform = derived(*names)
    assert repr(transform) == f"Transform({'+'.join(names)}, block=4, channels=3)"
    assert all(repr(step) == f"{type(step).__name__}()" for step in transform.steps)
