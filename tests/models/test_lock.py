"""Laws of the lock: the transform that callers have, as a module; its key tells nothing and is in no weights file."""

import hmac
from hashlib import sha256

import numpy as np
import pytest
import torch
from sdb_client.transforms import BLOCKS, STEPS, Transform, TransformError

from models.key_stream import lock_secret
from models.lock import PixelLock, lock_transform
from tests.conftest import SECRET, smooth_images

SCHEMES = [(step,) for step in STEPS] + [
    ("shf", "np"),
    ("np", "shf", "scramble"),
    ("scramble", "shf-each", "np-each"),
    ("shf", "np", "ffx"),
    ("shf-each", "scramble", "np", "ffx"),
]
PIXELS = smooth_images(3, 48).permute(0, 2, 3, 1)[:, :32].contiguous()  # [3, 32, 48, 3]: not square
SHAPE = (3, 32, 48)


def floats() -> torch.Tensor:
    return PIXELS.permute(0, 3, 1, 2).float() / 255


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("steps", SCHEMES, ids="+".join)
def test_the_module_does_what_the_callers_transform_does(steps: tuple[str, ...], block: int) -> None:
    transform = lock_transform(SECRET, "tiny", steps, block)
    expected = torch.from_numpy(transform.apply(PIXELS.numpy()).astype(np.float32) / transform.peak)
    locked = PixelLock(transform, SHAPE)(floats())
    torch.testing.assert_close(locked, expected.permute(0, 3, 1, 2), rtol=0, atol=1e-6)
    assert 0 <= locked.min() <= locked.max() <= 1


def test_the_layout_in_memory_makes_no_difference() -> None:
    lock = PixelLock(lock_transform(SECRET, "tiny", ("shf", "np"), 4), SHAPE)
    assert torch.equal(lock(floats()), lock(floats().contiguous()))


def test_no_key_material_gets_into_a_weights_file_or_a_repr() -> None:
    lock = PixelLock(lock_transform(SECRET, "tiny", ("shf", "np", "ffx"), 4), SHAPE)
    assert not lock.state_dict()
    assert not list(lock.parameters())
    assert repr(lock) == "PixelLock()"


def test_a_block_that_does_not_divide_the_image_is_refused() -> None:
    with pytest.raises(TransformError, match="blocks of 16"):
        PixelLock(lock_transform(SECRET, "tiny", ("np",), 16), (3, 32, 40))


def test_the_lock_key_is_hkdf_of_the_secret() -> None:
    """RFC 5869 written out: extract with a salt of 32 zeros, expand by one block."""
    extracted = hmac.digest(bytes(32), SECRET, sha256)
    assert lock_secret(SECRET) == hmac.digest(extracted, b"sdb/lock\x01", sha256)
    with pytest.raises(ValueError, match="32 bytes"):
        lock_secret(SECRET[:31])


def test_a_client_with_the_lock_key_alone_transforms_alike() -> None:
    own = Transform.from_secret(lock_secret(SECRET), kid="lock", model="tiny", steps=("shf", "np"), block=4)
    served = lock_transform(SECRET, "tiny", ("shf", "np"), 4)
    np.testing.assert_array_equal(own.apply(PIXELS.numpy()), served.apply(PIXELS.numpy()))


@pytest.mark.parametrize(("secret", "model"), [(SECRET, "other"), (bytes(32), "tiny")])
def test_another_model_or_secret_has_another_lock(secret: bytes, model: str) -> None:
    first, second = (
        lock_transform(*given, ("shf",), 4).apply(PIXELS.numpy()) for given in ((SECRET, "tiny"), (secret, model))
    )
    assert (first != second).mean() > 0.5
