"""The document says what the routes do, and how each of them refuses."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from app.key_schemas import ChangeKey, CreateImageKey, CreateKey, Rotation, TopUp
from app.main import create_app
from app.schemas import Problem
from app.settings import Settings
from tests.conftest import Api, bearer, settings_in

V2 = ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
OPEN = {
    ("get", "/livez"),
    ("get", "/readyz"),
    ("get", "/.well-known/oauth-authorization-server"),
    ("get", "/v2"),
    ("get", "/v2/health/live"),
    ("get", "/v2/health/ready"),
    *(("get", f"{model}/ready") for model in V2),
}
PROBLEM = "application/problem+json"
REFUSALS = {
    ("get", "/v1/models"): {"401", "403", "503"},
    ("get", "/v1/models/{model}"): {"401", "403", "404", "503"},
    ("post", "/v1/models/{model}/predict"): {"400", "401", "403", "404", "409", "413", "415", "422", "429", "503"},
    ("post", "/hf/models/{model}"): {"400", "401", "403", "404", "409", "413", "415", "422", "429", "503"},
    **{
        ("post", f"{model}/infer"): {"400", "401", "403", "404", "409", "413", "415", "422", "429", "503"}
        for model in V2
    },
    **{("get", model): {"401", "403", "404", "503"} for model in V2},
    **{("get", f"{model}/config"): {"401", "403", "404", "503"} for model in V2},
    **{("get", f"{model}/stats"): {"401", "404", "503"} for model in V2},
    ("get", "/v2/models/stats"): {"401", "503"},
    ("post", "/v2/repository/index"): {"401", "403", "503"},
    ("get", "/metrics"): {"401", "403", "503"},
    ("post", "/oauth2/token"): {"400", "401", "413", "503"},
    ("post", "/oauth2/introspect"): {"400", "401", "403", "413", "503"},
    ("post", "/oauth2/revoke"): {"400", "401", "403", "413", "503"},
    ("get", "/v1/keys/self"): {"401", "503"},
    ("post", "/admin/v1/keys"): {"400", "401", "403", "413", "422", "503"},
    ("get", "/admin/v1/keys"): {"400", "401", "403", "404", "503"},
    ("get", "/admin/v1/keys/{key_id}"): {"401", "403", "404", "503"},
    ("patch", "/admin/v1/keys/{key_id}"): {"400", "401", "403", "404", "412", "413", "422", "503"},
    ("post", "/admin/v1/keys/{key_id}/rotate"): {"400", "401", "403", "404", "413", "422", "503"},
    ("post", "/admin/v1/keys/{key_id}/revoke"): {"400", "401", "403", "404", "422", "503"},
    ("post", "/admin/v1/keys/{key_id}/disable"): {"400", "401", "403", "404", "422", "503"},
    ("post", "/admin/v1/keys/{key_id}/enable"): {"400", "401", "403", "404", "422", "503"},
    ("post", "/admin/v1/keys/{key_id}/top-up"): {"400", "401", "403", "404", "413", "422", "503"},
    ("get", "/admin/v1/keys/{key_id}/usage"): {"400", "401", "403", "404", "503"},
    ("get", "/admin/v1/keys/{key_id}/ledger"): {"400", "401", "403", "404", "503"},
    ("post", "/admin/v1/keys/{key_id}/image-keys"): {"400", "401", "403", "404", "413", "422", "503"},
    ("get", "/admin/v1/keys/{key_id}/image-keys"): {"401", "403", "404", "503"},
    ("delete", "/admin/v1/keys/{key_id}/image-keys/{kid}"): {"400", "401", "403", "404", "422", "503"},
    ("get", "/admin/v1/audit"): {"400", "401", "403", "404", "503"},
    ("get", "/admin/v1/audit/verify"): {"401", "403", "503"},
}
CREATES = {("post", "/admin/v1/keys"), ("post", "/admin/v1/keys/{key_id}/image-keys")}
Json = dict[str, Any]


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Json:
    """The OpenAPI document of the shipped application; no server runs for it."""
    app = create_app(settings_in(tmp_path_factory.mktemp("document"), zoo))
    parsed: Json = json.loads(json.dumps(app.openapi(), allow_nan=False))
    return parsed


def routes(settings: Settings) -> Iterator[tuple[str, str]]:
    """Method and path of every route of the API: neither pages nor the framework's own."""
    for context in iter_route_contexts(create_app(settings).routes):
        if isinstance(context.original_route, APIRoute) and context.include_in_schema:
            for method in sorted(context.methods or ()):
                yield method.lower(), str(context.path)


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


def problem(path: str) -> str:
    """The media type of a refusal."""
    return "application/json" if path.startswith("/v2/") else PROBLEM


def operations(document: Json) -> dict[tuple[str, str], Json]:
    return {(method, path): found for path, methods in document["paths"].items() for method, found in methods.items()}


def test_the_document_lists_exactly_the_routes_that_exist(document: Json, settings: Settings) -> None:
    existing = set(routes(settings))
    assert set(operations(document)) == existing == OPEN | REFUSALS.keys()


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
        kind = "text/plain" if path == "/metrics" else "application/json"
        assert "schema" in operation["responses"][good[0]]["content"][kind], (method, path)


def test_every_refusal_is_documented_as_a_problem_and_no_other(document: Json) -> None:
    documented = {
        where: {
            status
            for status, answer in operation["responses"].items()
            if problem(where[1]) in answer.get("content", {})
        }
        for where, operation in operations(document).items()
    }
    assert {
        where: statuses - {"default", "200"} for where, statuses in documented.items() if where not in OPEN
    } == REFUSALS


def test_every_refusal_has_an_example_of_each_of_its_codes(document: Json) -> None:
    for where, operation in operations(document).items():
        for status, answer in operation["responses"].items():
            if status.startswith(("4", "5")):
                examples = answer["content"][problem(where[1])]["examples"]
                assert all(f"`{code}`" in answer["description"] for code in examples), where
                for code, example in examples.items():
                    said = Problem.model_validate(example["value"])
                    assert (said.code, str(said.status)) == (code, status), where


def test_no_refusal_is_documented_in_a_shape_that_is_never_sent(document: Json) -> None:
    assert "HTTPValidationError" not in json.dumps(document)


def test_only_answers_to_a_post_may_hold_a_secret(document: Json) -> None:
    schemas = document["components"]["schemas"]
    holding = {name for name, schema in schemas.items() if {"secret", "api_key"} & set(schema.get("properties", {}))}
    assert holding == {"NewKey", "NewImageKey", "RotatedKey"}
    for (method, path), operation in operations(document).items():
        if method != "post":
            assert not re.search(r"schemas/(New(Image)?Key|RotatedKey)\b", json.dumps(operation)), (method, path)


def test_the_examples_of_the_document_are_accepted(document: Json) -> None:
    for model in (CreateKey, ChangeKey, CreateImageKey, Rotation, TopUp):
        examples = document["components"]["schemas"][model.__name__]["examples"]
        assert examples
        assert all(model.model_validate(example) for example in examples)


async def test_the_document_and_its_pages_are_served_to_everybody(api: Api, document: Json) -> None:
    served = await api.client.get("/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert json.loads(served.content) == document
    page = await api.client.get("/docs")
    assert page.status_code == 200
    assert "/openapi.json" in page.text


async def test_a_forged_credential_is_refused_by_every_route_in_one_way(api: Api, settings: Settings) -> None:
    forged = [bearer("sdb_adm_forged"), bearer("a.b.c"), {"Authorization": "Basic eDp5"}]
    asked = [(method, path) for method, path in routes(settings) if path.startswith(("/admin/", "/v1/"))]
    assert len(asked) > 15
    for method, path in asked:
        for headers in forged:
            where = re.sub(r"{\w+}", "tiny", path)
            answer = await api.client.request(method, where, json={"name": "a"}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (401, "invalid-credential"), (method, path, headers)
    assert (await api.client.get("/admin/v1/keys", headers=api.admin)).json()["next"] is None
