"""What the repository ships for containers, read: the compose file, Kubernetes objects, pods wherever they hide."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import ROOT

DOCKER = ROOT / "docker"
DOCKERFILE, COMPOSE = DOCKER / "Dockerfile", ROOT / "docker-compose.yml"
MAKE_SECRETS = DOCKER / "make-secrets"
SCRIPTS = [
    MAKE_SECRETS,
    *(ROOT / "examples").glob("*.sh"),
    *(DOCKER / "redis" / name for name in ("start", "sentinel", "backup")),
]
KUSTOMIZATIONS = sorted(path.parent for path in DOCKER.rglob("kustomization.yaml"))
Object = dict[str, Any]


def compose() -> Object:
    """The compose file, its anchors merged and its variables as they stand there."""
    read: Object = yaml.safe_load(COMPOSE.read_text())
    return read


def objects() -> Iterator[tuple[Path, Object]]:
    """Every Kubernetes object of docker/kubernetes, as it stands in its file."""
    for path in sorted((DOCKER / "kubernetes").rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from ((path, found) for found in yaml.safe_load_all(path.read_text()))


def pods() -> Iterator[tuple[str, Object]]:
    """The specification of every pod that one of the objects makes; of custom resources too."""
    for path, found in objects():
        spec = found.get("spec", {})
        match found["kind"]:
            case "Deployment" | "StatefulSet":
                yield path.name, spec["template"]["spec"]
            case "InferenceService":
                scaling = {"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
                yield path.name, {name: value for name, value in spec["predictor"].items() if name not in scaling}
            case "RayService":
                cluster = spec["rayClusterConfig"]
                for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                    yield path.name, group["template"]["spec"]
