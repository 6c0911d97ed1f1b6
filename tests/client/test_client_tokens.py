"""What both clients present: tokens, renewed in time and once for all who wait, or the key itself."""

import asyncio
import time
from base64 import b64decode
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Barrier

import httpx
import pytest
from sdb_client import AsyncClient, Client
from sdb_client.errors import InvalidCredential, NotFound, SdbError, StoreUnavailable
from sdb_client.transport.credentials import Credentials
from sdb_client.transport.request import Request
from sdb_client.transport.steps import Alone, Flow

from tests.client.asking import ADMIN_KEY, API_KEY, BOTH, URL, Answer, Asking, Box, answer, blocking, refusal

MODELS = answer({"models": []})
EXCHANGE = ["/v1/keys/self", "/oauth2/token"]
CALLERS = 16


@dataclass
class TokenServer:
    """Exchanges the key for tokens 1, 2, …, and accepts those that are not yet revoked."""

    issued: int = 0
    revoked: set[str] = field(default_factory=set)
    slow_s: float = 0.0

    def __call__(self, request: httpx.Request) -> Answer:
        presented = request.headers.get("Authorization", "")
        match request.url.path:
            case "/v1/keys/self":
                return (
                    answer({"id": "key_1"}) if presented == f"Bearer {API_KEY}" else refusal("invalid-credential", 401)
                )
            case "/oauth2/token":
                assert b64decode(presented.removeprefix("Basic ")).decode() == f"key_1:{API_KEY}"
                assert request.content == b"grant_type=client_credentials"
                time.sleep(self.slow_s)
                self.issued += 1
                return answer({"access_token": f"token-{self.issued}", "expires_in": 900, "token_type": "Bearer"})
        token = presented.removeprefix("Bearer ")
        known = token.startswith("token-") and token not in self.revoked
        return MODELS if known else refusal("invalid-credential", 401)


@pytest.mark.parametrize("asking", BOTH)
def test_a_client_key_is_exchanged_once_and_travels_no_more(asking: Asking) -> None:
    box = Box(TokenServer())
    for _ in range(2):
        asking(box, lambda c: c.models.list(), api_key=API_KEY, auth="token")
    assert box.paths == [*EXCHANGE, "/v1/models"] * 2
    with httpx.Client(transport=httpx.MockTransport(box)) as http:
        client = Client(API_KEY, URL, auth="token", http_client=http)
        for other in (client, client, client.with_options(max_retries=0)):
            other.models.list()
    assert box.credentials[6:] == [f"Bearer {API_KEY}", box.credentials[7], *["Bearer token-3"] * 3]


@pytest.mark.parametrize("asking", BOTH)
@pytest.mark.parametrize(
    ("options", "presented"),
    [
        ({"api_key": API_KEY}, f"Bearer {API_KEY}"),
        ({"api_key": ADMIN_KEY, "auth": "token"}, f"Bearer {ADMIN_KEY}"),
        ({"api_key": "ey.some.token", "auth": "token"}, "Bearer ey.some.token"),
        ({"api_key": "", "auth": "token"}, None),
    ],
)
def test_whatever_is_no_client_key_is_presented_as_it_is(
    asking: Asking, options: dict[str, str], presented: str | None
) -> None:
    box = Box.of(MODELS)
    asking(box, lambda c: c.models.list(), **options)
    assert box.credentials == [presented]


@pytest.mark.parametrize("asking", BOTH)
def test_a_token_that_was_ended_is_renewed_once(asking: Asking) -> None:
    server = TokenServer(revoked={"token-1"})
    box = Box(server)
    assert asking(box, lambda c: c.models.list(), api_key=API_KEY, auth="token") == ()
    assert box.paths == [*EXCHANGE, "/v1/models", "/oauth2/token", "/v1/models"]
    server.revoked |= {"token-3", "token-4"}
    with pytest.raises(InvalidCredential):
        asking(box, lambda c: c.models.list(), api_key=API_KEY, auth="token")
    assert server.issued == 4


@pytest.mark.parametrize("asking", BOTH)
def test_a_key_that_is_not_valid_is_said_to_be_and_not_shown_again(asking: Asking) -> None:
    box = Box.of(refusal("invalid-credential", 401))
    with pytest.raises(InvalidCredential):
        asking(box, lambda c: c.models.list(), api_key=API_KEY, auth="token")
    assert box.paths == ["/v1/keys/self"]
    with pytest.raises(InvalidCredential):
        asking(box, lambda c: c.models.list(), api_key=ADMIN_KEY)
    assert len(box.asked) == 2


@pytest.mark.parametrize("asking", BOTH)
def test_a_busy_token_endpoint_is_asked_again_and_its_refusals_are_told(asking: Asking) -> None:
    server, busy = TokenServer(), [refusal("store-unavailable", 503, Retry_After="0")] * 2

    def answering(request: httpx.Request) -> Answer:
        return busy.pop() if busy and request.url.path == "/oauth2/token" else server(request)

    assert asking(Box(answering), lambda c: c.models.list(), api_key=API_KEY, auth="token") == ()
    busy += [refusal("store-unavailable", 503, Retry_After="0")] * 3
    with pytest.raises(StoreUnavailable):
        asking(Box(answering), lambda c: c.models.list(), api_key=API_KEY, auth="token")
    with pytest.raises(NotFound):
        asking(Box.of(refusal("not-found", 404)), lambda c: c.models.list(), api_key=API_KEY, auth="token")


def test_threads_that_want_a_token_at_once_share_one() -> None:
    server = TokenServer(slow_s=0.05)
    box, together = Box(server), Barrier(CALLERS)
    with httpx.Client(transport=httpx.MockTransport(box)) as http, ThreadPoolExecutor(CALLERS) as pool:
        client = Client(API_KEY, URL, auth="token", http_client=http)

        def ask(_: int) -> None:
            together.wait()
            client.models.list()

        list(pool.map(ask, range(CALLERS)))
        assert server.issued == 1
        server.revoked.add("token-1")
        list(pool.map(ask, range(CALLERS)))
    assert server.issued == 2, "all of them had the token that was ended, and one of them renewed it"


async def test_tasks_that_want_a_token_at_once_share_one() -> None:
    server = TokenServer()

    async def answering(request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0.01)
        found = server(request)
        assert isinstance(found, httpx.Response)
        return httpx.Response(found.status_code, headers=found.headers, content=found.content)

    async with httpx.AsyncClient(transport=httpx.MockTransport(answering)) as http:
        client = AsyncClient(API_KEY, URL, auth="token", http_client=http)
        await asyncio.gather(*(client.models.list() for _ in range(CALLERS)))
        assert server.issued == 1
        server.revoked.add("token-1")
        await asyncio.gather(*(client.models.list() for _ in range(CALLERS)))
    assert server.issued == 2


def test_a_token_is_renewed_before_it_expires() -> None:
    clock, issued = [1000.0], []
    credentials = Credentials(API_KEY, "token", lambda: clock[0])

    def attempts(request: Request[object], bearer: str | None) -> Flow[httpx.Response]:
        issued.append(request.path)
        assert (bearer is None) is (request.path == "/oauth2/token")
        yield from ()  # a generator, as all flows are
        return answer({"id": "key_1", "access_token": f"token-{len(issued)}", "expires_in": 100})

    def presented() -> str:
        flow = credentials.bearer(attempts)
        try:
            step = next(flow)
            assert isinstance(step, Alone)
            try:
                next(step.flow)
            except StopIteration as done:
                flow.send(done.value)
        except StopIteration as done:
            return str(done.value)
        raise AssertionError

    assert presented() == "token-2"
    for now, expected in ((1089.9, "token-2"), (1090.0, "token-3"), (1179.9, "token-3"), (1500.0, "token-4")):
        clock[0] = now
        assert presented() == expected
    assert issued == ["/v1/keys/self", *["/oauth2/token"] * 3], "the key's id is asked for once"


@pytest.mark.parametrize("asking", BOTH)
def test_the_environment_says_whom_to_ask_and_with_which_key(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDB_API_KEY", ADMIN_KEY)
    monkeypatch.setenv("SDB_BASE_URL", "http://elsewhere/prefix/")
    box = Box.of(MODELS)
    asking(box, lambda c: c.models.list(), api_key=None, base_url=None)
    asking(box, lambda c: c.models.list(), api_key="", base_url=URL)
    assert [str(request.url) for request in box.asked] == ["http://elsewhere/prefix/v1/models", f"{URL}/v1/models"]
    assert box.credentials == [f"Bearer {ADMIN_KEY}", None]
    monkeypatch.delenv("SDB_BASE_URL")
    asking(box, lambda c: c.models.list(), base_url=None)
    assert str(box.asked[-1].url) == "http://127.0.0.1:8000/v1/models"


@pytest.mark.parametrize("api_key", ["two words", "line\nbreak", "ключ"])
def test_what_no_header_can_hold_is_refused_without_being_shown(api_key: str) -> None:
    with pytest.raises(SdbError) as caught:
        blocking(Box.of(MODELS), lambda c: c.models.list(), api_key=api_key)
    assert api_key not in str(caught.value)


def test_an_http_client_that_was_given_stays_open_and_keeps_its_own_ways() -> None:
    box = Box.of(MODELS)
    with httpx.Client(transport=httpx.MockTransport(box), timeout=3.0, base_url=f"{URL}/a") as http:
        with Client("", http_client=http) as client:
            client.models.list()
        client.models.list()
        assert not http.is_closed
    assert box.asked[0].extensions["timeout"]["read"] == 3.0
    assert str(box.asked[0].url) == f"{URL}/a/v1/models"
    with Client("", URL) as own:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        own.models.list()
