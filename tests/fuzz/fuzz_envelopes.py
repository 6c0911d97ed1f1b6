"""Fuzzes sealed images (COSE in CBOR): as they come, and with headers that somebody who has the key made up."""

from contextlib import suppress

import cbor2
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sdb_client.sealed import Unsealable, peek, seal, unseal

SECRET, KID, MODEL, IMAGE = bytes(range(32)), "img_demo", "tiny", b"image"
IV = bytes(range(12))
PROTECTED = cbor2.dumps({1: 3, 4: KID.encode(), 15: {6: 1_790_000_000}})
SEEDS = [
    b"\0" + seal(IMAGE, SECRET, kid=KID, model=MODEL, now=1_790_000_000),
    b"\0" + seal(b"", SECRET, kid=KID, model="other", now=0),
    bytes([1, len(PROTECTED)]) + PROTECTED + cbor2.dumps({5: IV}),
    bytes([1, 4]) + cbor2.dumps({1: 3}) + cbor2.dumps({4: KID.encode(), 5: IV}),
    bytes([1, 9]) + cbor2.dumps({1: 3, "x": [1.5, {2: "é"}]}) + cbor2.dumps({5: IV, 6: b"", 2: [1]}),
]


def feed(data: bytes) -> None:
    """The first byte says whether the rest is a message or the two headers of one that is encrypted well."""
    whole = not data[:1] or not data[0] & 1
    message = data[1:] if whole else _sealed(data[1:])
    with suppress(Unsealable):
        header = peek(message)
        assert 0 < len(header.kid) <= 64
        assert len(header.iv) == len(IV)
    with suppress(Unsealable):
        opened = unseal(message, SECRET, kid=KID, model=MODEL)
        assert opened == IMAGE, "what opens was sealed with the key"


def _sealed(headers: bytes) -> bytes:
    """A message of RFC 9052 §5.3 with any headers: the first byte is the length of the protected one."""
    end = 1 + (headers[0] if headers else 0)
    protected, unprotected = headers[1:end], headers[end:]
    structure = cbor2.dumps(["Encrypt0", protected, MODEL.encode()])
    ciphertext = AESGCM(SECRET).encrypt(IV, IMAGE, structure)
    return b"\xd0\x83" + cbor2.dumps(protected) + unprotected + cbor2.dumps(ciphertext)
