"""Compressed bodies and answers at the door: for every route that reads a body, and for who asks."""

import base64
import gzip
import secrets
import zlib

import httpx
import pytest

from app.middleware import MAX_FORM_BYTES
from tests.app.test_unpacking import PACK
from tests.conftest import Api, encode, smooth_images

LIMIT = 200_000  # of the application in these tests
PREDICT = "/v1/models/tiny/predict"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def send(api: Api, content: bytes, coding: str, **headers: str) -> httpx.Response:
    return await api.client.post(PREDICT, content=content, headers={"Content-Encoding": coding, **headers})


@pytest.mark.parametrize("coding", ["gzip", "GZIP", "x-gzip", "deflate", "identity"])
async def test_a_compressed_image_is_predicted_like_the_image(api: Api, photo: bytes, coding: str) -> None:
    plain = await api.client.post(PREDICT, content=photo)
    packed = PACK.get(coding.lower().removeprefix("x-"), bytes)(photo)
    answer = await send(api, packed, coding)
    assert answer.status_code == 200, answer.text
    assert answer.json()["predictions"] == plain.json()["predictions"]


async def test_every_route_that_reads_a_body_unpacks_it(api: Api, photo: bytes) -> None:
    key = await api.issue()
    packed = {"Content-Encoding": "gzip"}
    body = gzip.compress(b'{"name": "packed", "scopes": ["predict"]}')
    headers = {**api.admin, **packed, "Content-Type": "application/json"}
    assert (await api.client.post("/admin/v1/keys", content=body, headers=headers)).json()["name"] == "packed"
    form = {**packed, "Content-Type": "application/x-www-form-urlencoded"}
    token = gzip.compress(b"grant_type=client_credentials")
    answer = await api.client.post("/oauth2/token", content=token, headers=form, auth=(key["id"], key["api_key"]))
    assert answer.status_code == 200, answer.text
    answer = await api.client.post("/hf/models/tiny", content=gzip.compress(photo), headers=packed)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("coding", sorted(PACK))
@pytest.mark.parametrize("path", [PREDICT, "/v2/models/tiny/infer", "/hf/models/tiny", "/admin/v1/keys"])
async def test_a_body_that_unpacks_to_too_much_is_refused_as_too_large(api: Api, coding: str, path: str) -> None:
    headers = {"Content-Encoding": coding, "Content-Type": "application/json"}
    headers |= api.admin if path.startswith("/admin") else {}
    limit = MAX_FORM_BYTES if path.startswith("/admin") else LIMIT
    bomb = PACK[coding](b" " * (limit + 1))
    assert len(bomb) < 1000
    answer = await api.client.post(path, content=bomb, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "body-too-large"), answer.text
    fits = await api.client.post(path, content=PACK[coding](b" " * limit), headers=headers)
    assert fits.status_code in {400, 415}


async def test_a_body_that_cannot_be_unpacked_is_malformed(api: Api, photo: bytes) -> None:
    for content in (photo, gzip.compress(photo)[:-1], zlib.compress(photo)):
        answer = await send(api, content, "gzip")
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid-request")


@pytest.mark.parametrize("coding", ["br", "zstd", "gzip, gzip", "nonsense"])
async def test_another_coding_is_refused_with_those_that_are_known(api: Api, photo: bytes, coding: str) -> None:
    answer = await send(api, photo, coding)
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-encoding")
    assert answer.headers["accept-encoding"] == "gzip, deflate"


@pytest.fixture(scope="module")
def many() -> dict[str, object]:
    """A request whose answer is large."""
    (image,) = (encode(image.permute(1, 2, 0).numpy(), "JPEG") for image in smooth_images(1, 8))
    return {"images": [base64.b64encode(image).decode()] * 100, "parameters": {"top_k": 10}}


async def test_a_large_answer_is_compressed_for_who_asks_and_a_small_one_for_nobody(
    api: Api, many: dict[str, object], photo: bytes
) -> None:
    answer = await api.client.post(PREDICT, json=many, headers={"Accept-Encoding": "gzip"})
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) < len(answer.content) / 2
    for asked in ("identity", "", "gzip;q=0", "gzip; q=0.0, deflate"):
        plain = await api.client.post(PREDICT, json=many, headers={"Accept-Encoding": asked})
        assert "content-encoding" not in plain.headers
        assert plain.json()["predictions"] == answer.json()["predictions"]
    small = await api.client.post(PREDICT, content=photo, headers={"Accept-Encoding": "gzip"})
    assert "content-encoding" not in small.headers


async def test_the_admin_plane_never_compresses(api: Api) -> None:
    """What shrinks with a guess beside a secret tells whether the guess is right."""
    for number in range(30):
        metadata = {f"{number}-{place}": secrets.token_hex(250) for place in range(10)}
        await api.issue(name=f"key {number}", metadata=metadata)
    answer = await api.client.get("/admin/v1/keys?size=100", headers={**api.admin, "Accept-Encoding": "gzip"})
    assert len(answer.content) > 2**16, (answer.status_code, len(answer.content))
    assert "content-encoding" not in answer.headers
