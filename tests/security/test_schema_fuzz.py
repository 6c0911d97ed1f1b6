"""Requests made up from the OpenAPI document of a real server: never a 5xx, never an answer that is not documented."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import Server, bearer, serving

pytestmark = pytest.mark.slow

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
EXAMPLES, ANSWERED_WITHIN_S, MEMORY_BYTES = 6, 5, 3 * 2**30
PLANES = {"data": r"^/(v1|v2|hf)", "admin": r"^/admin", "the rest": r"^/(?!v1|v2|hf|admin)"}


@pytest.fixture(scope="module")
def server(zoo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("schema") / "var", zoo) as server:
        yield server


@pytest.fixture(scope="module")
def document(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The document, in which a model's name is that of the one that there is: few others get further than a 404."""
    found = httpx.get(f"{server.url}/openapi.json").json()
    for operations in found["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path" and parameter["name"] == "model":
                    parameter["schema"]["enum"] = ["tiny", "../tiny"]
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(found))
    return path


def credentials(server: Server) -> dict[str, dict[str, str]]:
    body: dict[str, Any] = {"name": "fuzzer", "scopes": ["predict", "distill", "decrypt"]}
    key = httpx.post(f"{server.url}/admin/v1/keys", json=body, headers=server.admin).json()
    return {"nobody": {}, "a client": bearer(key["api_key"]), "an admin": server.admin}


@pytest.mark.parametrize("who", ["nobody", "a client", "an admin"])
@pytest.mark.parametrize("plane", PLANES)
def test_no_request_is_answered_with_a_failure_or_otherwise_than_documented(
    server: Server, document: Path, plane: str, who: str
) -> None:
    headers = [f"--header={name}: {value}" for name, value in credentials(server)[who].items()]
    limits = [f"--max-examples={EXAMPLES}", f"--max-response-time={ANSWERED_WITHIN_S}", "--generation-deterministic"]
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), f"--url={server.url}", *limits, *headers]
    command += [f"--checks={CHECKS}", f"--include-path-regex={PLANES[plane]}", "--phases=examples,coverage,fuzzing"]
    command += ["--no-color", "--warnings=off", "--continue-on-failure"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert "Tested: " in ended.stdout
    assert resident_bytes(server) < MEMORY_BYTES
    assert httpx.get(f"{server.url}/readyz").status_code == 200


def resident_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
