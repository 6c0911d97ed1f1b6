"""Laws of what is shipped for containers: tools accept each file, which names what exists and gives nothing away."""

import json
import re
import shutil
import subprocess
import tomllib
from importlib import resources
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from app.main import VERSION
from app.routes import health, open_inference
from app.settings import Settings, SettingsError
from app.state import State
from keys.connection import connect
from tests.conftest import ROOT
from tests.deployment.manifests import (
    COMPOSE,
    DOCKERFILE,
    KUSTOMIZATIONS,
    MAKE_SECRETS,
    SCRIPTS,
    Object,
    compose,
    objects,
    pods,
)

LATEST = kubernetes_validate.latest_version()
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
CUSTOM = {"InferenceService", "PodMonitor", "RayService"}  # operators have their schemas; pods are checked as pods
NAMES = re.compile(r"\bSDB_[A-Z_]+\b")
OF_COMPOSE = {"SDB_SECRETS", "SDB_LISTEN", "SDB_IMAGE", "SDB_GPU_IMAGE", "SDB_REDIS_IMAGE"} | {
    f"SDB_{name}_{what}" for name in ("PROMETHEUS", "GRAFANA") for what in ("IMAGE", "LISTEN")
}


def check(*command: str | Path) -> None:
    """The program of this name in the project's environment, or of the machine, has nothing to say."""
    program = shutil.which(str(command[0]), path=f"{ROOT / '.venv' / 'bin'}:/usr/local/bin:/usr/bin:/bin")
    if program is None:
        pytest.skip(f"no {command[0]} on this machine")
    done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout + done.stderr


def the(kind: str, name: str) -> Object:
    (found,) = (one for _, one in objects() if one["kind"] == kind and one["metadata"]["name"] == name)
    return found


def test_the_linters_of_dockerfiles_and_shell_find_nothing() -> None:
    check("hadolint", DOCKERFILE)
    check("shellcheck", *SCRIPTS)


@pytest.mark.parametrize(
    ("schema", "path"), [("compose-spec", COMPOSE), *(("github-workflows", path) for path in WORKFLOWS)]
)
def test_the_compose_file_and_the_workflow_keep_their_schemas(schema: str, path: Path) -> None:
    vendored = resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / f"{schema}.json"
    jsonschema.validate(yaml.safe_load(path.read_text()), json.loads(vendored.read_text()))


def test_every_kubernetes_object_is_valid_to_its_last_field() -> None:
    for path, found in objects():
        if found["kind"] not in CUSTOM:
            assert kubernetes_validate.validate(found, LATEST, strict=True), path
    for name, _, spec in pods():
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "checked"}, "spec": spec}
        assert kubernetes_validate.validate(pod, LATEST, strict=True), name


@pytest.mark.slow
@pytest.mark.parametrize("folder", KUSTOMIZATIONS, ids=lambda folder: folder.name)
def test_what_kustomize_makes_of_each_overlay_is_valid(folder: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on this machine")
    made = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=True).stdout  # noqa: S603
    for found in yaml.safe_load_all(made):
        assert kubernetes_validate.validate(found, LATEST, strict=True)
        if found["kind"] in {"Deployment", "StatefulSet"}:
            pod = found["spec"]["template"]["spec"]
            (image,) = {
                container["image"] for kind in ("initContainers", "containers") for container in pod.get(kind, [])
            }
            assert ":" in image, "one image for all, of a tag that is named"


def test_every_setting_that_is_named_anywhere_exists() -> None:
    known = {f"SDB_{field.upper()}" for field in Settings.model_fields}
    files = [DOCKERFILE, COMPOSE, *SCRIPTS, *(ROOT / "docker").rglob("*.yaml"), *(ROOT / "examples").rglob("*.*")]
    for path in files:
        named = {name.removesuffix("_FILE") for name in NAMES.findall(path.read_text())}
        assert named <= known | OF_COMPOSE | {"SDB_API_KEY", "SDB_BASE_URL"}, path


def test_every_probe_asks_for_a_path_that_is_served() -> None:
    served = {getattr(route, "path", "") for route in (*health.router.routes, *open_inference.router.routes)}
    asked = {
        probe["httpGet"]["path"]
        for _, _, spec in pods()
        for container in spec["containers"]
        for name, probe in container.items()
        if name.endswith("Probe") and "httpGet" in probe
    }
    assert asked == {"/livez", "/readyz", "/v2/health/live", "/v2/health/ready"}
    assert asked <= served
    assert "/livez" in DOCKERFILE.read_text()


def test_no_container_may_more_than_it_needs() -> None:
    for name, service in compose()["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    for name, _, spec in pods():
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"], name
        for container in spec["containers"]:
            may = container["securityContext"]
            assert may["allowPrivilegeEscalation"] is False, name
            assert may["capabilities"] == {"drop": ["ALL"]}, name
            assert may.get("readOnlyRootFilesystem", container["name"] == "ray"), f"{name}: only Ray writes beside /tmp"


def test_the_store_is_reached_by_servers_alone() -> None:
    read = compose()
    assert read["networks"]["store"]["internal"]
    for name, service in read["services"].items():
        if name.startswith(("redis", "sentinel")):
            assert "ports" not in service, name
            assert service["networks"] == ["store"], name
        elif name.startswith("server"):
            assert set(service["networks"]) == {"outside", "store"}, name
        else:
            assert service["networks"] == ["outside"], name


def test_the_store_of_a_cluster_lets_in_every_pod_of_a_server_and_no_other() -> None:
    (rule,) = the("NetworkPolicy", "redis")["spec"]["ingress"]
    (let_in,) = (source["podSelector"]["matchLabels"].items() for source in rule["from"])
    for file, labels, _ in pods():
        assert (let_in <= labels.items()) == (file != "redis.yaml"), file


def test_prometheus_finds_the_servers_of_a_cluster_as_the_job_of_the_alerts(tmp_path: Path) -> None:
    monitor, (server,) = the("PodMonitor", "sdb")["spec"], (pod for pod in pods() if pod.file == "deployment.yaml")
    (endpoint,), (container,) = monitor["podMetricsEndpoints"], server.spec["containers"]
    assert monitor["selector"]["matchLabels"].items() <= server.labels.items()
    assert server.labels[monitor["jobLabel"]] == "sdb"
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    subprocess.run([MAKE_SECRETS, tmp_path], check=True)  # noqa: S603
    token = (tmp_path / endpoint["authorization"]["credentials"]["key"]).read_text()
    assert token.strip() == token, "a header cannot hold a line end"


def test_no_service_of_a_cluster_is_taken_for_a_setting() -> None:
    of_kubernetes = f"{the('Service', 'sdb')['metadata']['name'].upper()}_SERVICE_HOST"
    with pytest.raises(SettingsError, match=f"{of_kubernetes} is not a setting"):
        Settings.from_environment({of_kubernetes: "10.0.0.1"})
    for file, _, spec in pods():
        assert spec["enableServiceLinks"] is False, file


def test_whatever_is_published_is_published_to_this_machine_unless_told_otherwise() -> None:
    for name, service in compose()["services"].items():
        for port in service.get("ports", []):
            assert re.fullmatch(r"\$\{SDB_(\w+_)?LISTEN:-127\.0\.0\.1:\d+\}:\d+", port), name


def test_no_secret_is_in_a_variable_and_none_has_a_default() -> None:
    read = compose()
    assert all(secret["file"].startswith("${SDB_SECRETS:?") for secret in read["secrets"].values())
    for name, service in read["services"].items():
        assert set(service.get("secrets", [])) <= set(read["secrets"]), name
        for variable in service.get("environment", {}):
            if re.search(r"KEY|TOKEN|PASSWORD|REDIS_URL", variable):
                assert variable.endswith("_FILE"), f"{name}: {variable}"
    for _, _, spec in pods():
        for container in spec["containers"]:
            for variable in container.get("env", []):
                assert variable["value"].startswith("/run/secrets/") == variable["name"].endswith("_FILE")


def test_the_server_takes_the_secrets_that_are_made_and_finds_its_store(tmp_path: Path) -> None:
    for replicas, secrets in {"0": ["secrets"], "1": ["replicated", "ha"]}.items():
        subprocess.run([MAKE_SECRETS, *secrets], cwd=tmp_path, check=True)  # noqa: S603
        folder = tmp_path / secrets[0]
        names = ("master_key", "token_keys", "metrics_token", "redis_url")
        files = {f"SDB_{name.upper()}_FILE": str(folder / name) for name in names}
        state = {"SDB_STATE_DIR": str(tmp_path / "var"), "SDB_REDIS_REPLICAS": replicas}
        settings = Settings.from_environment(files | state)
        State(settings)
        connect(settings.redis_url.get_secret_value())
        password = (folder / "redis_password").read_text().strip()
        assert f":{password}@" in settings.redis_url.get_secret_value()
        assert f"requirepass {password}\n" in (folder / "redis_auth").read_text()
        assert folder.stat().st_mode & 0o777 == 0o700


def test_secrets_that_are_there_stay_when_they_are_made_again(tmp_path: Path) -> None:
    def made(*kind: str) -> dict[str, str]:
        subprocess.run([MAKE_SECRETS, tmp_path / "secrets", *kind], check=True)  # noqa: S603
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first, again, replicated = made(), made(), made("ha")
    assert first == again
    assert replicated == made()
    assert {name for name in first if first[name] != replicated[name]} == {"redis_url"}
    assert len(set(first.values())) == len(first)


def test_what_is_mounted_from_the_repository_is_there() -> None:
    for service in compose()["services"].values():
        for mount in service.get("volumes", []):
            source = mount.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).is_dir(), mount


def test_what_the_image_is_built_from_exists_and_reaches_the_build() -> None:
    kept = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE.read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert source.partition("/")[0] in kept, source


def test_the_image_and_the_manifests_speak_of_the_versions_that_are_locked() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    client = tomllib.loads((ROOT / "client" / "pyproject.toml").read_text())["project"]
    assert project["version"] == client["version"] == VERSION
    assert f"ARG VERSION={VERSION}\n" in DOCKERFILE.read_text()
    (extras,) = re.findall(r"^ARG EXTRAS=\[(.*)\]$", DOCKERFILE.read_text(), re.MULTILINE)
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (ray,) = (found for _, found in objects() if found["kind"] == "RayService")
    assert f"\nray=={ray['spec']['rayClusterConfig']['rayVersion']}\n" in (ROOT / "requirements.lock").read_text()
    assert (ROOT / "client" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
