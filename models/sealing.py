"""What only who has a model's secret may read of what lies on disk: AES-256-GCM under keys that follow from it.

Knows bytes, tensors and their names; knows no file. Whoever has stolen `weights.safetensors` has the un-keyed network
whole, and of the keyed one nothing that differs.
"""

import os

import torch
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from safetensors.torch import load, save
from torch import Tensor

from models.guard import TWIN
from models.key_stream import key_stream

SEALED = "sealed"  # uint8 [N]: the content of `sealed` as `Seal.close` gives it
NONCE_BYTES, KEY_BYTES = 12, 32


class SealError(ValueError):
    """What was sealed is damaged, or was sealed with another secret or for another purpose."""


class Seal:
    """Closes and opens bytes for one purpose with a model's secret (32 bytes)."""

    def __init__(self, secret: bytes, purpose: str) -> None:
        self._cipher = AESGCM(key_stream(secret, f"seal/{purpose}", KEY_BYTES))

    def close(self, content: bytes) -> bytes:
        """A fresh nonce of 12 bytes, and the content encrypted and authenticated."""
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, None)

    def open(self, content: bytes) -> bytes:
        """What `close` was given.

        Raises:
            SealError: see there.
        """
        try:
            return self._cipher.decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], None)
        except (InvalidTag, ValueError):  # the latter: too short for a nonce
            raise SealError("sealed with another secret, or damaged") from None


def sealed(tensors: dict[str, Tensor], secret: bytes) -> dict[str, Tensor]:
    """The tensors as they lie in a bundle: on the CPU, the twin's in one sealed tensor if there are any."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    hidden = {name: plain.pop(name) for name in list(plain) if name.startswith(TWIN)}
    if hidden:
        plain[SEALED] = torch.frombuffer(bytearray(_seal(secret).close(save(hidden))), dtype=torch.uint8)
    return plain


def opened(tensors: dict[str, Tensor], secret: bytes) -> dict[str, Tensor]:
    """What `sealed` was given.

    Raises:
        SealError: another secret, or damage.
    """
    if SEALED not in tensors:
        return tensors
    if tensors[SEALED].dtype != torch.uint8:
        raise SealError("what it seals is not bytes")
    try:
        hidden = load(_seal(secret).open(tensors[SEALED].numpy().tobytes()))
    except SealError as error:
        raise SealError(f"its keyed normalisation is {error}") from None
    return {name: tensor for name, tensor in tensors.items() if name != SEALED} | hidden


def _seal(secret: bytes) -> Seal:
    return Seal(secret, "normalisation")
