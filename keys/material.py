"""Secret material: master and signing keys, API keys as text, HMACs and sealed boxes.

Knows cryptography; knows no store, no caller and no clock.
"""

import base64
import binascii
import contextlib
import hashlib
import hmac
import os
import re
import secrets
import string
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keys.errors import ConfigurationError, InvalidCredential

SECRET_BYTES = 32
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
KeyClass = Literal["adm", "cli"]
CHECKSUM = 6  # characters
API_KEY = re.compile(r"sdb_(adm|cli)_([0-9A-Za-z]{32})([0-9A-Za-z]{6})", re.ASCII)
NONCE_BYTES, FINGERPRINT_BYTES = 12, 8
FEWEST_DISTINCT_BYTES = 8  # 32 random bytes have fewer with a probability below 10^-30


def base62(number: int, width: int) -> str:
    """`number` in base 62 (digits, upper case, lower case), padded with zeros to `width`."""
    text = ""
    while number:
        number, digit = divmod(number, 62)
        text = BASE62[digit] + text
    return text.rjust(width, BASE62[0])


def random_base62(length: int) -> str:
    """`length` characters, 5.95 bits each, from the operating system's generator."""
    return "".join(secrets.choice(BASE62) for _ in range(length))


def new_api_key(kind: KeyClass) -> str:
    """`sdb_` + class + `_` + 32 random base62 characters (190 bits) + CRC32 of all before it in 6 base62."""
    body = f"sdb_{kind}_{random_base62(32)}"
    return body + base62(zlib.crc32(body.encode()), CHECKSUM)


def check_api_key(text: str) -> KeyClass:
    """The class of a well-formed API key; costs no store round trip, so typing errors and scans end here.

    Raises:
        InvalidCredential: the form or the checksum is wrong.
    """
    check_checksum(text)
    match = API_KEY.fullmatch(text)
    if match is None:
        raise InvalidCredential
    return "adm" if match[1] == "adm" else "cli"


def check_checksum(text: str) -> None:
    """Pass whatever ends with the checksum of an API key.

    Raises:
        InvalidCredential: it does not.
    """
    if not text.isascii() or base62(zlib.crc32(text[:-CHECKSUM].encode()), CHECKSUM) != text[-CHECKSUM:]:
        raise InvalidCredential


def to_text(secret: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(secret).rstrip(b"=").decode()


def from_text(text: str) -> bytes:
    """Bytes from base64url text, padded or not.

    Raises:
        ConfigurationError: malformed.
    """
    text = text.strip().rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise ConfigurationError("not base64url") from None


def parse_secret(text: str, name: str) -> bytes:
    """32 bytes from base64url text, padded or not.

    Raises:
        ConfigurationError: too short, too long, malformed, or so regular that it must be a placeholder.
    """
    try:
        secret = from_text(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name} is {error}") from None
    if len(secret) != SECRET_BYTES:
        raise ConfigurationError(f"{name} has {len(secret)} bytes, not {SECRET_BYTES}")
    if len(set(secret)) < FEWEST_DISTINCT_BYTES or secret in (secret + secret)[1:-1]:  # regular, or a pattern repeated
        raise ConfigurationError(f"{name} is a placeholder, not a random secret")
    return secret


class Keyring:
    """Some 32-byte secrets, newest first: the first one makes, all of them recognise."""

    def __init__(self, secrets_: Sequence[bytes]) -> None:
        if not secrets_:
            raise ConfigurationError("a key ring needs a key")
        self._secrets = tuple(secrets_)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._secrets)

    def __repr__(self) -> str:
        return f"Keyring({len(self._secrets)} keys)"

    @classmethod
    def parse(cls, text: str, name: str) -> "Keyring":
        """Secrets separated by commas or white space.

        Raises:
            ConfigurationError: one of them cannot be used, or there is none.
        """
        return cls([parse_secret(part, name) for part in re.split(r"[,\s]+", text.strip()) if part])

    @classmethod
    def load_or_create(cls, path: Path) -> "Keyring":
        """The ring in `path`; a missing file is made with one new secret and mode 0600."""
        return cls.parse(_kept(path), str(path))


class Vault:
    """What the master key does: HMACs of API keys, and boxes that only this server opens."""

    def __init__(self, master: Keyring) -> None:
        self._hmac_keys = [derived(secret, "api-key-hmac") for secret in master]
        self._seal_keys = [derived(secret, "seal") for secret in master]
        self._signing_keys = {
            fingerprint(seal): derived(secret, "sign") for secret, seal in zip(master, self._seal_keys, strict=True)
        }
        self._newest = next(iter(master))

    def __repr__(self) -> str:
        return f"Vault({len(self._seal_keys)} master keys)"

    @property
    def newest(self) -> str:
        """A public name for the newest master key."""
        return fingerprint(self._seal_keys[0])

    def digests(self, api_key: str) -> list[str]:
        """HMAC-SHA-256 of an API key under each master key, newest first, in hexadecimal: all that a store keeps."""
        return [_hmac(key, api_key) for key in self._hmac_keys]

    def derive(self, purpose: str) -> bytes:
        """32 bytes for `purpose` from the newest master key: others after the master key has been rotated."""
        return derived(self._newest, f"derived/{purpose}")

    def sign(self, purpose: str, text: str) -> tuple[str, str]:
        """The public name of the newest master key, and HMAC-SHA-256 (hexadecimal) of `text` for `purpose` under it."""
        name, key = next(iter(self._signing_keys.items()))
        return name, _hmac(key, f"{purpose}/{text}")

    def signed(self, purpose: str, text: str, master: str, signature: str) -> bool | None:
        """Whether `sign` gave this signature; None if the master key of that name is not given."""
        key = self._signing_keys.get(master)
        if key is None:
            return None
        return hmac.compare_digest(_hmac(key, f"{purpose}/{text}").encode(), signature.encode())

    def seal(self, plain: bytes, context: str) -> bytes:
        """AES-256-GCM under the newest master key, bound to `context`: fingerprint ‖ nonce ‖ ciphertext with tag."""
        key, nonce = self._seal_keys[0], os.urandom(NONCE_BYTES)
        return _fingerprint(key) + nonce + AESGCM(key).encrypt(nonce, plain, context.encode())

    def unseal(self, sealed: bytes, context: str) -> bytes:
        """What `seal` was given.

        Raises:
            ConfigurationError: sealed under a master key that is not given, for another context, or damaged.
        """
        fingerprint, rest = sealed[:FINGERPRINT_BYTES], sealed[FINGERPRINT_BYTES:]
        for key in self._seal_keys:
            if hmac.compare_digest(_fingerprint(key), fingerprint):
                try:
                    return AESGCM(key).decrypt(rest[:NONCE_BYTES], rest[NONCE_BYTES:], context.encode())
                except (InvalidTag, ValueError):
                    break
        raise ConfigurationError(f"the sealed secret of {context} does not open with SDB_MASTER_KEY")

    def reseal(self, sealed: bytes, context: str) -> bytes | None:
        """The same under the newest master key; None if it is already.

        Raises:
            ConfigurationError: it does not open.
        """
        plain = self.unseal(sealed, context)
        return None if sealed.startswith(_fingerprint(self._seal_keys[0])) else self.seal(plain, context)


def _hmac(key: bytes, text: str) -> str:
    return hmac.digest(key, text.encode(), hashlib.sha256).hex()


def derived(secret: bytes, purpose: str) -> bytes:
    """32 bytes from a secret for one purpose, by HKDF-SHA-256 (RFC 5869)."""
    return HKDF(SHA256(), SECRET_BYTES, salt=None, info=f"sdb/v1/{purpose}".encode()).derive(secret)


def _fingerprint(key: bytes) -> bytes:
    return hashlib.sha256(b"sdb/v1/fingerprint" + key).digest()[:FINGERPRINT_BYTES]


def fingerprint(secret: bytes) -> str:
    """A public name for a secret, 16 hexadecimal digits: the `kid` of a signing key."""
    return _fingerprint(secret).hex()


def write_private(path: Path, content: bytes) -> None:
    """Make a new file of mode 0600, on disk as a whole before it has its name.

    Raises:
        FileExistsError: it is there already.
    """
    with _partial(path, content) as partial:
        os.link(partial, path)


def replace_private(path: Path, content: bytes) -> None:
    """Put a file of mode 0600 in the place of one that is there; whoever reads it gets the one or the other."""
    with _partial(path, content) as partial:
        partial.replace(path)


@contextlib.contextmanager
def _partial(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path`, on disk as a whole, until the body ends."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def load_or_create(path: Path) -> bytes:
    """The secret (32 bytes) in `path`; a missing file is made with a new one and mode 0600.

    Raises:
        ConfigurationError: what is there cannot be used.
    """
    return parse_secret(_kept(path), str(path))


def _kept(path: Path) -> str:
    """The secrets in a file, which is made with one when missing; of two makers at once one wins for both."""
    if not path.exists():
        with contextlib.suppress(FileExistsError):
            write_private(path, (to_text(secrets.token_bytes(SECRET_BYTES)) + "\n").encode())
    return path.read_text(errors="replace")  # of what is no text nothing is base64url
