"""What both clients are: an address, a credential, how long to wait and how often to try again, and the server's calls.

Each call is described once, as a request and how its answer is read; to send it is each client's own business.
"""

import copy
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

import httpx

from sdb_client import environment
from sdb_client.answers.keys import Key
from sdb_client.errors import SdbError
from sdb_client.resources.audit import Audit
from sdb_client.resources.inference import Inferring
from sdb_client.resources.keys import Keys
from sdb_client.resources.models import Models
from sdb_client.resources.prediction import Predicting
from sdb_client.transport.calls import Kind, call
from sdb_client.transport.credentials import Auth, Credentials
from sdb_client.transport.exchange import Exchange
from sdb_client.transport.request import Request, reader

if TYPE_CHECKING:
    from sdb_client.encryption import Encryption

TIMEOUT = httpx.Timeout(60.0, connect=5.0)
MAX_RETRIES = 2

Timeout: TypeAlias = float | httpx.Timeout
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


class Api(Predicting[Kind], Inferring[Kind], Generic[Kind, Http]):
    """Everything that can be asked of a server."""

    _http: Http
    _new_http: type[Http]
    _new_lock: Callable[[], Any]  # what `Alone` is done under

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        auth: Auth = "key",
        timeout: Timeout | None = None,
        max_retries: int = MAX_RETRIES,
        http_client: Http | None = None,
    ) -> None:
        """Nothing is sent yet.

        `api_key` and `base_url` come from `SDB_API_KEY` and `SDB_BASE_URL` when left out; `api_key=""` is a caller
        without a key. With `auth="token"` a client key is exchanged for access tokens, renewed by themselves: then the
        key itself travels seldom, but rights that the key is given later come with the next token. `timeout` in seconds
        is for each wait for the network; failures that pass are tried again up to `max_retries` times. `http_client`
        brings its own proxies, certificates and time-outs, and stays open when the client is closed.

        Raises:
            SdbError: an API key that no header can hold, such as one with a line break, or another credential in the
                address.
        """
        self._own = http_client is None
        self._http = http_client or self._new_http(timeout=TIMEOUT)
        self._lock = self._new_lock()
        presented = environment.api_key() if api_key is None else api_key or None
        where = str(self._http.base_url) or environment.base_url() if base_url is None else base_url
        _check(presented, where)
        self._exchange = Exchange(
            http=self._http,
            base_url=where.rstrip("/"),
            credentials=Credentials(presented, auth, time.monotonic),
            timeout=self._http.timeout if timeout is None else httpx.Timeout(timeout),
            max_retries=max_retries,
            user_agent=f"sdb-client/{version('sdb-client')} Python/{platform.python_version()}",
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._exchange.base_url!r})"

    def with_options(self, *, timeout: Timeout | None = None, max_retries: int | None = None) -> Self:
        """The same client, its connections and tokens, with other patience; None leaves as it is."""
        other = copy.copy(self)
        other._exchange = self._exchange.with_patience(timeout, max_retries)
        return other

    @property
    def models(self) -> Models[Kind]:
        """What is hosted."""
        return Models(self)

    @property
    def keys(self) -> Keys[Kind]:
        """Issue, change and end keys: for admins."""
        return Keys(self)

    @property
    def audit(self) -> Audit[Kind]:
        """Who changed what: for admins."""
        return Audit(self)

    @property
    def encrypt(self) -> "Encryption":
        """Images as only the server can read them."""
        from sdb_client.encryption import Encryption  # noqa: PLC0415 - its ciphers load in a tenth of a second

        return Encryption()

    @call
    def me(self) -> Request[Key]:
        """What the presented key may do, and what is left of its budget."""
        return Request("GET", "/v1/keys/self", reader(Key))


def _check(api_key: str | None, base_url: str) -> None:
    if api_key is not None and not (api_key.isascii() and api_key.isprintable() and " " not in api_key):
        raise SdbError("the API key holds what no API key holds: a blank, a line break, or a letter that is not ASCII")
    if "@" in base_url.partition("//")[2].partition("/")[0]:
        raise SdbError("the base URL holds a user name or a password; the API key is the only credential: leave it out")
