"""The only reader of the environment on the caller's side: whom to ask, and with which API key.

The server's settings begin with the same letters; it passes these two over, so that one shell serves both.
"""

import os

API_KEY, BASE_URL = "SDB_API_KEY", "SDB_BASE_URL"
VARIABLES = frozenset({API_KEY, BASE_URL})


def api_key() -> str | None:
    """The API key, None where none is set."""
    return os.environ.get(API_KEY) or None


def base_url() -> str | None:
    """The address of the server, None where none is set."""
    return os.environ.get(BASE_URL) or None
