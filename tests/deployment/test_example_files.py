"""The files of examples/ do what their first lines say; each is run, or read by the program it is written for."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import save_file

from app.settings import ZOO
from models.backbones import build
from tests.conftest import ROOT, Server, serving, write_shades

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
EXAMPLES = ROOT / "examples"
PATH = f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.defpath}{os.pathsep}/usr/sbin"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("examples") / "var", ZOO) as running:
        yield running


def run(*command: str | Path, cwd: Path = ROOT, environment: dict[str, str] | None = None) -> str:
    """What a program prints; skips where the machine has it not."""
    program = shutil.which(str(command[0]), path=PATH)
    if program is None:
        pytest.skip(f"no {command[0]} on this machine")
    done = subprocess.run(  # noqa: S603
        [program, *command[1:]],
        cwd=cwd,
        env={"PATH": PATH, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quickstart_goes_from_nothing_to_a_revoked_key(server: Server) -> None:
    key, image = server.state_dir / "admin.key", ROOT / "docs" / "example.png"
    public, private, left, revoked = run(EXAMPLES / "quickstart.sh", server.url, key, image).splitlines()
    assert public.endswith(": public ship")
    assert private.endswith(": distill ship")
    assert "'remaining': 9" in left
    assert revoked.endswith("401")


def test_keys_are_handed_out_once_however_often_it_is_asked(server: Server, tmp_path: Path) -> None:
    table, folder = tmp_path / "partners.csv", tmp_path / "keys"
    table.write_text("name,budget,expires_at\nClinic A,100,2099-12-31T00:00:00Z\nSchool B,7,\n")
    admin_key = (server.state_dir / "admin.key").read_text().strip()
    whom = {"SDB_API_KEY": admin_key, "SDB_BASE_URL": server.url}
    command = (sys.executable, EXAMPLES / "hand_out_keys.py", table, folder)
    run(*command, environment=whom)
    clinic = json.loads((folder / "clinic-a.json").read_text())
    (folder / "school-b.json").unlink()  # lost before it was read
    run(*command, environment=whom)
    made = httpx.get(f"{server.url}/admin/v1/keys", headers=server.admin, params={"search": "B"}).json()["keys"]
    assert [key["budget"]["limit"] for key in made if key["name"] == "School B"] == [7]
    assert json.loads((folder / "clinic-a.json").read_text()) == clinic
    for file in folder.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600
        headers = {"Authorization": f"Bearer {json.loads(file.read_text())['api_key']}"}
        assert httpx.get(f"{server.url}/v1/keys/self", headers=headers).status_code == 200


def test_own_weights_become_a_boxed_and_a_locked_bundle(tmp_path: Path) -> None:
    write_shades(tmp_path / "images", "dark", "bright", train=200, test=40)
    torch.manual_seed(0)
    save_file(build("cifar_resnet8", 2).state_dict(), tmp_path / "teacher.safetensors")
    short = ["--epochs", "1", "--batch-size", "32", "--held-out", "80"]
    environment = {"SDB_STATE_DIR": "var", "SDB_ENGINE": "eager", "OMP_NUM_THREADS": "1"}
    teacher = ("cifar_resnet8", "teacher.safetensors", "images", "zoo")
    run(EXAMPLES / "wrap_and_lock.sh", *teacher, *short, cwd=tmp_path, environment=environment)
    assert {path.parent.name for path in (tmp_path / "zoo").glob("*/bundle.json")} == {"boxed", "locked"}
    assert (tmp_path / "zoo" / "locked.key").stat().st_mode & 0o777 == 0o600


def test_nginx_takes_its_configuration(tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    request = f"req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=sdb.example.org -keyout {own} -out {own}.crt"
    run("openssl", *request.split())
    text = (EXAMPLES / "nginx.conf").read_text().replace("/etc/letsencrypt/live/sdb.example.org/", str(tmp_path) + "/")
    (tmp_path / "privkey.pem").write_bytes(own.read_bytes())
    (tmp_path / "fullchain.pem").write_bytes(Path(f"{own}.crt").read_bytes())
    (tmp_path / "nginx.conf").write_text(f"pid {tmp_path}/pid;\n{text}")
    run("nginx", "-t", "-c", tmp_path / "nginx.conf", "-e", "stderr")


def test_caddy_takes_its_configuration(tmp_path: Path) -> None:
    run(
        "caddy",
        "validate",
        "--config",
        EXAMPLES / "Caddyfile",
        "--adapter",
        "caddyfile",
        environment={"HOME": str(tmp_path)},
    )


def test_systemd_takes_the_unit_and_finds_it_confined(tmp_path: Path) -> None:
    unit = tmp_path / "sdb.service"
    unit.write_text((EXAMPLES / "sdb.service").read_text().replace("/opt/sdb/.venv/bin/sdb", "/bin/true"))
    run("systemd-analyze", "verify", unit)
    run("systemd-analyze", "security", "--offline=true", "--threshold=20", unit)
