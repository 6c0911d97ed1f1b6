"""What each call sends and how its answer is read, by both clients."""

import json
import pickle  # noqa: TID251 - what processes hand to each other
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
from sdb_client import Client, Inference, NewKey, errors
from sdb_client.answers.keys import NewImageKey
from sdb_client.errors import BY_CODE, APIError, UnexpectedAnswer

from app.errors import STATUS
from tests.client.asking import ADMIN_KEY, API_KEY, BOTH, URL, Asking, Box, answer, blocking, refusal

CARD = {
    "name": "m",
    "version": "1",
    "classes": ["a", "b"],
    "input": {"height": 32, "width": 32},
    "guard": ["sdb"],
    "tiers": ["public"],
}
SCORES = {"logits": [0.0, 1.0], "probabilities": [0.3, 0.7]}
PREDICTION = {"label": "b", "index": 1, "score": 0.7, "top": [{"label": "b", "index": 1, "score": 0.7}], **SCORES}
PREDICTIONS = {"model": "m", "version": "1", "tier": "public", "request_id": "r", "predictions": [PREDICTION]}
IMAGE_KEY = {
    "kid": "img_1",
    "scheme": "sealed",
    "transform": None,
    "block": None,
    "created_at": "2026-11-22T00:00:00Z",
    "state": "active",
    "ends_at": None,
}
KEY = {
    "id": "key_1",
    "name": "partner",
    "kind": "client",
    "scopes": ["distill", "predict"],
    "models": ["*"],
    "state": "active",
    "created_at": "2026-11-22T00:00:00Z",
    "expires_at": None,
    "last_used_at": None,
    "budget": {"limit": 10, "remaining": 9, "granted": 0, "refill": "none", "resets_at": None},
    "rate_limits": [{"name": "burst", "limit": 60, "window_s": 60}],
    "metadata": {},
    "image_key": IMAGE_KEY,
}
SECRET = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"  # 00 01 … 1f
NEW_KEY = KEY | {"api_key": API_KEY, "image_key": IMAGE_KEY | {"secret": SECRET}}
USAGE = {"start": "2026-11-22T00:00:00Z", "model": "m", "outcome": "served", "images": 3}
LINE = {"at": "2026-11-22T00:00:00Z", "kind": "charge", "count": 3, "used": 3, "granted": 0}
ENTRY = {
    "seq": 1,
    "at": "2026-11-22T00:00:00.125Z",
    "action": "key.create",
    "actor": "key_0",
    "target": "key_1",
    "request_id": "r",
    "address": "::1",
    "detail": {"after": {"name": "partner"}},
    "previous": "00",
    "hash": "01",
    "master": "m",
    "seal": "s",
}
ID = "/admin/v1/keys/key_1"
DEEP = b'{"a":' * 100_000 + b"1" + b"}" * 100_000


def inference(dtype: str = "<f4") -> httpx.Response:
    """Three answers, behind the JSON that describes them."""
    logits = np.arange(6, dtype=dtype).reshape(3, 2)
    labels = b"".join(len(text).to_bytes(4, "little") + text for text in (b"a", b"b", "ä".encode()))
    tensors = [
        {"name": "label", "datatype": "BYTES", "shape": [3], "parameters": {"binary_data_size": len(labels)}},
        {
            "name": "logits",
            "datatype": {"<f4": "FP32", "<f2": "FP16"}[dtype],
            "shape": [3, 2],
            "parameters": {"binary_data_size": logits.nbytes},
        },
    ]
    about = {"model_name": "m", "model_version": "1", "parameters": {"tier": "distill", "budget_remaining": 7}}
    head = json.dumps({**about, "outputs": tensors}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "X-Request-ID": "r-9"}
    return httpx.Response(200, content=head + labels + logits.tobytes(), headers=headers)


@dataclass(frozen=True)
class Call:
    """A call, what it should send, what it is told and, unless it is all of that, what it should return."""

    ask: Callable[[Any], Any]
    method: str
    path: str
    document: object
    said: Any
    told: Any = None


CALLS = [
    Call(lambda c: c.models.list(), "GET", "/v1/models", None, {"models": [CARD]}, [CARD]),
    Call(lambda c: c.models.get("a/b"), "GET", "/v1/models/a%2Fb", None, CARD),
    Call(lambda c: c.me(), "GET", "/v1/keys/self", None, KEY),
    Call(
        lambda c: c.keys.create(
            "partner", scopes={"distill"}, budget={"limit": 10}, expires_at=datetime(2099, 1, 1, tzinfo=UTC)
        ),
        "POST",
        "/admin/v1/keys",
        {
            "name": "partner",
            "scopes": ["distill"],
            "models": ["*"],
            "expires_at": "2099-01-01T00:00:00Z",
            "budget": {"limit": 10},
            "rate_limits": [],
        },
        NEW_KEY,
    ),
    Call(lambda c: c.keys.get("key_1"), "GET", ID, None, KEY),
    Call(
        lambda c: c.keys.update("key_1", expires_at=None, models=("m",)),
        "PATCH",
        ID,
        {"expires_at": None, "models": ["m"]},
        KEY,
    ),
    Call(
        lambda c: c.keys.rotate("key_1", overlap_s=5), "POST", f"{ID}/rotate", {"overlap_s": 5}, KEY | {"api_key": "k"}
    ),
    Call(lambda c: c.keys.revoke("key_1"), "POST", f"{ID}/revoke", None, KEY),
    Call(lambda c: c.keys.disable("key_1"), "POST", f"{ID}/disable", None, KEY),
    Call(lambda c: c.keys.enable("key_1"), "POST", f"{ID}/enable", None, KEY),
    Call(lambda c: c.keys.top_up("key_1", 5), "POST", f"{ID}/top-up", {"answers": 5}, KEY),
    Call(
        lambda c: c.keys.usage("key_1"),
        "GET",
        f"{ID}/usage?bucket=day",
        None,
        {"bucket": "day", "usage": [USAGE]},
        [USAGE],
    ),
    Call(lambda c: c.keys.ledger("key_1"), "GET", f"{ID}/ledger?limit=100", None, {"ledger": [LINE]}, [LINE]),
    Call(
        lambda c: c.keys.image_keys.create("key_1", "pixel", transform="shf", block=4),
        "POST",
        f"{ID}/image-keys",
        {"scheme": "pixel", "transform": "shf", "block": 4},
        IMAGE_KEY | {"secret": SECRET},
    ),
    Call(
        lambda c: c.keys.image_keys.list("key_1"),
        "GET",
        f"{ID}/image-keys",
        None,
        {"image_keys": [IMAGE_KEY]},
        [IMAGE_KEY],
    ),
    Call(
        lambda c: c.keys.image_keys.retire("key_1", "img_1"),
        "DELETE",
        f"{ID}/image-keys/img_1?overlap_s=0",
        None,
        IMAGE_KEY,
    ),
    Call(
        lambda c: c.audit.verify(), "GET", "/admin/v1/audit/verify", None, {"entries": 1, "head": "01", "intact": True}
    ),
]


@pytest.mark.parametrize("asking", BOTH)
@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.method} {call.path}")
def test_each_call_asks_for_what_its_path_names_and_reads_what_it_is_told(asking: Asking, call: Call) -> None:
    box = Box.of(answer(call.said))
    found = asking(box, call.ask, api_key=ADMIN_KEY)
    (asked,) = box.asked
    assert (asked.method, asked.url.raw_path.decode()) == (call.method, call.path)
    assert (json.loads(asked.content) if asked.content else None) == call.document
    assert asked.headers["Authorization"] == f"Bearer {ADMIN_KEY}"
    assert ("Idempotency-Key" in asked.headers) is (call.method != "GET")
    shown, told = json.loads(msgspec.json.encode(found)), call.told or call.said
    if isinstance(told, dict):
        shown, told = [shown], [told]
    for given, expected in zip(shown, told, strict=True):
        assert given.items() >= expected.items()


@pytest.mark.parametrize("asking", BOTH)
def test_a_change_may_be_meant_for_the_key_as_it_was_read(asking: Asking) -> None:
    box = Box.of(answer(KEY, ETag='"7"'))
    assert asking(box, lambda c: c.keys.get("key_1")).etag == '"7"'
    assert asking(box, lambda c: c.keys.update("key_1", if_match='"7"', name="new")).etag == '"7"'
    assert [request.headers.get("If-Match") for request in box.asked] == [None, '"7"']


@pytest.mark.parametrize("asking", BOTH)
def test_lists_ask_for_page_after_page(asking: Asking) -> None:
    pages = [{"keys": [KEY | {"id": "a"}, KEY], "next": "a b"}, {"keys": [KEY | {"id": "c"}], "next": None}]
    box = Box.of(*map(answer, pages))
    assert [key.id for key in asking(box, lambda c: c.keys.list(search="x", limit=2))] == ["a", "key_1", "c"]
    assert box.paths == [f"/admin/v1/keys?search=x&limit=2{cursor}" for cursor in ("", "&cursor=a+b")]
    box = Box.of(answer({"entries": [ENTRY], "next": None}))
    (entry,) = asking(box, lambda c: c.audit.list(target="key_1"))
    assert (entry.at.microsecond, entry.detail) == (125_000, {"after": {"name": "partner"}})
    assert box.paths == ["/admin/v1/audit?target=key_1&limit=50"]


@pytest.mark.parametrize("asking", BOTH)
def test_one_image_goes_as_it_is_and_several_as_a_form(asking: Asking) -> None:
    box = Box.of(answer(PREDICTIONS))
    found = asking(box, lambda c: c.predict(b"one", "m", top_k=3, temperature=2.0, idempotency_key="mine"))
    assert (found.predictions[0].label, found.predictions[0].logits, found.budget) == ("b", (0.0, 1.0), None)
    assert box.asked[0].content == b"one"
    assert box.paths == ["/v1/models/m/predict?top_k=3&temperature=2.0"]
    assert box.asked[0].headers["Idempotency-Key"] == "mine"
    asking(box, lambda c: c.predict([b"one", bytearray(b"two")], "m"))
    assert box.asked[1].headers["Content-Type"].startswith("multipart/form-data")
    assert box.asked[1].content.count(b'name="image"') == 2


@pytest.mark.parametrize("asking", BOTH)
@pytest.mark.parametrize(("dtype", "stored"), [("float32", "<f4"), ("float16", "<f2")])
def test_arrays_go_and_come_as_their_bytes(asking: Asking, dtype: str, stored: str) -> None:
    box, pixels = Box.of(inference(stored)), np.arange(3 * 2 * 2 * 3, dtype=np.uint8).reshape(3, 2, 2, 3)
    found = asking(box, lambda c: c.infer("m", pixels, outputs=["label", "logits"], dtype=dtype, temperature=2.0))
    length = int(box.asked[0].headers["Inference-Header-Content-Length"])
    head, behind = json.loads(box.asked[0].content[:length]), box.asked[0].content[length:]
    assert behind == pixels.tobytes()
    assert head["inputs"][0]["shape"] == [3, 2, 2, 3]
    assert head["parameters"] == {"temperature": 2.0, "output_datatype": {"<f4": "FP32", "<f2": "FP16"}[stored]}
    assert isinstance(found, Inference)
    assert found.logits.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found.logits, np.arange(6).reshape(3, 2))
    assert found.label.tolist() == ["a", "b", "ä"]
    assert (found.tier, found.budget_remaining, found.request_id) == ("distill", 7, "r-9")
    with pytest.raises(ValueError, match="read-only"):
        found.logits[0, 0] = 1


def test_files_go_to_infer_as_elements_of_a_tensor_and_a_version_in_the_path() -> None:
    box = Box.of(inference())
    blocking(box, lambda c: c.infer("m", [b"one", b"three", b""], outputs=["label"], version="2"))
    length = int(box.asked[0].headers["Inference-Header-Content-Length"])
    assert box.asked[0].content[length:] == b"\3\0\0\0one\5\0\0\0three\0\0\0\0"
    assert box.paths == ["/v2/models/m/versions/2/infer"]


@pytest.mark.parametrize(
    ("call", "said", "why"),
    [
        (lambda c: c.models.get("m"), httpx.Response(200, content=b"<html>"), "ModelCard"),
        (lambda c: c.models.get("m"), httpx.Response(200, content=b'{"name": "\xff"}'), "ModelCard"),
        (lambda c: c.models.get("m"), httpx.Response(200, content=DEEP), "ModelCard"),
        (lambda c: c.models.get("m"), answer({**CARD, "input": {"height": 32}}), r"`width` - at `\$.input`"),
        (lambda c: c.infer("m", [b"1"]), answer({}), "lacks the header"),
        (lambda c: c.infer("m", [b"1"]), answer({}, Inference_Header_Content_Length="9" * 5000), "lacks the header"),
        (lambda c: c.infer("m", [b"1"] * 3), inference(), "no probabilities"),
        (lambda c: c.infer("m", [b"1"] * 2, outputs=["logits"]), inference(), "of 2 images"),
        (
            lambda c: c.infer("m", [b"1"] * 3, outputs=["logits"]),
            httpx.Response(200, content=inference().content[:-1], headers=inference().headers),
            "has no bytes",
        ),
    ],
)
def test_an_answer_that_breaks_the_contract_is_said_to(
    call: Callable[[Any], Any], said: httpx.Response, why: str
) -> None:
    with pytest.raises(UnexpectedAnswer, match=why):
        blocking(Box.of(said), call)


def test_fields_that_a_newer_server_adds_are_passed_over() -> None:
    newer = {**CARD, "licence": "MIT", "input": {**CARD["input"], "channels": 3}}  # type: ignore[dict-item]
    assert blocking(Box.of(answer(newer)), lambda c: c.models.get("m")).classes == ("a", "b")


def test_every_code_of_the_server_has_an_error_of_its_own() -> None:
    assert BY_CODE.keys() == STATUS.keys()
    assert len(set(BY_CODE.values())) == len(BY_CODE)


@pytest.mark.parametrize("asking", BOTH)
@pytest.mark.parametrize("code", BY_CODE)
def test_a_refusal_is_the_error_of_its_code(asking: Asking, code: str) -> None:
    with pytest.raises(BY_CODE[code]) as caught:
        asking(Box.of(refusal(code, STATUS[code][0])), lambda c: c.models.list(), max_retries=0)
    error = caught.value
    assert isinstance(error, APIError)
    assert (error.status, error.code, error.title, error.request_id) == (STATUS[code][0], code, "A title", "r-1")
    assert str(error) == f"{code}: about {code} (request r-1)"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (httpx.Response(502, content=b"<html>", headers={"X-Request-ID": "p"}), "status 502: Bad Gateway (request p)"),
        (answer(["no object"], 404), "status 404: Not Found"),
        (httpx.Response(404, content=DEEP), "status 404: Not Found"),
        (answer({"code": 7, "detail": {}}, 418), "status 418: I'm a teapot"),
        (answer({"code": "brand-new", "detail": "it is new"}, 422), "brand-new: it is new"),
        (httpx.Response(307, headers={"Location": "http://elsewhere"}), "status 307: Temporary Redirect"),
    ],
)
def test_whatever_else_refuses_is_an_api_error_too(said: httpx.Response, text: str) -> None:
    with pytest.raises(APIError) as caught:
        blocking(Box.of(said), lambda c: c.models.list(), max_retries=0)
    assert (type(caught.value), str(caught.value)) == (APIError, text)


def test_no_repr_and_no_message_holds_a_secret() -> None:
    key = NewKey.from_json(json.dumps(NEW_KEY))
    image_key = key.image_key
    assert isinstance(image_key, NewImageKey)
    assert image_key.secret_bytes == bytes(range(32))
    assert NewKey.from_json(key.to_json()) == key
    assert NewImageKey.from_json(image_key.to_json()) == image_key
    with pytest.raises(UnexpectedAnswer) as missing:
        NewKey.from_json(json.dumps(KEY | {"image_key": None}))
    with Client(API_KEY, URL) as client:
        shown = [repr(key), repr(image_key), repr(client), str(vars(client)), str(missing.value)]
    for failure in (refusal("invalid-credential", 401), httpx.ConnectError("refused")):
        with pytest.raises(errors.SdbError) as caught:
            blocking(Box.of(failure), lambda c: c.me(), api_key=API_KEY, max_retries=0)
        shown += [str(caught.value), repr(caught.value), str(vars(caught.value))]
    for text in shown:
        assert API_KEY not in text
        assert SECRET not in text


@pytest.mark.parametrize("url", ["http://me:password@box", "http://password@box/path"])
def test_no_other_credential_may_stand_in_the_address(url: str) -> None:
    """It would be sent instead of the API key, and be in every repr and message."""
    with pytest.raises(errors.SdbError, match="base URL") as caught:
        Client(API_KEY, url)
    assert "password@" not in str(caught.value)
    assert repr(Client(API_KEY, "http://box/a@b")) == "Client('http://box/a@b')"


def test_an_image_key_of_a_description_without_secret_is_refused() -> None:
    with pytest.raises(UnexpectedAnswer, match="secret"):
        NewImageKey.from_json(json.dumps(IMAGE_KEY))
