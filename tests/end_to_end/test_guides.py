"""The code in the guides of docs/ works as pasted, against a server that runs."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.settings import ZOO
from keys.material import new_api_key
from tests.conftest import ROOT, Server, serving

DOCUMENTED = "http://127.0.0.1:8000"
GUIDE, KEYS_GUIDE = ((ROOT / "docs" / name).read_text() for name in ("encryption.md", "keys.md"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a clone in which `make serve` runs."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "docs").symlink_to(ROOT / "docs")
    return folder


@pytest.fixture(scope="module")
def server(place: Path) -> Iterator[Server]:
    with serving(place / "var", ZOO) as running:
        yield running


def block(section: str, language: str, server: Server) -> str:
    """The first code of a section, with this server's address."""
    found = re.search(rf"```{language}\n(.*?)```", GUIDE.partition(f"## {section}")[2], re.DOTALL)
    assert found
    return found[1].replace(DOCUMENTED, server.url)


def run(code: str, place: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=place, capture_output=True, text=True, check=True)  # noqa: S603
    return done.stdout.strip()


def issue(server: Server, image_key: dict[str, object], path: Path) -> None:
    body = {"name": "clinic", "scopes": ["predict", "decrypt"], "image_key": image_key}
    answer = httpx.post(f"{server.url}/admin/v1/keys", json=body, headers=server.admin)
    assert answer.status_code == 201, answer.text
    path.write_bytes(answer.content)


def test_a_sealed_image_is_predicted_as_pasted(server: Server, place: Path) -> None:
    issue(server, {"scheme": "sealed"}, place / "var" / "clinic.json")
    assert run(block("`sealed`", "python", server), place) == "ship"


@pytest.mark.parametrize("transform", ["shf", "np"])
def test_a_pixel_image_is_predicted_as_pasted(server: Server, place: Path, transform: str) -> None:
    issue(server, {"scheme": "pixel", "transform": transform, "block": 4}, place / "var" / "pixel.json")
    assert run(block("`pixel`", "python", server), place) == "ship"


def test_the_documented_request_issues_an_image_key(server: Server) -> None:
    found = re.search(r"-d '(.*?)'", block("Getting an image key", "sh", server), re.DOTALL)
    assert found
    headers = {**server.admin, "Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/admin/v1/keys", content=found[1], headers=headers)
    assert answer.status_code == 201, answer.text
    assert set(answer.json()["image_key"]) >= {"kid", "scheme", "secret"}


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_guide_to_keys_works_from_its_first_request_to_its_last(server: Server, place: Path) -> None:
    blocks = re.findall(r"```sh\n(.*?)```", KEYS_GUIDE, re.DOTALL)
    script = "\n".join(blocks).replace(DOCUMENTED, server.url)
    environment = {"PATH": f"{ROOT / '.venv' / 'bin'}:/usr/bin:/bin", "SDB_STATE_DIR": "var"}
    done = subprocess.run(  # noqa: S603
        ["bash", "-euo", "pipefail", "-c", script],  # noqa: S607
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    key = json.loads((place / "var" / "partner.json").read_text())
    shown = httpx.get(f"{server.url}/admin/v1/keys/{key['id']}", headers=server.admin).json()
    assert shown["budget"]["granted"] == 600, "the repeated top-up was made once"
    assert (shown["state"], shown["budget"]["limit"], shown["scopes"]) == (
        "active",
        2000,
        ["decrypt", "distill", "predict"],
    )
    trial = json.loads((place / "var" / "trial.json").read_text())
    ended = httpx.get(f"{server.url}/admin/v1/keys/{trial['id']}", headers=server.admin).json()
    assert (ended["state"], ended["rate_limits"], ended["expires_at"]) == ("revoked", [], None)
    assert (ended["budget"]["limit"], ended["budget"]["refill"], ended["budget"]["granted"]) == (200, "daily", 50)
    for action in ("key.create", "key.update", "key.top-up", "key.rotate", "key.revoke"):
        assert action in done.stdout


def test_the_published_patterns_find_api_keys_and_nothing_shorter_or_longer() -> None:
    fenced = dict(re.findall(r"```(toml|yaml)\n(.*?)```", KEYS_GUIDE, re.DOTALL))
    (rule,) = tomllib.loads(fenced["toml"])["rules"]
    yaml = re.search(r"key: '(.*)'", fenced["yaml"])
    bare = re.search(r"^sdb_\(adm.*$", KEYS_GUIDE, re.MULTILINE)
    assert yaml
    assert bare
    assert f"secret format `{bare[0]}`" in KEYS_GUIDE
    for kind in ("adm", "cli"):
        api_key = new_api_key(kind)
        for pattern in (rule["regex"], yaml[1]):
            for text in (f'token = "{api_key}"', f"Bearer {api_key}", api_key):
                found = re.search(pattern, text)
                assert found
                assert found[1] == api_key
            assert not re.search(pattern, api_key[:-1])
            assert not re.search(pattern, api_key + "0")
        assert re.fullmatch(bare[0], api_key)
        assert any(word in api_key for word in rule["keywords"])


def test_the_published_checksum_tells_api_keys_from_look_alikes() -> None:
    found = re.search(r"```python\n(import zlib.*?)```", KEYS_GUIDE, re.DOTALL)
    assert found
    api_key = new_api_key("cli")
    other = "a" if api_key[10] != "a" else "b"
    altered = api_key[:10] + other + api_key[11:]
    check = f"{found[1]}\nprint(is_api_key({api_key!r}), is_api_key({altered!r}))"
    assert run(check, Path.cwd()) == "True False"


# --- docs/protocols.md

PROTOCOLS_GUIDE = (ROOT / "docs" / "protocols.md").read_text()


@pytest.fixture
def partners(server: Server, tmp_path: Path) -> Path:
    """A folder that looks like a clone where a partner has a key."""
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "var").mkdir()
    grant = {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": 1000}}
    answer = httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin)
    (tmp_path / "var" / "partner.json").write_bytes(answer.content)
    return tmp_path


def of_protocols(section: str, language: str, server: Server) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PROTOCOLS_GUIDE.partition(f"## {section}")[2], re.DOTALL)
    assert found
    address = server.url.removeprefix("http://")
    return found[1].replace("127.0.0.1:8000", address)


def test_tritons_client_works_as_pasted(server: Server, partners: Path) -> None:
    single, batch = run(of_protocols("Triton's client", "python", server), partners).splitlines()
    assert single == "ship (1, 10) {'tier': 'distill', 'budget_remaining': 999}"
    assert batch.count(":") == 6


def test_kserves_client_works_as_pasted(server: Server, partners: Path) -> None:
    pytest.importorskip("kserve", reason="KServe's client is not installed")
    assert run(of_protocols("KServe's client", "python", server), partners) == "['ship']"


def test_hugging_faces_client_works_as_pasted(server: Server, partners: Path) -> None:
    lines = run(of_protocols("Hugging Face's client", "python", server), partners).splitlines()
    assert lines[0].startswith("ship ")
    assert len(lines) == 3


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_protocols_work_by_hand_as_pasted(server: Server, partners: Path) -> None:
    script = of_protocols("By hand", "sh", server).replace("\ncurl", "\necho; curl").replace("\ngzip", "\necho; gzip")
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", script], cwd=partners, capture_output=True, check=True)  # noqa: S603, S607
    inference, plain, packed = (json.loads(line) for line in done.stdout.splitlines() if line)
    assert (inference["id"], inference["outputs"][0]["data"]) == ("mine", ["ship"])
    assert plain == packed
    assert plain[0]["label"] == "ship"
