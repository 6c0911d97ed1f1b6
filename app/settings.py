"""The only reader of the environment: one frozen `Settings`, checked before anything starts.

Names and defaults are those of docs/operation.md; every secret `SDB_X` may come from the file `SDB_X_FILE` instead.
"""

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, IPvAnyNetwork, SecretStr, ValidationError
from sdb_client.environment import VARIABLES as OF_CALLERS

from keys.records import RateLimit

PREFIX = "SDB_"
SECRETS = {"redis_url", "master_key", "token_keys", "metrics_token", "otlp_headers"}
ZOO = Path(__file__).parent.parent / "models" / "zoo"
LOOPBACK = {"127.0.0.1", "::1", "localhost"}
ANONYMOUS_PER_MINUTE = 600
Signer = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
"""A public key of Ed25519, 32 bytes in base64url."""


def _listed(networks: object) -> object:
    return networks.replace(",", " ").split() if isinstance(networks, str) else networks


class SettingsError(ValueError):
    """A variable has a value that cannot be used; one clear line, without the value of a secret."""


def _content(variable: str, file: Path) -> str:
    """The secret in the file that a variable names."""
    try:
        content = file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}: the file cannot be read ({type(error).__name__})") from None
    if not content:
        raise SettingsError(f"{variable}: the file is empty")
    return content


class Settings(BaseModel):
    """Everything that an operator may decide."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    fd: Annotated[int, Field(ge=0)] | None = None
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    state_dir: Path = Path("var")
    redis_url: SecretStr = SecretStr("")
    redis_replicas: Annotated[int, Field(ge=0, le=10)] = 0
    models_dir: Path = ZOO
    bundle_signers: Annotated[tuple[Signer, ...], BeforeValidator(_listed)] = ()
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?(,cuda:\d+)*)$")] = "auto"
    engine: Literal["auto", "eager", "onnxruntime", "openvino", "compile", "graphs"] = "auto"
    cores: Annotated[int, Field(ge=0, le=4096)] = 0
    master_key: SecretStr = SecretStr("")
    token_keys: SecretStr = SecretStr("")
    token_lifetime_s: Annotated[int, Field(ge=10, le=86400)] = 900
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 32
    batch_wait_ms: Annotated[float, Field(ge=0, le=1000)] = 0.0
    queue_limit: Annotated[int, Field(ge=1)] = 1024
    model_timeout_s: Annotated[float, Field(ge=0.1, le=29)] = 20.0
    max_connections: Annotated[int, Field(ge=1)] = 4096
    drain_delay_s: Annotated[float, Field(ge=0, le=300)] = 1.0
    drain_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 30
    max_body_bytes: Annotated[int, Field(ge=1024)] = 16 * 2**20
    max_image_pixels: Annotated[int, Field(ge=1)] = 25_000_000
    max_images_per_request: Annotated[int, Field(ge=1)] = 256
    anonymous: bool = True
    anonymous_per_minute: Annotated[int, Field(ge=0)] | None = None
    trusted_proxies: Annotated[tuple[IPvAnyNetwork, ...], BeforeValidator(_listed)] = ()
    watch: Literal["off", "alarm", "throttle", "coarsen", "suspend"] = "off"
    watch_per_minute: Annotated[int, Field(ge=1)] = 30
    log_format: Literal["console", "json"] = "console"
    log_requests: bool = True
    slow_ms: Annotated[float, Field(ge=0)] = 1000.0
    metrics: Literal["loopback", "admin", "everybody"] = "loopback"
    metrics_token: SecretStr = SecretStr("")
    otlp_endpoint: Annotated[str, Field(pattern=r"^(https?://\S+)?$")] = ""
    otlp_headers: SecretStr = SecretStr("")
    otlp_sample: Annotated[float, Field(ge=0, le=1)] = 1.0

    @cached_property
    def anonymous_rate(self) -> RateLimit | None:
        """How much an address may ask without a key; on loopback there is no limit unless the operator sets one.

        A socket that was handed over may be bound to any address.
        """
        images = self.anonymous_per_minute
        if images is None:
            images = 0 if self.host in LOOPBACK and self.fd is None else ANONYMOUS_PER_MINUTE
        return RateLimit(name="address", limit=images, window_s=60) if images else None

    @property
    def url_host(self) -> str:
        """The host as a URL has it (RFC 3986 §3.2.2)."""
        return f"[{self.host}]" if ":" in self.host else self.host

    @staticmethod
    def secret_files(environment: Mapping[str, str] | None = None) -> dict[str, Path]:
        """The files that `environment` (the process's own by default) names for secrets, by their variables."""
        source = os.environ if environment is None else environment  # noqa: TID251
        variables = (f"{PREFIX}{name.upper()}_FILE" for name in sorted(SECRETS))
        return {variable: Path(source[variable]) for variable in variables if variable in source}

    @classmethod
    def from_environment(
        cls, environment: Mapping[str, str] | None = None, given: Mapping[str, str] = {}
    ) -> "Settings":
        """The settings that `environment` (the process's own by default) describes.

        What is `given`, as `redis_url` or as the file `redis_url_file`, counts in place of the environment's.

        Raises:
            SettingsError: an unknown `SDB_` variable, a value out of range, or an unreadable secret file.
        """
        source = os.environ if environment is None else environment  # noqa: TID251
        own = {f"{PREFIX}{name.upper()}": value for name, value in given.items()}
        replaced = {variable.removesuffix("_FILE") for variable in own}
        left = {variable: value for variable, value in source.items() if variable.removesuffix("_FILE") not in replaced}
        values: dict[str, str] = {}
        for variable, text in (left | own).items():
            if not variable.startswith(PREFIX) or variable in OF_CALLERS:
                continue
            name, value = variable.removeprefix(PREFIX).lower(), text
            if name.endswith("_file") and name.removesuffix("_file") in SECRETS:
                name, value = name.removesuffix("_file"), _content(variable, Path(text))
            if name not in cls.model_fields:
                raise SettingsError(f"{variable} is not a setting")
            if name in values:
                raise SettingsError(f"{PREFIX}{name.upper()} and {PREFIX}{name.upper()}_FILE are both given")
            values[name] = value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            problem = error.errors(include_input=False, include_url=False)[0]
            raise SettingsError(f"{PREFIX}{str(problem['loc'][0]).upper()}: {problem['msg']}") from None
