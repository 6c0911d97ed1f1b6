"""The only reader of the environment on the caller's side: whom to ask, and with which API key.

The server's settings begin with the same letters; it passes these two over, so that one shell serves both.
"""

import os

API_KEY, BASE_URL = "SDB_API_KEY", "SDB_BASE_URL"
VARIABLES = frozenset({API_KEY, BASE_URL})
HERE = "http://127.0.0.1:8000"


def api_key() -> str | None:
    """The API key, None where none is set."""
    return os.environ.get(API_KEY) or None


def base_url() -> str:
    """The address of the server, this machine's where none is set."""
    return os.environ.get(BASE_URL) or HERE
