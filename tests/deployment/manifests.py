"""What the repository ships for containers, read: the compose file, Kubernetes objects, pods wherever they hide."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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


class Pod(NamedTuple):
    """What one of the objects makes: in which file it stands, its labels and its specification."""

    file: str
    labels: dict[str, str]
    spec: Object


def compose() -> Object:
    """The compose file, its anchors merged and its variables as they stand there."""
    read: Object = yaml.safe_load(COMPOSE.read_text())
    return read


def objects() -> Iterator[tuple[Path, Object]]:
    """Every Kubernetes object of docker/kubernetes, as it stands in its file."""
    for path in sorted((DOCKER / "kubernetes").rglob("*.yaml")):
        if path.name != "kustomization.yaml":
            yield from ((path, found) for found in yaml.safe_load_all(path.read_text()))


def pods() -> Iterator[Pod]:
    """Every pod that one of the objects makes; of custom resources too."""
    for path, found in objects():
        spec = found.get("spec", {})
        match found["kind"]:
            case "Deployment" | "StatefulSet":
                yield _pod(path, spec["template"])
            case "InferenceService":
                own = {"labels", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget"}
                pod = {name: value for name, value in spec["predictor"].items() if name not in own}
                yield Pod(path.name, spec["predictor"]["labels"], pod)
            case "RayService":
                cluster = spec["rayClusterConfig"]
                for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                    yield _pod(path, group["template"])


def _pod(path: Path, template: Object) -> Pod:
    return Pod(path.name, template["metadata"]["labels"], template["spec"])
