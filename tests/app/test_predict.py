"""Predictions through every door, for every caller, and every refusal."""

import base64
import hashlib
import hmac
import io
import json
import operator
import struct
import time
import zlib
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, TypedDict, Unpack

import httpx
import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from app.settings import Settings
from app.state import State
from keys.material import Keyring
from keys.tokens import TokenMint
from models.views import View, seen
from tests.conftest import CLASSES, Api, application, bearer, encode, smooth_images

PREDICT = "/v1/models/tiny/predict"
FIELDS = {"type", "title", "status", "detail", "instance", "code", "request_id", "error"}
POLICIES = {"violated-policies"}
Answer = dict[str, Any]
Parts = list[tuple[str, tuple[str, bytes, str]]]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


class Request(TypedDict, total=False):
    """What a caller chooses."""

    content: bytes | str | AsyncIterator[bytes]
    json: object
    files: Parts
    data: Mapping[str, str]
    params: Mapping[str, Any]
    headers: Mapping[str, str]


def pictures(count: int, side: int = 36) -> list[bytes]:
    return [encode(image.permute(1, 2, 0).numpy()) for image in smooth_images(count, side, seed=7)]


def as_json(*images: bytes, **parameters: object) -> dict[str, object]:
    """The JSON form of a request."""
    return {"images": [base64.b64encode(image).decode() for image in images], "parameters": parameters}


def as_form(*images: bytes, name: str = "image") -> Parts:
    """The parts of a form."""
    return [(name, ("picture", image, "application/octet-stream")) for image in images]


def softmax(logits: Sequence[float], temperature: float) -> np.ndarray:
    scaled = np.array(logits, np.float64) / temperature
    exponent = np.exp(scaled - scaled.max())
    return np.asarray(exponent / exponent.sum())


async def chunks(content: bytes, size: int = 10_000) -> AsyncIterator[bytes]:
    """A body that declares no length."""
    for start in range(0, len(content), size):
        yield content[start : start + size]


async def predictions(api: Api, **request: Unpack[Request]) -> list[Answer]:
    """The predictions of an answer that must be good."""
    response = await api.client.post(PREDICT, **request)
    assert response.status_code == 200, response.text
    found: list[Answer] = response.json()["predictions"]
    return found


def assert_refused(response: httpx.Response, status: int, code: str) -> Answer:
    """The body of a refusal, which has every field that the contract promises."""
    assert (response.status_code, response.json().get("code")) == (status, code), response.text
    assert response.headers["content-type"] == "application/problem+json"
    body: Answer = response.json()
    assert set(body) == FIELDS | (POLICIES if code in {"quota-exceeded", "rate-limited"} else set())
    assert (body["status"], body["instance"]) == (status, response.request.url.path)
    assert body["request_id"] == response.headers["x-request-id"]
    assert all(isinstance(body[field], str) and body[field] for field in FIELDS - {"status"})
    return body


async def left(api: Api, key: Mapping[str, str]) -> int | None:
    """What is left of the key's budget."""
    answer = await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))
    remaining: int | None = answer.json()["budget"]["remaining"]
    return remaining


def jwt(header: object, payload: object, secret: bytes) -> str:
    """A token made by hand."""
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, payload)]
    signed = ".".join(parts)
    signature = hmac.new(secret, signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


def unpacked(token: str) -> list[Answer]:
    """Header and payload of a token."""
    return [json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))) for part in token.split(".")[:2]]


async def test_one_image_gets_one_prediction_by_every_door(api: Api, photo: bytes) -> None:
    (expected,) = await predictions(api, content=photo)
    kinds = [
        "image/png",
        "image/jpeg",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
        "text/plain; charset=utf-8",
        "nonsense",
        "",
    ]
    for kind in kinds:
        assert await predictions(api, content=photo, headers={"Content-Type": kind}) == [expected]
    assert await predictions(api, content=chunks(photo, 100)) == [expected]
    assert await predictions(api, files=as_form(photo)) == [expected]
    assert await predictions(api, json=as_json(photo)) == [expected]
    headers = {"Content-Type": "APPLICATION/JSON; charset=utf-8"}
    assert await predictions(api, content=json.dumps(as_json(photo)), headers=headers) == [expected]


async def test_many_images_are_answered_in_their_order_each_as_if_alone(api: Api) -> None:
    many = pictures(5)
    alone = [(await predictions(api, content=image))[0] for image in many]
    for answers in (await predictions(api, files=as_form(*many)), await predictions(api, json=as_json(*many))):
        assert [answer["index"] for answer in answers] == [answer["index"] for answer in alone]
        logits = [[answer["logits"] for answer in group] for group in (answers, alone)]
        assert np.abs(np.array(logits[0]) - np.array(logits[1])).max() < 1e-3
    first, second = np.array([answer["logits"] for answer in alone[:2]])
    assert np.abs(first - second).max() > 0.01


async def test_a_prediction_is_consistent_in_itself(api: Api, photo: bytes) -> None:
    key = await api.issue()
    for headers, default in (({}, 1.0), (bearer(key["api_key"]), 4.0)):
        for query, temperature in (({}, default), ({"temperature": "2.5"}, 2.5)):
            (answer,) = await predictions(api, content=photo, headers=headers, params={"top_k": 10, **query})
            assert len(answer["logits"]) == len(answer["probabilities"]) == len(CLASSES)
            assert answer["index"] == int(np.argmax(answer["logits"]))
            assert answer["label"] == CLASSES[answer["index"]]
            assert sum(answer["probabilities"]) == pytest.approx(1, abs=1e-5)
            expected = softmax(answer["logits"], temperature)
            assert answer["probabilities"] == pytest.approx(expected.tolist(), abs=1e-5)
            assert answer["top"][0] == {field: answer[field] for field in ("label", "index", "score")}
            assert [entry["score"] for entry in answer["top"]] == sorted(answer["probabilities"], reverse=True)
            assert sorted(entry["index"] for entry in answer["top"]) == list(range(10))
            assert all(entry["label"] == CLASSES[entry["index"]] for entry in answer["top"])
            assert all(entry["score"] == answer["probabilities"][entry["index"]] for entry in answer["top"])


async def test_extreme_temperatures_still_give_probabilities(api: Api, photo: bytes) -> None:
    for temperature in ("1000", "0.001", "1e-300", "5e-324"):
        response = await api.client.post(PREDICT, content=photo, params={"temperature": temperature})
        if response.status_code == 400:
            continue
        assert response.status_code == 200, temperature
        assert sum(response.json()["predictions"][0]["probabilities"]) == pytest.approx(1, abs=1e-5)


async def test_the_public_and_the_key_holder_see_one_top_class_and_different_logits(api: Api) -> None:
    headers = bearer((await api.issue())["api_key"])
    many = pictures(8)
    public = await predictions(api, json=as_json(*many))
    own = await predictions(api, json=as_json(*many), headers=headers)
    assert [answer["index"] for answer in public] == [answer["index"] for answer in own]
    for ours, theirs in zip(own, public, strict=True):
        assert np.abs(np.array(ours["logits"]) - np.array(theirs["logits"])).max() > 0.1


async def test_each_view_gets_a_soft_label_that_its_pixels_sent_alone_get_too(api: Api) -> None:
    """A student that is shown the same view as the teacher needs to know which: the answer says so."""
    headers, many = bearer((await api.issue(1000))["api_key"]), pictures(3, side=32)
    answers = await predictions(api, json=as_json(*many, views=4, mix=0.5), headers=headers)
    pixels = [np.asarray(Image.open(io.BytesIO(image))) for image in many]
    for number, answer in enumerate(answers):
        labels = answer["views"]
        assert len(labels) == 4
        assert labels[0]["logits"] == answer["logits"], "the first view is the image itself"
        shown = [encode(seen(pixels, number, View(**label["view"]))) for label in labels]
        alone = await predictions(api, json=as_json(*shown), headers=headers)
        for label, same in zip(labels, alone, strict=True):
            np.testing.assert_allclose(label["logits"], same["logits"], rtol=1e-3, atol=1e-3)
            assert sum(label["probabilities"]) == pytest.approx(1, abs=1e-5)
    assert any(label["view"]["partner"] is not None for answer in answers for label in answer["views"])


async def test_a_view_is_charged_like_an_image(api: Api, photo: bytes) -> None:
    key = await api.issue(20)
    headers = bearer(key["api_key"])
    answer = await api.client.post(PREDICT, files=as_form(photo, photo), params={"views": 8}, headers=headers)
    assert answer.json()["budget"] == {"limit": 20, "remaining": 4}
    assert_refused(
        await api.client.post(PREDICT, content=photo, params={"views": 8}, headers=headers), 429, "quota-exceeded"
    )
    assert await left(api, key) == 4
    many = await api.client.post(PREDICT, json=as_json(*[photo] * 17, views=16), headers=headers)
    assert "views" in assert_refused(many, 400, "invalid-request")["detail"]


async def test_an_answer_names_model_version_tier_and_request(api: Api, photo: bytes) -> None:
    public = await api.client.post(PREDICT, content=photo, headers={"X-Request-ID": "mine"})
    body = public.json()
    assert {field: body[field] for field in ("model", "version", "tier", "request_id")} == {
        "model": "tiny",
        "version": "1",
        "tier": "public",
        "request_id": "mine",
    }
    assert "budget" not in body
    assert not {"ratelimit", "ratelimit-policy"} & set(public.headers)
    unlimited = await api.issue(None)
    answer = await api.client.post(PREDICT, content=photo, headers=bearer(unlimited["api_key"]))
    assert (answer.json()["tier"], answer.json()["budget"]) == ("distill", {"limit": None, "remaining": None})
    assert "ratelimit" not in answer.headers


async def test_top_k_says_how_many_classes_are_listed(api: Api, photo: bytes) -> None:
    for asked, given in (({}, 5), ({"top_k": 1}, 1), ({"top_k": 3}, 3), ({"top_k": 10}, 10), ({"top_k": 99}, 10)):
        assert len((await predictions(api, content=photo, params=asked))[0]["top"]) == given
    assert len((await predictions(api, json=as_json(photo, top_k=2)))[0]["top"]) == 2
    assert len((await predictions(api, files=as_form(photo), data={"top_k": "2"}))[0]["top"]) == 2
    assert len((await predictions(api, json=as_json(photo, top_k=2), params={"top_k": 7}))[0]["top"]) == 2


async def test_a_parameter_that_is_unknown_or_out_of_range_is_refused_by_its_name(api: Api, photo: bytes) -> None:
    headers = bearer((await api.issue())["api_key"])
    bad = {
        "top_k": ["0", "-1", "1.5", "many", "", "1e99"],
        "temperature": ["0", "-1", "nan", "inf", "warm", "", "1001"],
        "views": ["0", "17", "two", "-3", ""],
        "mix": ["-0.1", "0.6", "nan", "much", ""],
        "colour": ["blue"],
        "Top_K": ["5"],
    }
    for name, values in bad.items():
        for value in values:
            for request in (
                Request(content=photo, params={name: value}, headers=headers),
                Request(json=as_json(photo, **{name: value}), headers=headers),
                Request(files=as_form(photo), data={name: value}, headers=headers),
            ):
                response = await api.client.post(PREDICT, **request)
                assert name in assert_refused(response, 400, "invalid-request")["detail"]


async def test_the_budget_counts_down_by_images(api: Api, photo: bytes) -> None:
    key = await api.issue(6)
    headers = bearer(key["api_key"])
    for count, remaining in ((1, 5), (3, 2), (2, 0)):
        answer = await api.client.post(PREDICT, files=as_form(*[photo] * count), headers=headers)
        assert answer.json()["budget"] == {"limit": 6, "remaining": remaining}
        assert answer.headers["ratelimit-policy"] == '"budget";q=6'
        assert answer.headers["ratelimit"] == f'"budget";r={remaining}'
        assert await left(api, key) == remaining


async def test_a_request_beyond_the_budget_is_refused_whole_and_costs_nothing(api: Api, photo: bytes) -> None:
    key = await api.issue(2)
    headers = bearer(key["api_key"])
    refused = await api.client.post(PREDICT, files=as_form(photo, photo, photo), headers=headers)
    assert_refused(refused, 429, "quota-exceeded")
    assert refused.headers["x-should-retry"] == "false"
    assert (refused.headers["ratelimit-policy"], refused.headers["ratelimit"]) == ('"budget";q=2', '"budget";r=2')
    assert await left(api, key) == 2
    answer = await api.client.post(PREDICT, files=as_form(photo, photo), headers=headers)
    assert answer.json()["budget"]["remaining"] == 0
    assert_refused(await api.client.post(PREDICT, content=photo, headers=headers), 429, "quota-exceeded")
    none = await api.issue(0)
    refused = await api.client.post(PREDICT, content=photo, headers=bearer(none["api_key"]))
    assert_refused(refused, 429, "quota-exceeded")


async def test_what_is_refused_is_not_charged(api: Api, photo: bytes) -> None:
    key = await api.issue(10)
    headers = bearer(key["api_key"])
    refusals: list[tuple[str, Request, int, str]] = [
        (PREDICT, {"content": photo[:100]}, 422, "undecodable-image"),
        (PREDICT, {"files": as_form(photo, photo[:100])}, 422, "undecodable-image"),
        (PREDICT, {"json": as_json(photo, b"GIF89a")}, 415, "unsupported-image"),
        (PREDICT, {"content": photo, "params": {"top_k": 0}}, 400, "invalid-request"),
        (PREDICT, {"content": b""}, 400, "invalid-request"),
        (PREDICT, {"content": b"x" * 200_001}, 413, "body-too-large"),
        ("/v1/models/none/predict", {"content": photo}, 404, "unknown-model"),
    ]
    for path, request, status, code in refusals:
        request["headers"] = headers
        assert_refused(await api.client.post(path, **request), status, code)
    assert await left(api, key) == 10


async def test_rights_decide_the_tier(api: Api, photo: bytes) -> None:
    plain = await api.issue(10, scopes=["predict"])
    answer = await api.client.post(PREDICT, content=photo, headers=bearer(plain["api_key"]))
    assert (answer.status_code, answer.json()["tier"]) == (200, "public")
    assert answer.json()["predictions"] == await predictions(api, content=photo)
    assert await left(api, plain) == 10
    for headers in (bearer(plain["api_key"]), {}):
        for privilege in ({"views": 2}, {"mix": 0.1}):
            response = await api.client.post(PREDICT, content=photo, params=privilege, headers=headers)
            assert_refused(response, 403, "missing-scope")

    elsewhere = await api.issue(10, models=["other"])
    response = await api.client.post(PREDICT, content=photo, headers=bearer(elsewhere["api_key"]))
    assert_refused(response, 403, "missing-scope")
    here = await api.issue(10, models=["other", "tiny"])
    for credential in (here["api_key"], await api.token(here)):
        answer = await api.client.post(PREDICT, content=photo, headers=bearer(credential))
        assert (answer.status_code, answer.json()["tier"]) == (200, "distill")

    narrow = {"grant_type": "client_credentials", "scope": "predict"}
    token = await api.client.post("/oauth2/token", data=narrow, auth=(here["id"], here["api_key"]))
    answer = await api.client.post(PREDICT, content=photo, headers=bearer(token.json()["access_token"]))
    assert answer.json()["tier"] == "public"

    response = await api.client.post(PREDICT, content=photo, headers=api.admin)
    assert_refused(response, 403, "missing-scope")


async def test_the_catalogue_shows_each_caller_its_tiers(api: Api) -> None:
    card = {
        "name": "tiny",
        "version": "1",
        "classes": list(CLASSES),
        "input": {"height": 32, "width": 32},
        "guard": ["sdb"],
        "tiers": ["public"],
    }
    full, elsewhere = await api.issue(), await api.issue(models=["other"])
    for headers, tiers in (({}, ["public"]), (bearer(full["api_key"]), ["public", "distill"])):
        assert (await api.client.get("/v1/models", headers=headers)).json() == {"models": [{**card, "tiers": tiers}]}
        assert (await api.client.get("/v1/models/tiny", headers=headers)).json() == {**card, "tiers": tiers}
    # A key that is not for this model is refused by predict, so the card promises it nothing.
    (listed,) = (await api.client.get("/v1/models", headers=bearer(elsewhere["api_key"]))).json()["models"]
    assert listed["tiers"] == []
    assert_refused(await api.client.get("/v1/models/none"), 404, "unknown-model")


async def test_an_unknown_model_is_the_same_404_for_everybody(api: Api, photo: bytes) -> None:
    headers = bearer((await api.issue(models=["tiny"]))["api_key"])
    for name in ("none", "TINY", "tiny%00", "..", "%2e%2e%2ftiny", "tiny%0d%0a", "é"):
        for who in ({}, headers):
            response = await api.client.post(f"/v1/models/{name}/predict", content=photo, headers=who)
            assert (response.status_code, response.json()["code"]) in {(404, "unknown-model"), (404, "not-found")}
            assert response.headers["content-type"] == "application/problem+json"


async def test_a_presented_credential_that_is_not_valid_is_never_taken_for_none(api: Api, photo: bytes) -> None:
    key = await api.issue()
    api_key, token = key["api_key"], await api.token(key)
    ring = State(api.app.state.services.settings).token_keys
    header, payload = unpacked(token)
    (secret,) = ring
    assert (await api.client.post(PREDICT, content=photo, headers=bearer(jwt(header, payload, secret)))).json()[
        "tier"
    ] == "distill"  # a token made by hand is as good as its claims, so each of those below has one fault
    scopes = frozenset({"distill", "predict"})
    basic = base64.b64encode(f"{key['id']}:{api_key}".encode()).decode()
    bad = [
        f"Basic {basic}",
        "Bearer",
        "Bearer ",
        "",
        api_key,
        f"Token {api_key}",
        f"Bearer {api_key} {api_key}",
        f"Bearer {api_key},{api_key}",
        f"Bearer {api_key[:-1]}",
        f"Bearer {api_key[:-1]}{'0' if api_key[-1] != '0' else '1'}",
        f"Bearer {api_key.upper()}",
        f"Bearer {api.admin_key[:-1]}",
        "Bearer sdb_cli_" + "0" * 38,
        f"Bearer {token[:-2]}",
        f"Bearer {token}.{token}",
        f"Bearer {TokenMint(ring, 60, lambda: time.time() - 3600).issue(key['id'], 0, scopes)}",
        f"Bearer {TokenMint(Keyring([bytes(range(32))]), 60, time.time).issue(key['id'], 0, scopes)}",
        f"Bearer {TokenMint(ring, 60, time.time).issue('key_none', 0, scopes)}",
        f"Bearer {TokenMint(ring, 60, time.time).issue(key['id'], 1, scopes)}",
        f"Bearer {jwt(header, payload, bytes(32))}",
        f"Bearer {jwt({**header, 'alg': 'none'}, payload, secret).rpartition('.')[0]}.",
        f"Bearer {jwt({**header, 'alg': 'HS512'}, payload, secret)}",
        f"Bearer {jwt({**header, 'kid': 'x'}, payload, secret)}",
        f"Bearer {jwt(header, {**payload, 'aud': 'other'}, secret)}",
        f"Bearer {jwt(header, {name: value for name, value in payload.items() if name != 'exp'}, secret)}",
        f"Bearer {jwt(header, [payload], secret)}",
        "Bearer é",
        "Bearer ..",
        "Bearer " + "a" * 10_000,
    ]
    for credential in bad:
        headers = [(b"Authorization", credential.encode("latin-1"))]
        response = await api.client.post(PREDICT, content=photo, headers=headers)
        body = assert_refused(response, 401, "invalid-credential")
        assert body["detail"] == "the presented credential is not valid"
        assert response.headers["www-authenticate"].startswith("Bearer")
    two = [("Authorization", f"Bearer {api_key}"), ("Authorization", f"Bearer {api_key}")]
    assert_refused(await api.client.post(PREDICT, content=photo, headers=two), 401, "invalid-credential")
    for scheme in ("bearer", "BEARER"):
        response = await api.client.post(PREDICT, content=photo, headers={"Authorization": f"{scheme} {api_key}"})
        assert response.json()["tier"] == "distill"


async def test_a_revoked_key_and_its_tokens_end_at_once(api: Api, photo: bytes) -> None:
    key = await api.issue()
    credentials = [key["api_key"], await api.token(key)]
    for credential in credentials:
        answer = await api.client.post(PREDICT, content=photo, headers=bearer(credential))
        assert answer.json()["tier"] == "distill"
    assert (await api.client.post(f"/admin/v1/keys/{key['id']}/revoke", headers=api.admin)).status_code == 200
    for credential in credentials:
        for response in (
            await api.client.post(PREDICT, content=photo, headers=bearer(credential)),
            await api.client.get("/v1/keys/self", headers=bearer(credential)),
        ):
            assert_refused(response, 401, "invalid-credential")


async def test_a_key_ends_when_it_expires(api: Api, photo: bytes) -> None:
    key = await api.issue(expires_at="2020-01-01T00:00:00Z")
    response = await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    assert_refused(response, 401, "invalid-credential")


async def test_without_anonymous_callers_a_credential_is_required(settings: Settings, photo: bytes) -> None:
    async with application(settings.model_copy(update={"anonymous": False})) as api:
        assert_refused(await api.client.post(PREDICT, content=photo), 401, "invalid-credential")
        assert_refused(await api.client.get("/v1/models"), 401, "invalid-credential")
        key = await api.issue(scopes=["predict"])
        assert (await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))).status_code == 200


def unfolding_to(width: int, height: int) -> bytes:
    """A PNG of 70 bytes that claims this many pixels and holds none."""
    chunks = ((b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"")))
    parts = (
        struct.pack(">I", len(data)) + tag + data + struct.pack(">I", zlib.crc32(tag + data)) for tag, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


async def test_images_of_any_shape_are_accepted_within_the_limit_of_pixels(api: Api) -> None:
    for width, height in ((1, 1), (1, 100_000), (100_000, 1), (3, 2)):
        buffer = io.BytesIO()
        Image.new("RGB", (width, height), (9, 99, 199)).save(buffer, "PNG")
        assert len(await predictions(api, content=buffer.getvalue())) == 1
    for width, height in ((5001, 5000), (2**31 - 1, 1), (60_000, 60_000)):
        response = await api.client.post(PREDICT, content=unfolding_to(width, height))
        assert_refused(response, 422, "undecodable-image")


async def test_what_is_no_picture_is_refused(api: Api) -> None:
    picture = Image.fromarray(smooth_images(1, 64)[0].permute(1, 2, 0).numpy())
    for kind in ("PNG", "JPEG", "WEBP"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        half = buffer.getvalue()[: len(buffer.getvalue()) // 2]
        assert_refused(await api.client.post(PREDICT, content=half), 422, "undecodable-image")
    gif = io.BytesIO()
    picture.save(gif, "GIF")
    for content in (gif.getvalue(), b"%PDF-1.7 ...", b"a cat on a mat", b"\x00", b"{}"):
        assert_refused(await api.client.post(PREDICT, content=content), 415, "unsupported-image")


async def test_as_many_images_as_allowed_are_answered_and_one_more_is_refused(api: Api) -> None:
    dot = encode(np.full((1, 1, 3), 7, np.uint8))
    assert len(await predictions(api, json=as_json(*[dot] * 256))) == 256
    assert_refused(await api.client.post(PREDICT, json=as_json(*[dot] * 257)), 400, "invalid-request")
    assert_refused(await api.client.post(PREDICT, files=as_form(*[dot] * 257)), 400, "invalid-request")
    part = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nx\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    response = await api.client.post(PREDICT, content=part * 1001 + b"--cut--\r\n", headers=headers)
    assert_refused(response, 400, "invalid-request")


async def test_a_malformed_body_is_an_invalid_request(api: Api, photo: bytes) -> None:
    encoded = base64.b64encode(photo).decode()
    form = "multipart/form-data; boundary=cut"
    requests: list[Request] = [
        {},
        {"content": b""},
        {"content": b"", "headers": {"Content-Type": "image/png"}},
        {"files": as_form(b"")},
        {"files": as_form(photo, b"")},
        {"files": as_form(photo, name="file")},
        {"files": as_form(photo) + as_form(photo, name="other")},
        {"content": photo, "headers": {"Content-Type": "multipart/form-data"}},
        {"content": photo, "headers": {"Content-Type": "multipart/form-data; boundary="}},
        {"content": photo, "headers": {"Content-Type": form}},
        {"content": b"", "headers": {"Content-Type": form}},
        {"content": b"--cut--\r\n", "headers": {"Content-Type": form}},
        {"content": b"--cut\r\nContent-Disposition: form-data\r\n\r\nx\r\n--cut--", "headers": {"Content-Type": form}},
        {"json": []},
        {"json": "image"},
        {"json": None},
        {"json": {}},
        {"json": {"images": []}},
        {"json": {"images": encoded}},
        {"json": {"images": [""]}},
        {"json": {"images": [encoded, ""]}},
        {"json": {"images": [encoded[:-1] + "!"]}},
        {"json": {"images": [encoded + "A"]}},
        {"json": {"images": ["é"]}},
        {"json": {"images": [5]}},
        {"json": {"images": [encoded], "parameters": []}},
        {"json": {"images": [encoded], "parameters": {"top_k": None}}},
        {"json": {"images": [encoded], "parameters": {"top_k": [1]}}},
        {"json": {"images": [encoded], "colour": "blue"}},
        *(
            Request(content=content, headers={"Content-Type": "application/json"})
            for content in (b"", b"{", b"\xff", b"nan", b"[" * 100_000, b'{"images": ["\\ud800"]}')
        ),
    ]
    for request in requests:
        response = await api.client.post(PREDICT, **request)
        assert response.status_code == 400, (request, response.text[:300])
        assert_refused(response, 400, "invalid-request")


async def test_a_form_that_is_cut_off_is_refused_and_not_answered_in_part(api: Api, photo: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=cut"}
    opened = b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + photo
    for content in (opened, opened + b"\r\n" + opened, opened + b"\r\n--cut"):
        response = await api.client.post(PREDICT, content=content, headers=headers)
        assert_refused(response, 400, "invalid-request")
    complete = await api.client.post(PREDICT, content=opened + b"\r\n--cut--", headers=headers)
    assert complete.status_code == 200


async def test_no_declared_character_set_breaks_a_form(api: Api, photo: bytes) -> None:
    content = (
        b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + photo + b"\r\n--cut--\r\n"
    )
    for charset in ("undefined", "idna", "punycode", "utf-16", "base64", "rot13", "none", "utf-7"):
        headers = {"Content-Type": f"multipart/form-data; boundary=cut; charset={charset}"}
        response = await api.client.post(PREDICT, content=content, headers=headers)
        assert response.status_code in {200, 400}, (charset, response.text)


async def test_the_images_of_a_request_share_a_limit_of_pixels(settings: Settings) -> None:
    """A bomb in many small pieces is a bomb; four times one image's limit is what a request may unfold to."""
    piece = encode(np.zeros((64, 64, 3), np.uint8))
    async with application(settings.model_copy(update={"max_image_pixels": 64 * 64})) as api:
        assert (await api.client.post(PREDICT, files=as_form(*[piece] * 4))).status_code == 200
        refused = await api.client.post(PREDICT, files=as_form(*[piece] * 5))
        assert_refused(refused, 422, "undecodable-image")


async def test_a_body_over_the_limit_is_refused_by_every_door(api: Api, settings: Settings) -> None:
    large = b"\x89PNG\r\n\x1a\n" + b"x" * settings.max_body_bytes
    requests: list[Request] = [
        {"content": large},
        {"files": as_form(large)},
        {"json": as_json(large)},
        {"content": chunks(large)},
        {"content": chunks(json.dumps(as_json(large)).encode()), "headers": {"Content-Type": "application/json"}},
        {"content": chunks(large), "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
    ]
    for request in requests[:4]:
        assert_refused(await api.client.post(PREDICT, **request), 413, "body-too-large")
    assert_refused(await api.client.post(PREDICT, **requests[4]), 413, "body-too-large")
    # A form that is malformed from its first byte on may be refused for that before it is too long.
    assert (await api.client.post(PREDICT, **requests[5])).status_code in {400, 413}


async def test_paths_and_methods_that_do_not_exist_are_problems_too(api: Api) -> None:
    assert_refused(await api.client.get("/nowhere"), 404, "not-found")
    assert_refused(await api.client.get("/v1/models/"), 404, "not-found")
    response = await api.client.get(PREDICT)
    assert_refused(response, 405, "method-not-allowed")
    assert response.headers["allow"] == "POST"


TEXT = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
KINDS = TEXT | st.sampled_from(
    ["application/json", "multipart/form-data", "multipart/form-data; boundary=cut", "image/png", "text/html"]
)
STARTS = st.sampled_from(
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"RIFF\0\0\0\0WEBP", b"--cut\r\n", b'{"images": [']
)
QUERIES = st.dictionaries(
    st.one_of(st.sampled_from(["top_k", "temperature", "views", "mix", "image"]), TEXT), TEXT, max_size=3
)


HEADERS = st.fixed_dictionaries({}, optional={"Content-Type": KINDS, "Authorization": TEXT})
BODIES = st.builds(operator.add, STARTS, st.binary(max_size=300))


@hypothesis.given(body=BODIES, query=QUERIES, headers=HEADERS)
@hypothesis.settings(
    max_examples=200, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
async def test_nothing_a_caller_sends_is_answered_with_a_failure(
    api: Api, body: bytes, query: dict[str, str], headers: dict[str, str]
) -> None:
    response = await api.client.post(PREDICT, content=body, params=query, headers=headers)
    assert 400 <= response.status_code < 500, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert set(response.json()) == FIELDS


@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=50, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
async def test_a_damaged_request_is_answered_or_refused_and_never_a_failure(
    api: Api, photo: bytes, data: st.DataObject
) -> None:
    form = (
        b'--cut\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n'
        b"Content-Type: image/png\r\n\r\n" + photo + b"\r\n--cut--\r\n"
    )
    kind, content = data.draw(
        st.sampled_from(
            [
                ("image/png", photo),
                ("multipart/form-data; boundary=cut", form),
                ("application/json", json.dumps(as_json(photo, top_k=3)).encode()),
            ]
        )
    )
    damaged = bytearray(content)
    for place in data.draw(st.lists(st.integers(0, min(len(content) - 1, 400)), max_size=4)):
        damaged[place] = data.draw(st.integers(0, 255))
    response = await api.client.post(PREDICT, content=bytes(damaged), headers={"Content-Type": kind})
    assert response.status_code in {200, 400, 415, 422}, response.text
