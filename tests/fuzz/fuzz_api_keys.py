"""Fuzzes what is read of secrets as text: API keys, with and without a right checksum, and key rings."""

import re
import zlib
from contextlib import suppress

from keys.errors import ConfigurationError, InvalidCredential
from keys.material import CHECKSUM, SECRET_BYTES, Keyring, base62, check_api_key, check_checksum, new_api_key

FORM = re.compile(r"sdb_(adm|cli)_[0-9A-Za-z]{38}", re.ASCII)
SEEDS = [
    b"\0" + new_api_key("cli").encode(),
    b"\1" + new_api_key("adm").encode()[:-CHECKSUM],
    b"\1sdb_cli_",
    b"\0" + "sdb_cli_é".encode(),
    b"\2" + b"A" * 43,
    b"\2bQ8rJ2m0Yw7cV4nT1xZ5kP9sD3fG6hL0aE8uI2oW4yR, short",
]


def feed(data: bytes) -> None:
    """The first byte says whether the rest is an API key, one without its checksum, or a key ring."""
    how, text = (data[0] % 3 if data else 0), data[1:].decode("latin-1")
    if how == 2:
        with suppress(ConfigurationError):
            assert all(len(secret) == SECRET_BYTES for secret in Keyring.parse(text, "SDB_MASTER_KEY"))
        return
    text += base62(zlib.crc32(text.encode()), CHECKSUM) if how == 1 else ""
    with suppress(InvalidCredential):
        kind = check_api_key(text)
        assert FORM.fullmatch(text)
        assert text[4:7] == kind
        check_checksum(text)
