"""What the pixel transforms do not withstand, and sealed images do: the limit that the documentation states.

The attacks on the transforms are expected to succeed; where one does not any more, the documentation is out of date.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from sdb_client.sealed import TAG_BYTES, seal
from sdb_client.transforms import Negative, Shuffle, Step, Transform, TransformError

from tests.client import cryptanalysis as attacks
from tests.client.cryptanalysis import CHANNELS, Encrypt, Pixels
from tests.client.matching import shuffle_from_ciphertext
from tests.conftest import ROOT

SECRET = bytes(range(32))
SIDE = 224


@pytest.fixture(scope="module")
def photos(request: pytest.FixtureRequest) -> list[Pixels]:
    """Colour pictures uint8 [224, 224, 3]: the documentation's example and, where they are, real photos."""
    with Image.open(ROOT / "docs" / "example.png") as picture:
        found = [np.asarray(picture.convert("RGB"))[:SIDE, :SIDE]]
    file = Path(request.config.getoption("--data")) / "imagenet1k_sample1000_test.parquet"
    if file.is_file():
        encoded = pq.read_table(file, columns=["image"]).column("image").to_numpy()[::125]
        pictures = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in encoded]
        found += [picture for picture in pictures if (picture[..., 0] != picture[..., 1]).mean() > 0.5]
    return found


def victim(block: int, *steps: str) -> Transform:
    return Transform.from_secret(SECRET, kid="victim", model="resnet50", steps=steps, block=block)


def key(step: Step, count: int = 0) -> list[list[int]]:
    """The arrays of a step's key, for images of `count` blocks if it depends on that."""
    if not step.everywhere_alike:
        return [step.key_for(count).tolist()]  # type: ignore[attr-defined]
    return [getattr(step, name).tolist() for name in ("permutation", "mask", "table") if hasattr(step, name)]


def share_right(found: NDArray[Any], true: NDArray[Any]) -> float:
    return float((found == true).mean())


CHOSEN: dict[str, Callable[[Encrypt, int], Step]] = {
    "shf": attacks.shuffle_from_chosen_plaintext,
    "np": attacks.negative_from_chosen_plaintext,
    "ffx": attacks.feistel_from_chosen_plaintext,
    "shf-each": attacks.shuffle_each_from_chosen_plaintext,
    "np-each": attacks.negative_each_from_chosen_plaintext,
}


@pytest.mark.parametrize("block", [2, 4, 8, 16])
@pytest.mark.parametrize("name", CHOSEN)
def test_one_chosen_image_gives_the_whole_key(name: str, block: int) -> None:
    """Keys per block position cost no more than a second one: every block of the image answers for itself."""
    transform, asked = victim(block, name), list[Pixels]()

    def oracle(image: Pixels) -> NDArray[Any]:
        asked.append(image)
        return transform.apply(image)

    found = CHOSEN[name](oracle, block)
    blocks = asked[0].size // (block * block * CHANNELS)
    assert len(asked) == (2 if name == "shf-each" else 1)
    assert key(found, blocks) == key(transform.steps[0], blocks)


@pytest.mark.parametrize("block", [2, 4, 8, 16])
def test_a_composition_costs_one_chosen_image_per_step(block: int) -> None:
    transform = victim(block, "shf", "np")
    negative = attacks.negative_from_chosen_plaintext(transform.apply, block)
    unmasked = Transform([negative], block).invert
    shuffle = attacks.shuffle_from_chosen_plaintext(lambda image: unmasked(transform.apply(image)), block)
    assert [key(shuffle), key(negative)] == [key(step) for step in transform.steps]


@pytest.mark.parametrize("block", [2, 4, 8])
def test_one_ordinary_photo_and_its_encryption_give_the_shuffle(block: int, photos: list[Pixels]) -> None:
    transform = victim(block, "shf")
    for photo in photos:
        found = attacks.shuffle_from_known_plaintext(photo, transform.apply(photo), block)
        assert key(found) == key(transform.steps[0])


@pytest.mark.parametrize("block", [4, 8])
def test_one_encrypted_photo_alone_gives_the_mask_or_its_complement(block: int, photos: list[Pixels]) -> None:
    transform = victim(block, "np")
    (true,) = transform.steps
    assert isinstance(true, Negative)
    for photo in photos:
        found = attacks.negative_from_ciphertext(transform.apply(photo), block)
        assert share_right(found.mask, true.mask) in {0.0, 1.0}


@pytest.mark.parametrize("block", [2, 4])
def test_one_encrypted_photo_alone_gives_the_shuffled_places(block: int, photos: list[Pixels]) -> None:
    """Which channel of a place is which often stays open: the picture is there, its colours may be wrong."""
    transform = victim(block, "shf")
    (true,) = transform.steps
    assert isinstance(true, Shuffle)
    found = [shuffle_from_ciphertext(transform.apply(photo), block).permutation for photo in photos]
    shares = [share_right(places // CHANNELS, true.permutation // CHANNELS) for places in found]
    assert np.mean(np.array(shares) == 1) > 0.7  # of 40 others it was all, and 39


# What an attacker concludes from an oracle, a photo that he knows, and one that he sees encrypted only.
Conclude = Callable[[Encrypt, Pixels, Pixels], Step]
CONCLUSIONS: dict[str, tuple[str, Conclude]] = {
    "chosen, shf": ("shf", lambda encrypt, *_: attacks.shuffle_from_chosen_plaintext(encrypt, 4)),
    "chosen, np": ("np", lambda encrypt, *_: attacks.negative_from_chosen_plaintext(encrypt, 4)),
    "chosen, ffx": ("ffx", lambda encrypt, *_: attacks.feistel_from_chosen_plaintext(encrypt, 4)),
    "known": ("shf", lambda encrypt, known, _: attacks.shuffle_from_known_plaintext(known, encrypt(known), 4)),
    "ciphertext, np": ("np", lambda _, __, encrypted: attacks.negative_from_ciphertext(encrypted, 4)),
    "ciphertext, shf": ("shf", lambda _, __, encrypted: shuffle_from_ciphertext(encrypted, 4)),
}


def sealed_pixels(image: Pixels) -> Pixels:
    """The ciphertext of the bare pixels as the attacker of a pixel transform would look at it."""
    message = seal(image.tobytes(), SECRET, kid="victim", model="resnet50")
    return np.frombuffer(message[:-TAG_BYTES][-image.size :], dtype=np.uint8).reshape(image.shape)


def share_read(conclude: Conclude, encrypt: Encrypt, known: Pixels, secret: Pixels) -> float:
    """The share of an encrypted image's pixels whose brightness the attack gets right, negatives counting as well."""
    encrypted = encrypt(secret)
    try:
        read = Transform([conclude(encrypt, known, encrypted)], 4).invert(encrypted)
    except TransformError:  # no key of the scheme explains what the attacker saw
        return 0.0
    return max(
        share_right(brightness(read), brightness(secret)), share_right(brightness(255 - read), brightness(secret))
    )


def brightness(image: Pixels) -> NDArray[np.int64]:
    """The sum of each pixel's channels."""
    total: NDArray[np.int64] = image.sum(-1, dtype=np.int64)
    return total


@pytest.mark.parametrize("attack", CONCLUSIONS)
def test_every_attack_reads_transformed_images_and_none_reads_sealed_ones(attack: str, photos: list[Pixels]) -> None:
    step, conclude = CONCLUSIONS[attack]
    known, secret = photos[0], np.ascontiguousarray(photos[-1][:, ::-1])
    assert share_read(conclude, victim(4, step).apply, known, secret) > 0.9
    assert share_read(conclude, sealed_pixels, known, secret) < 0.01
