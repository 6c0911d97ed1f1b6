"""Laws of the FFX step: the papers' cipher, no value lost, nothing decoded that was not encoded."""

import hmac
from collections.abc import Sequence

import numpy as np
import pyffx  # type: ignore[import-untyped]
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sdb_client.derivation import KeySource
from sdb_client.feistel import code_table
from sdb_client.transforms import BLOCKS, Feistel, Negative, Transform, TransformError

from tests.client.test_transforms import SECRET, derived, noise


def test_the_password_has_a_seed_of_its_own() -> None:
    """RFC 5869 with nothing but HMAC; 32 raw bytes are the password."""
    info = b"imgkey/v1|kid=demo|model=resnet50|xf=FFX-PASSWORD|M=4|C=3"
    password = hmac.digest(hmac.digest(bytes(32), SECRET, "sha256"), info + b"\x01", "sha256")
    (step,) = derived("ffx").steps
    assert isinstance(step, Feistel)
    cipher = pyffx.Integer(password, length=3)
    assert step.table.tolist() == [cipher.encrypt(value) for value in range(256)]
    assert step.mask.tolist() == KeySource(SECRET, "demo", "resnet50", 4, 3).mask("FFX").tolist()


@settings(max_examples=10, deadline=None)
@given(st.binary(min_size=1, max_size=80))
def test_the_table_is_that_of_the_papers_library(password: bytes) -> None:
    cipher = pyffx.Integer(password, length=3)
    assert code_table(password).tolist() == [cipher.encrypt(value) for value in range(256)]


def test_the_largest_code_of_the_papers_default_password_is_996() -> None:
    step = Feistel(np.ones(12, dtype=np.bool_), code_table(b"password"))
    assert Transform([step], 2).peak == 996
    assert Transform([Negative(np.ones(12, dtype=np.bool_))], 2).peak == 255


@pytest.mark.parametrize("block", BLOCKS)
def test_ffx_loses_none_of_the_256_values_at_any_place(block: int) -> None:
    values = np.arange(256, dtype=np.uint8)[:, None, None, None] + np.zeros((1, block, block, 3), dtype=np.uint8)
    transform = derived("shf", "np", "ffx", block=block)
    np.testing.assert_array_equal(transform.invert(transform.apply(values)), values)


@pytest.mark.parametrize("wrong", ["masked", "unmasked", "no code"])
def test_ffx_refuses_a_value_that_its_key_never_gives(wrong: str) -> None:
    transform = derived("ffx")
    (step,) = transform.steps
    assert isinstance(step, Feistel)
    codes = transform.apply(noise(4, 4, 3))
    absent = next(code for code in range(1000) if code not in step.table)
    value = {"masked": absent, "unmasked": 256, "no code": 1000}[wrong]
    codes.reshape(-1)[np.flatnonzero(step.mask == (wrong != "unmasked"))[0]] = value
    with pytest.raises(TransformError, match="value"):
        transform.invert(codes)


def test_ffx_takes_bytes_and_gives_codes() -> None:
    transform = derived("ffx")
    with pytest.raises(TransformError, match="uint16, not uint8"):
        transform.invert(noise(8, 8, 3))
    with pytest.raises(TransformError, match="uint8, not uint16"):
        transform.apply(noise(8, 8, 3).astype(np.uint16))
    with pytest.raises(TransformError, match="ffx"):
        transform.fused(8, 8)


@pytest.mark.parametrize("table", [range(255), [0] * 256, range(800, 1056)], ids=["short", "twice", "large"])
def test_an_ffx_table_has_256_different_codes(table: Sequence[int]) -> None:
    with pytest.raises(TransformError, match="codes"):
        Feistel(np.ones(12, dtype=np.bool_), np.array(table))
