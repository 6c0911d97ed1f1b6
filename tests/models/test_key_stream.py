"""Laws of the key stream: known answers, separation of purposes, refusal of weak secrets."""

import math

import numpy as np
import pytest
import torch

from models.key_stream import key_image, key_normal, key_stream, release_secret

SECRET = bytes(range(32))


def test_known_answer() -> None:
    """Made with OpenSSL: printf 'sdb/v1\\0\\x0fkey-image/3x2x2' ‖ 00 01 … 1f | openssl dgst -shake256 -xoflen 12."""
    assert key_stream(SECRET, "key-image/3x2x2", 12).hex() == "56e45335003b8f7b7b9f1e57"


def test_key_image_is_a_tile_of_the_streams_lowest_bits() -> None:
    """The stream of the known answer, 108 bytes of it: the upper left corner of each channel's tile."""
    stream = key_stream(SECRET, "key-image/3x2x2", 108)
    expected = torch.tensor(
        [[stream[36 * c + 6 * row + column] & 1 for row in (0, 1) for column in (0, 1)] for c in range(3)]
    )
    assert torch.equal(key_image(SECRET, (3, 2, 2)), expected.view(3, 2, 2).float())


def test_key_image_repeats_its_tile_over_images_of_any_size() -> None:
    key = key_image(SECRET, (3, 32, 40))
    assert key.shape == (3, 32, 40)
    assert torch.equal(key[:, 6:], key[:, :-6])
    assert torch.equal(key[:, :, 6:], key[:, :, :-6])
    assert set(key.flatten().tolist()) == {0.0, 1.0}


def test_release_secrets_differ_by_secret_deployment_and_model() -> None:
    """RFC 5869 with the salt absent or 32 bytes: each of the three changes all of it."""
    secrets = {
        release_secret(secret, deployment, model)
        for secret in (SECRET, bytes(32))
        for deployment in (b"", bytes(32), bytes([1]) * 32)
        for model in ("cifar10/1", "cifar10/2")
    }
    assert len(secrets) == 2 * 2 * 2, "no salt is a salt of zeros (RFC 5869, §2.2)"
    assert all(len(secret) == 32 for secret in secrets)


def test_normal_known_answer() -> None:
    """By hand from the stream's first 16 bytes a7685cfe a78cfd13 8e57b1ef f1b6fc6c, two radii then two angles."""
    radii = [math.sqrt(-2 * math.log((word + 1) / 2**32)) for word in (0xA7685CFE, 0xA78CFD13)]
    angles = [2 * math.pi * word / 2**32 for word in (0x8E57B1EF, 0xF1B6FC6C)]
    expected = [radius * math.cos(angle) for radius, angle in zip(radii, angles, strict=True)]
    expected += [radius * math.sin(angle) for radius, angle in zip(radii, angles, strict=True)]
    np.testing.assert_allclose(key_normal(SECRET, "test", (4,)).numpy(), expected, rtol=1e-5)


def test_normal_numbers_are_standard() -> None:
    numbers = key_normal(SECRET, "release/conv0", (100, 1001))
    assert numbers.shape == (100, 1001)
    assert abs(numbers.mean()) < 0.01
    assert abs(numbers.std() - 1) < 0.01


@pytest.mark.parametrize("purpose", ["key-image/3x2x3", "key-image/3x2x2 ", "", "other"])
def test_purposes_share_no_stream(purpose: str) -> None:
    assert key_stream(SECRET, purpose, 32) != key_stream(SECRET, "key-image/3x2x2", 32)


def test_one_bit_of_the_secret_changes_about_half_of_the_stream() -> None:
    neighbour = bytes([SECRET[0] ^ 1]) + SECRET[1:]
    first, second = (np.frombuffer(key_stream(secret, "x", 4096), np.uint8) for secret in (SECRET, neighbour))
    assert 0.48 < np.unpackbits(first ^ second).mean() < 0.52


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        key_stream(bytes(length), "x", 8)
