"""The document says what the routes do, and no route forgets to ask who is there."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts

from app.main import create_app
from app.settings import Settings
from tests.conftest import Api, bearer

OPEN = {"/livez", "/readyz", "/oauth2/token", "/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
UNDOCUMENTED = {"/openapi.json", "/docs", "/docs/oauth2-redirect", "/redoc"}
PROBLEM = "application/problem+json"
REFUSALS = {
    ("get", "/v1/models"): {"401", "403", "503"},
    ("get", "/v1/models/{model}"): {"401", "403", "404", "503"},
    ("post", "/v1/models/{model}/predict"): {"400", "401", "403", "404", "413", "415", "422", "429", "503"},
    ("post", "/oauth2/token"): {"400", "401", "413", "503"},
    ("get", "/v1/keys/self"): {"401", "503"},
    ("post", "/admin/v1/keys"): {"400", "401", "403", "413", "503"},
    ("get", "/admin/v1/keys"): {"400", "401", "403", "404", "503"},
    ("get", "/admin/v1/keys/{key_id}"): {"401", "403", "404", "503"},
    ("post", "/admin/v1/keys/{key_id}/revoke"): {"401", "403", "404", "503"},
    ("post", "/admin/v1/keys/{key_id}/image-keys"): {"400", "401", "403", "404", "413", "503"},
    ("get", "/admin/v1/keys/{key_id}/image-keys"): {"401", "403", "404", "503"},
    ("delete", "/admin/v1/keys/{key_id}/image-keys/{kid}"): {"400", "401", "403", "404", "503"},
}
CREATES = {("post", "/admin/v1/keys"), ("post", "/admin/v1/keys/{key_id}/image-keys")}
Json = dict[str, Any]


@pytest.fixture
def document(settings: Settings) -> Json:
    """The OpenAPI document of the shipped application; no server runs for it."""
    parsed: Json = json.loads(json.dumps(create_app(settings).openapi(), allow_nan=False))
    return parsed


def routes(settings: Settings) -> Iterator[tuple[str, str]]:
    """Method and path of every route that the application has."""
    for context in iter_route_contexts(create_app(settings).routes):
        assert context.path is not None
        for method in sorted((context.methods or set()) - {"HEAD"}):
            yield method, context.path


def references(node: object) -> Iterator[str]:
    """Every `$ref` below `node`."""
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def operations(document: Json) -> dict[tuple[str, str], Json]:
    return {(method, path): found for path, methods in document["paths"].items() for method, found in methods.items()}


def test_the_document_lists_exactly_the_routes_that_exist(document: Json, settings: Settings) -> None:
    existing = {(method.lower(), path) for method, path in routes(settings) if path not in UNDOCUMENTED}
    assert set(operations(document)) == existing
    assert {("get", "/livez"), ("get", "/readyz"), *REFUSALS} == existing


def test_the_document_is_complete_in_itself(document: Json) -> None:
    assert document["openapi"].startswith("3.1")
    for reference in references(document):
        node: Any = document
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]
    ids = [operation["operationId"] for operation in operations(document).values()]
    assert len(set(ids)) == len(ids)
    for (method, path), operation in operations(document).items():
        named = {parameter["name"] for parameter in operation.get("parameters", []) if parameter["in"] == "path"}
        assert named == set(re.findall(r"{(\w+)}", path)), (method, path)
        assert operation.get("description"), (method, path)


def test_predict_documents_every_kind_of_body_and_every_parameter(document: Json) -> None:
    predict = document["paths"]["/v1/models/{model}/predict"]["post"]
    body = predict["requestBody"]
    assert body["required"]
    kinds = {"image/*", "application/cose", "application/octet-stream", "multipart/form-data", "application/json"}
    assert set(body["content"]) == kinds
    assert set(body["content"]["application/json"]["schema"]["properties"]) == {"images", "parameters"}
    assert "image" in body["content"]["multipart/form-data"]["schema"]["properties"]
    query = {parameter["name"]: parameter for parameter in predict["parameters"] if parameter["in"] == "query"}
    assert set(query) == {"top_k", "temperature", "views", "mix", "encryption", "image_key"}
    assert not any(parameter["required"] for parameter in query.values())
    assert query["top_k"]["schema"]["default"] == 5


def test_the_token_route_documents_its_form(document: Json) -> None:
    content = document["paths"]["/oauth2/token"]["post"]["requestBody"]["content"]
    assert set(content) == {"application/x-www-form-urlencoded"}
    schema = content["application/x-www-form-urlencoded"]["schema"]
    assert set(schema["properties"]) == {"grant_type", "client_id", "client_secret", "scope"}
    assert schema["required"] == ["grant_type"]


def test_good_answers_are_documented_with_their_shape(document: Json) -> None:
    for (method, path), operation in operations(document).items():
        good = [status for status in operation["responses"] if status.startswith("2")]
        assert good == (["201"] if (method, path) in CREATES else ["200"])
        assert "schema" in operation["responses"][good[0]]["content"]["application/json"], (method, path)


def test_every_refusal_is_documented_as_a_problem(document: Json) -> None:
    missing = {
        where: sorted(
            status
            for status in statuses
            if PROBLEM not in operations(document)[where]["responses"].get(status, {}).get("content", {})
        )
        for where, statuses in REFUSALS.items()
    }
    assert {where: statuses for where, statuses in missing.items() if statuses} == {}


def test_no_refusal_is_documented_in_a_shape_that_is_never_sent(document: Json) -> None:
    assert "HTTPValidationError" not in json.dumps(document)


async def test_the_document_and_its_pages_are_served_to_everybody(api: Api, document: Json) -> None:
    served = await api.client.get("/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert json.loads(served.content) == document
    page = await api.client.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


async def test_every_route_but_the_open_ones_asks_who_is_there(api: Api, settings: Settings) -> None:
    """A route added without a caller in its signature fails here."""
    client = await api.issue()
    clients = [client["api_key"], await api.token(client)]
    forged = [bearer("sdb_adm_forged"), bearer("a.b.c"), {"Authorization": "Basic eDp5"}]
    asked = set()
    for method, path in routes(settings):
        if path in OPEN:
            continue
        asked.add(path)
        where = re.sub(r"{\w+}", "tiny", path)

        async def status(headers: dict[str, str], method: str = method, where: str = where) -> tuple[int, str]:
            response = await api.client.request(method, where, json={"name": "a"}, headers=headers)
            return response.status_code, response.json().get("code", "")

        for headers in forged:
            assert await status(headers) == (401, "invalid-credential"), (method, path, headers)
        if path.startswith("/admin"):
            assert await status({}) == (401, "invalid-credential"), (method, path)
            for credential in clients:
                assert await status(bearer(credential)) == (403, "missing-scope"), (method, path)
        elif path == "/v1/keys/self":  # for whoever holds a key, of either class
            assert await status({}) == (401, "invalid-credential")
        else:
            assert await status(api.admin) == (403, "missing-scope"), (method, path)
    assert {path for path in asked if path.startswith("/admin")} >= {"/admin/v1/keys", "/admin/v1/keys/{key_id}"}
    assert (await api.client.get("/admin/v1/keys", headers=api.admin)).json()["next"] is None
