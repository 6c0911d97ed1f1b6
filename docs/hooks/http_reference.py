"""The page of the HTTP API, written from the application's own OpenAPI document when the site is built."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from app.main import create_app
from app.settings import Settings

PAGE, DOCUMENT = "reference/http.md", "reference/openapi.json"
HEAD = """# HTTP API

Written from the server's [OpenAPI document](openapi.json), which a running server has at `/openapi.json`, and as pages
to try at `/docs`. Every refusal is a [`Problem`](#problem); [Refusals](../operation.md#refusals) lists their codes.
"""
Json = dict[str, Any]


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the page and the document that it was written from."""
    with tempfile.TemporaryDirectory() as empty:
        document = create_app(Settings(state_dir=Path(empty))).openapi()
    files.append(File.generated(config, PAGE, content="\n".join(page(document))))
    files.append(File.generated(config, DOCUMENT, content=json.dumps(document, indent=1)))
    return files


def page(document: Json) -> Iterator[str]:
    """The lines of the page: the calls by their tags, then the shapes that they take and answer with."""
    yield HEAD
    calls = [(method, path, call) for path, methods in document["paths"].items() for method, call in methods.items()]
    for tag in dict.fromkeys(_tag(call) for _, _, call in calls):
        yield f"## {tag.capitalize()}\n"
        for method, path, call in calls:
            if _tag(call) == tag:
                yield from _call(method, path, call)
    yield "## Shapes\n"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from _shape(name, schema)


def _tag(call: Json) -> str:
    return str((call.get("tags") or ["other"])[0])


def _call(method: str, path: str, call: Json) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    yield f"{call['description']}\n"
    if parameters := call.get("parameters"):
        yield "| parameter | in | type | default | |\n|---|---|---|---|---|"
        for parameter in parameters:
            schema = parameter["schema"]
            default = "**required**" if parameter["required"] else _code(schema.get("default"))
            meaning = parameter.get("description") or schema.get("description", "")
            yield f"| `{parameter['name']}` | {parameter['in']} | {_type(schema)} | {default} | {meaning} |"
        yield ""
    if body := call.get("requestBody"):
        kinds = ", ".join(f"`{kind}`{_named(content['schema'])}" for kind, content in body["content"].items())
        yield f"**Body**: {kinds}. {body.get('description', '').capitalize()}\n"
    yield from _answers(call["responses"])


def _answers(answers: Json) -> Iterator[str]:
    for status, answer in answers.items():
        if status.startswith("2"):
            for content in answer.get("content", {}).values():
                yield f"**{status}**: {_type(content['schema'])}\n"
    refusals = sorted((status, answer) for status, answer in answers.items() if status.startswith(("4", "5")))
    if refusals:
        yield "| refusal | |\n|---|---|"
        yield from (f"| {status} | {answer['description']} |" for status, answer in refusals)
        yield ""


def _shape(name: str, schema: Json) -> Iterator[str]:
    yield f"### {name}\n"
    if text := schema.get("description"):
        yield f"{' '.join(text.split())}\n"
    if fields := schema.get("properties"):
        yield "| field | type | default | |\n|---|---|---|---|"
        for field, kind in fields.items():
            default = "always there" if field in schema.get("required", ()) else _code(kind.get("default"))
            yield f"| `{field}` | {_type(kind)} | {default} | {kind.get('description', '')} |"
        yield ""
    else:
        yield f"{_type(schema)}\n"


def _named(schema: Json) -> str:
    """The link to a body's shape, if it has a name of its own."""
    return f" ({_type(schema)})" if "$ref" in schema else ""


def _type(schema: Json) -> str:
    """What a value may be, in a few words that stand in a table."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if choices := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(choice) for choice in choices))
    if "enum" in schema:
        return ", ".join(_code(value) for value in schema["enum"])
    if "const" in schema:
        return _code(schema["const"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return str(schema.get("format") or schema.get("type") or "anything")


def _code(value: object) -> str:
    return "" if value is None else f"`{json.dumps(value)}`"
