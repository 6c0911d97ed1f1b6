"""The server as a Ray Serve application: `serve run app.ray:build models_dir=/srv/models redis_url_file=…`.

Knows deployments and how they scale; what a replica does is in app/replicas.py. No secret passes through Ray, whose
cluster state any user of the cluster can read: each replica reads its own from its files or its environment.
"""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve import Application

from app.replicas import Ingress, ModelReplica, shared_settings
from app.settings import SECRETS, Settings
from app.state import State
from keys.errors import ConfigurationError
from models import bundles

DRAINED_WITHIN_S = 40.0  # a request takes 30 s at most, in each of its steps


class Scale(BaseModel):
    """How many replicas there may be of the ingress and of each model, and what each of them takes of a node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ingress_min: int = Field(1, ge=1)
    ingress_max: int = Field(4, ge=1)
    ingress_cpus: float = Field(1.0, ge=0)
    model_min: int = Field(1, ge=1)
    model_max: int = Field(4, ge=1)
    model_cpus: float = Field(1.0, ge=0)
    model_gpus: float = Field(0.0, ge=0)


def build(args: Mapping[str, str]) -> Application:
    """The application that `args` describe: settings by their names (`master_key_file`, …), and the fields of `Scale`.

    A Serve config may override the options of the deployments `ingress` and `model-NAME`.

    Raises:
        SettingsError, ValidationError: an argument has no meaning, or a value out of range.
        ConfigurationError: a secret is given as an argument, or what replicas must share is not given.
        BundleError: there is no bundle, or one cannot be used.
    """
    scale = Scale.model_validate({name: args[name] for name in args if name in Scale.model_fields})
    given = {name: str(value) for name, value in args.items() if name not in Scale.model_fields}
    _refuse_secrets(given)
    given = {"host": "0.0.0.0"} | given  # noqa: S104 - so that strangers are limited; the port is Ray's
    settings = shared_settings(given)
    given |= {"models_dir": str(settings.models_dir.absolute()), "state_dir": str(settings.state_dir.absolute())}
    given |= {name: str(Path(path).absolute()) for name, path in given.items() if name.endswith("_file")}
    models = _models(given, settings, scale)
    return serve.deployment(
        name="ingress",
        ray_actor_options={"num_cpus": scale.ingress_cpus},
        autoscaling_config=_autoscaling(scale.ingress_min, scale.ingress_max, settings.max_batch),
        max_ongoing_requests=settings.queue_limit,
        graceful_shutdown_timeout_s=DRAINED_WITHIN_S,
        logging_config={"enable_access_log": False},  # the application writes its own
    )(serve.ingress()(Ingress)).bind(given, models)


def _models(given: Mapping[str, str], settings: Settings, scale: Scale) -> dict[str, Application]:
    """One deployment for each bundle, so that each scales by itself."""
    given = {"cores": str(max(1, int(scale.model_cpus))), **given}  # Ray counts cores, and holds nobody to them
    state, models = State(settings), dict[str, Application]()
    for folder in bundles.discover(settings.models_dir):
        name = bundles.load_manifest(folder).name
        if name in models:
            raise bundles.BundleError(f"two bundles of {settings.models_dir} are called {name}")
        state.model_secret(name, folder)  # missing, it is said here and not by every replica
        deployment = serve.deployment(
            name=f"model-{name}",
            ray_actor_options={"num_cpus": scale.model_cpus, "num_gpus": scale.model_gpus},
            autoscaling_config=_autoscaling(scale.model_min, scale.model_max, settings.max_batch),
            max_ongoing_requests=4 * settings.max_batch,  # one batch runs, some form behind it, the rest is elsewhere
            max_queued_requests=settings.queue_limit,
            graceful_shutdown_timeout_s=DRAINED_WITHIN_S,
            logging_config={"enable_access_log": False},
        )(ModelReplica)
        models[name] = deployment.bind(given, str(folder.absolute()))
    return models


def _autoscaling(least: int, most: int, target: int) -> dict[str, float]:
    """Another replica when each has more than `target` requests open: more than fill its batch."""
    return {"min_replicas": least, "max_replicas": most, "target_ongoing_requests": target}


def _refuse_secrets(given: Mapping[str, str]) -> None:
    """Raises ConfigurationError if an argument holds a secret: Ray keeps arguments where others can read them."""
    for name in SECRETS & given.keys():
        url = urlsplit(given[name])
        if name != "redis_url" or url.password or "password" in url.query:
            raise ConfigurationError(f"{name} would be readable in the cluster's state: give {name}_file")
