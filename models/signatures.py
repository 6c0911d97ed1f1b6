"""Signatures of bundle manifests: Ed25519 (RFC 8032), one line for each signer. Knows bytes; knows no file.

What is signed is the manifest, byte for byte, behind a name that no other use of the key has; the manifest holds the
sha256 of the weights. A public key is 32 bytes in base64url, as is the seed of a private one.
"""

import base64
import binascii
from collections.abc import Collection

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PURPOSE = b"safe-distillation-box/bundle/v1\0"
MAX_SIGNATURES = 64


def public_key(seed: bytes) -> str:
    """What tells others who signed: the public key (base64url) of a private key's seed, 32 bytes."""
    return _text(Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw())


def signed(manifest: bytes, seed: bytes, signatures: str = "") -> str:
    """The lines `signatures` and one for this private key, in the place of its former one."""
    signer = public_key(seed)
    others = [line for line in signatures.splitlines() if line.strip() and line.split()[0] != signer]
    line = f"{signer} {_text(Ed25519PrivateKey.from_private_bytes(seed).sign(PURPOSE + manifest))}"
    return "\n".join([*others, line]) + "\n"


def signer_of(manifest: bytes, signatures: str, trusted: Collection[str]) -> str | None:
    """Which of the `trusted` public keys has signed the manifest; None if none has."""
    for line in signatures.splitlines()[:MAX_SIGNATURES]:
        signer, _, signature = line.strip().partition(" ")
        if signer in trusted and _holds(PURPOSE + manifest, signer, signature.strip()):
            return signer
    return None


def _holds(content: bytes, signer: str, signature: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(_bytes(signer)).verify(_bytes(signature), content)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _text(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
