"""Laws of `/hf`: the native prediction in the shape of Hugging Face's image classification."""

import base64
from typing import Any

import httpx
import numpy as np
import pytest

from tests.conftest import CLASSES, Api, bearer

CLASSIFY = "/hf/models/tiny"
PREDICT = "/v1/models/tiny/predict"
Json = dict[str, Any]


def in_json(image: bytes, **parameters: object) -> Json:
    return {"inputs": base64.b64encode(image).decode(), "parameters": parameters}


async def classes(api: Api, **request: Any) -> list[Json]:  # noqa: ANN401 - httpx's
    answer = await api.client.post(CLASSIFY, **request)
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()
    return found


async def native(api: Api, image: bytes, headers: dict[str, str]) -> Json:
    answer = await api.client.post(PREDICT, content=image, headers=headers, params={"top_k": 10})
    found: Json = answer.json()["predictions"][0]
    return found


def refused(answer: httpx.Response, status: int, code: str) -> Json:
    assert (answer.status_code, answer.json().get("code")) == (status, code), answer.text
    body: Json = answer.json()
    return body


async def test_bytes_and_json_get_the_native_scores_of_every_tier(api: Api, photo: bytes) -> None:
    for headers in ({}, bearer((await api.issue())["api_key"])):
        expected = [
            {"label": entry["label"], "score": entry["score"]} for entry in (await native(api, photo, headers))["top"]
        ]
        assert await classes(api, content=photo, headers=headers) == expected[:5]
        for kind in ("image/png", "application/octet-stream", "nonsense"):
            assert await classes(api, content=photo, headers={**headers, "Content-Type": kind}) == expected[:5]
        assert await classes(api, json=in_json(photo), headers=headers) == expected[:5]
        assert await classes(api, json={"inputs": in_json(photo)["inputs"]}, headers=headers) == expected[:5]
        nothing = {"inputs": in_json(photo)["inputs"], "parameters": None}
        assert await classes(api, json=nothing, headers=headers) == expected[:5]
        for asked, given in ((1, 1), (3, 3), (99, 10)):
            assert await classes(api, json=in_json(photo, top_k=asked), headers=headers) == expected[:given]


async def test_a_function_makes_scores_of_the_callers_logits(api: Api, photo: bytes) -> None:
    headers = bearer((await api.issue())["api_key"])
    expected = await native(api, photo, headers)
    logits = np.array(expected["logits"])
    for function, scores in (
        ("none", logits),
        ("sigmoid", 1 / (1 + np.exp(-logits))),
        ("softmax", np.array(expected["probabilities"])),
    ):
        found = await classes(api, json=in_json(photo, top_k=10, function_to_apply=function), headers=headers)
        assert found == sorted(found, key=lambda entry: -entry["score"])
        by_class = {entry["label"]: entry["score"] for entry in found}
        assert [by_class[name] for name in CLASSES] == pytest.approx(scores.tolist(), abs=1e-5)


async def test_it_is_charged_and_limited_like_any_prediction(api: Api, photo: bytes) -> None:
    key = await api.issue(2)
    headers = {**bearer(key["api_key"]), "Idempotency-Key": "a"}
    for _ in range(2):
        answer = await api.client.post(CLASSIFY, content=photo, headers=headers)
        assert answer.headers["ratelimit"] == '"budget";r=1'
        assert answer.headers["cache-control"] == "no-store"
    assert (await api.client.post(CLASSIFY, content=photo, headers=bearer(key["api_key"]))).status_code == 200
    spent = await api.client.post(CLASSIFY, content=photo, headers=bearer(key["api_key"]))
    assert refused(spent, 429, "quota-exceeded")["error"]


async def test_what_cannot_be_answered_is_refused(api: Api, photo: bytes) -> None:
    refused(await api.client.post("/hf/models/none", content=photo), 404, "unknown-model")
    refused(await api.client.post(CLASSIFY, content=photo[:90]), 422, "undecodable-image")
    refused(await api.client.post(CLASSIFY, content=b"GIF89a"), 415, "unsupported-image")
    refused(await api.client.post(CLASSIFY, content=b""), 400, "invalid-request")
    refused(await api.client.post(CLASSIFY, content=photo, headers=api.admin), 403, "missing-scope")
    refused(await api.client.post(CLASSIFY, content=photo, headers=bearer("sdb_cli_x")), 401, "invalid-credential")
    refused(await api.client.post(CLASSIFY, content=b"x" * 200_001), 413, "body-too-large")
    bodies: tuple[object, ...] = (
        {},
        [],
        {"inputs": 5},
        {"inputs": "***"},
        {"inputs": ""},
        {"inputs": "é"},
        {**in_json(photo), "extra": 1},
        in_json(photo, top_k=0),
        in_json(photo, top_k="many"),
        in_json(photo, function_to_apply="tanh"),
        in_json(photo, temperature=2),
    )
    for bad in bodies:
        refused(await api.client.post(CLASSIFY, json=bad), 400, "invalid-request")
    malformed = await api.client.post(CLASSIFY, content=b"{", headers={"Content-Type": "application/json"})
    refused(malformed, 400, "invalid-request")
