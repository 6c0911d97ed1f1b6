"""What the client presents: the API key itself, or a token that it exchanges the key for and renews in time.

Knows `/oauth2/token`, and `/v1/keys/self` for the key's id; knows no other call.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import httpx

from sdb_client.transport.request import Request, reader
from sdb_client.transport.steps import Alone, Flow

Auth = Literal["key", "token"]
Attempts: TypeAlias = Callable[[Request[Any], str | None], Flow[httpx.Response]]
CLIENT_KEY = "sdb_cli_"  # the admin plane takes no tokens, and what is no API key is one already
RENEW_AT = 0.9  # of a token's life


@dataclass(frozen=True)
class Holder:
    """Of `/v1/keys/self`, what the exchange needs."""

    id: str


@dataclass(frozen=True)
class TokenAnswer:
    """Of RFC 6749 §5.1, what the exchange needs."""

    access_token: str = field(repr=False)
    expires_in: float


@dataclass(frozen=True)
class Token:
    """An access token, and when (by the clock that is given) it is time for the next."""

    text: str = field(repr=False)
    due: float


class Credentials:
    """One credential and its tokens, for all threads or tasks of a client and of the clients made from it.

    `api_key` may also be an access token that somebody else has fetched: it is presented as it is.
    """

    def __init__(self, api_key: str | None, auth: Auth, clock: Callable[[], float]) -> None:
        self._api_key, self._clock = api_key, clock
        self._exchanges = auth == "token" and api_key is not None and api_key.startswith(CLIENT_KEY)
        self._key_id: str | None = None
        self._token: Token | None = None

    def __repr__(self) -> str:
        """Whether there is a credential; never which."""
        return f"Credentials({'none' if self._api_key is None else 'tokens' if self._exchanges else 'as given'})"

    def bearer(self, attempts: Attempts) -> Flow[str | None]:
        """What to present with a request, None for a caller without a key; `attempts` asks the server."""
        token = self._token
        if not self._exchanges:
            return self._api_key
        if token is None or self._clock() >= token.due:
            token = yield Alone(self._renewed(token, attempts))
        return token.text

    def refused(self, bearer: str | None) -> bool:
        """Forget a token that was refused; whether there can be another."""
        if self._exchanges and self._token is not None and self._token.text == bearer:
            self._token = None
        return self._exchanges

    def _renewed(self, old: Token | None, attempts: Attempts) -> Flow[Token]:
        """A token that is not `old`: fetched here, or by whoever came first."""
        if self._token is not None and self._token is not old:
            return self._token
        api_key = str(self._api_key)
        if self._key_id is None:
            who = Request("GET", "/v1/keys/self", reader(Holder))
            self._key_id = who.answer((yield from attempts(who, api_key))).id
        form, basic = {"grant_type": "client_credentials"}, (self._key_id, api_key)
        exchange = Request("POST", "/oauth2/token", reader(TokenAnswer), form=form, basic=basic)
        asked = self._clock()
        answer = exchange.answer((yield from attempts(exchange, None)))
        self._token = Token(answer.access_token, asked + RENEW_AT * answer.expires_in)
        return self._token
