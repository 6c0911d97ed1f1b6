"""Sealed images: COSE_Encrypt0 (RFC 9052) with A256GCM, keyed directly by the 32-byte secret of an image key.

Knows bytes; knows no image format, no store and no server. Protected header: `alg`, `kid` (the image key's id) and the
time of sealing (`iat` in the CWT claims of RFC 9597); unprotected: a fresh random IV of 96 bits. The external AAD is
the model's name in UTF-8, so an image that was sealed for one model opens for no other.

The envelope is read here, strictly and once; cwt, which accepts bytes after the end and any `alg`, builds the
Enc_structure and does the cryptography. At most 2³² images may be sealed with one secret (NIST SP 800-38D, §8.3).
"""

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from cbor2 import CBORTag
from cwt import COSE, COSEKey
from cwt.cose_key_interface import COSEKeyInterface
from cwt.exceptions import CWTError

from sdb_client import cbor
from sdb_client.cbor import Label, Value

MEDIA_TYPE = "application/cose"
SECRET_BYTES, IV_BYTES, TAG_BYTES = 32, 12, 16
LONGEST_HEADER, LONGEST_KID = 1024, 64
ENCRYPT0, PARTS, A256GCM = 16, 3, 3
ALG, CRIT, KID, IV, PARTIAL_IV = 1, 2, 4, 5, 6
CWT_CLAIMS, IAT = 15, 6  # RFC 9597; cwt 3.3.0 has the number of a draft


class Unsealable(ValueError):
    """Not a sealed image, or not with this secret for this model: one text, whatever the reason."""

    def __init__(self) -> None:
        super().__init__("the sealed image does not open")


@dataclass(frozen=True)
class Header:
    """What a message says before it is opened; nothing of it is to be believed until it is."""

    kid: str
    iv: bytes
    issued_at: float | None
    """When it was sealed, in seconds since 1970; None if the sender did not say."""


@dataclass(frozen=True)
class _Envelope:
    header: Header
    protected: bytes
    ciphertext: memoryview


def seal(image: bytes, secret: bytes, *, kid: str, model: str, now: float | None = None) -> bytes:
    """The bytes of an image file, sealed with the image key `kid` for `model`.

    `secret` has 32 bytes; `now` is the time of sealing in seconds since 1970, the clock's when left out. A server
    takes a message once, and while its time is within 300 seconds of the server's clock.

    Raises:
        ValueError: a secret of another length, or a `kid` that is not 1 to 64 characters of ASCII.
    """
    issued_at = int(time.time() if now is None else now)
    protected = {ALG: A256GCM, KID: _named(kid), CWT_CLAIMS: {IAT: issued_at}}
    unprotected = {IV: os.urandom(IV_BYTES)}
    return COSE().encode_and_encrypt(image, _key(secret, kid), protected, unprotected, external_aad=model.encode())


def peek(message: bytes) -> Header:
    """Whose key a message says it is sealed with, its IV and its time; nothing is decrypted.

    `kid` and IV may be in either header, the time may be missing.

    Raises:
        Unsealable: it is not exactly one tagged COSE_Encrypt0 with A256GCM.
    """
    return _read(message).header


def unseal(message: bytes, secret: bytes, *, kid: str, model: str) -> bytes:
    """The bytes that were sealed with the image key `kid` for `model`. One key is tried, never several.

    Raises:
        Unsealable: sealed with another key or for another model, changed, or no sealed image at all.
        ValueError: a secret that is not 32 bytes.
    """
    envelope, key = _read(message), _key(secret, kid)
    if envelope.header.kid != kid:
        raise Unsealable
    unprotected = {KID: _named(kid), IV: envelope.header.iv}
    parsed = CBORTag(ENCRYPT0, [envelope.protected, unprotected, bytes(envelope.ciphertext)])
    try:
        return COSE().decode(parsed, key, external_aad=model.encode())
    except CWTError:
        raise Unsealable from None


def _key(secret: bytes, kid: str) -> COSEKeyInterface:
    if len(secret) != SECRET_BYTES:  # of no bytes the library would make a random key
        raise ValueError(f"an image secret is {SECRET_BYTES} bytes, not {len(secret)}")
    return COSEKey.from_symmetric_key(secret, alg=A256GCM, kid=_named(kid))


def _named(kid: str) -> bytes:
    if not (kid.isascii() and 0 < len(kid) <= LONGEST_KID):
        raise ValueError(f"a kid is 1 to {LONGEST_KID} characters of ASCII")
    return kid.encode()


def _read(message: bytes) -> _Envelope:
    try:
        reader = cbor.Reader(message)
        if reader.expect(cbor.TAG) != ENCRYPT0 or reader.expect(cbor.ARRAY) != PARTS:
            raise Unsealable
        protected, unprotected, ciphertext = reader.string(), reader.map(), reader.string()
        reader.end()
        if len(protected) > LONGEST_HEADER or len(ciphertext) < TAG_BYTES:
            raise Unsealable
        inner = cbor.Reader(protected)
        header = _header(inner.map(), unprotected)
        inner.end()
    except cbor.CborError:
        raise Unsealable from None
    return _Envelope(header, bytes(protected), ciphertext)


def _header(protected: Mapping[Label, Value], unprotected: Mapping[Label, Value]) -> Header:
    """Both headers as one; `alg` and the time count only if they are protected."""
    both = {**protected, **unprotected}
    alg, kid, iv = protected.get(ALG), both.get(KID), both.get(IV)
    if len(both) < len(protected) + len(unprotected) or {CRIT, PARTIAL_IV} & both.keys() or CWT_CLAIMS in unprotected:
        raise Unsealable
    if not (type(alg) is int and alg == A256GCM and isinstance(iv, bytes) and len(iv) == IV_BYTES):
        raise Unsealable
    if not (isinstance(kid, bytes) and kid.isascii() and 0 < len(kid) <= LONGEST_KID):
        raise Unsealable
    return Header(kid.decode(), iv, _issued_at(protected.get(CWT_CLAIMS, {})))


def _issued_at(claims: Value) -> float | None:
    if not isinstance(claims, dict):
        raise Unsealable
    issued_at = claims.get(IAT)
    if issued_at is None:
        return None
    if not isinstance(issued_at, int | float) or not math.isfinite(issued_at):
        raise Unsealable
    return float(issued_at)
