"""What a client is made with: the address, the credential, how long to wait and how often to try again.

Knows the defaults; opens nothing.
"""

import platform
import time
from importlib.metadata import version
from typing import TypeAlias

import httpx

from sdb_client import environment
from sdb_client.errors import SdbError
from sdb_client.transport.credentials import Auth, Credentials
from sdb_client.transport.exchange import Exchange

HERE = "http://127.0.0.1:8000"
TIMEOUT = httpx.Timeout(60.0, connect=5.0)
MAX_RETRIES = 2

Timeout: TypeAlias = float | httpx.Timeout
Http: TypeAlias = httpx.Client | httpx.AsyncClient


def exchange(  # noqa: PLR0917 - both clients pass on what they were given
    http: Http, api_key: str | None, base_url: str | None, auth: Auth, timeout: Timeout | None, max_retries: int
) -> Exchange:
    """How a client with these options asks; what is None comes from the environment, or is the default.

    Raises:
        SdbError: an API key that no header can hold, such as one with a line break.
    """
    presented = environment.api_key() if api_key is None else api_key or None
    if presented is not None and not (presented.isascii() and presented.isprintable() and " " not in presented):
        raise SdbError("the API key holds what no API key holds: a blank, a line break, or a letter that is not ASCII")
    where = str(http.base_url) or environment.base_url() or HERE if base_url is None else base_url
    return Exchange(
        http=http,
        base_url=where.rstrip("/"),
        credentials=Credentials(presented, auth, time.monotonic),
        timeout=httpx.Timeout(timeout),
        max_retries=max_retries,
        user_agent=f"sdb-client/{version('sdb-client')} Python/{platform.python_version()}",
    )
