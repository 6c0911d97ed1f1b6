"""What the server says of itself and of its models in the words of the Open Inference Protocol.

Knows manifests and counts; knows no caller and no HTTP.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import BaseModel

from app.hosting import Model
from app.oip.outputs import OUTPUTS, SCORES

INPUT = "image"
PLATFORM = "pytorch_safetensors"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics")
MODEL_CONFIG_TYPES = {"BYTES": "TYPE_STRING", "INT64": "TYPE_INT64", "FP32": "TYPE_FP32"}


class Server(BaseModel):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class Live(BaseModel):
    """The server lives."""

    live: Literal[True] = True


class Ready(Live):
    """Whether the server can answer; `error` says what does not work."""

    ready: bool
    error: str | None = None

    @classmethod
    def of(cls, checks: Mapping[str, bool]) -> Self:
        """What the checks come to."""
        failed = [name for name, works in checks.items() if not works]
        return cls(ready=not failed, error=f"not ready: {', '.join(failed)}" if failed else None)


class ModelReady(BaseModel):
    """Whether the model can answer; `error` says that it does not."""

    name: str
    ready: bool
    error: str | None = None

    @classmethod
    def of(cls, model: Model) -> Self:
        """Whether a hosted model can answer."""
        ready = model.running
        return cls(name=model.manifest.name, ready=ready, error=None if ready else "the model is not ready")


class TensorMetadata(BaseModel):
    """A tensor; −1 is a dimension that varies."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    """A model; `image` may also be a UINT8 tensor of shape [−1, −1, −1, 3], which this shape of metadata cannot say."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]

    @classmethod
    def of(cls, model: Model) -> Self:
        """The metadata of a hosted model."""
        inputs = [TensorMetadata(name=INPUT, datatype="BYTES", shape=[-1])]
        outputs = [
            TensorMetadata(name=name, datatype=datatype, shape=_shape(name, model))
            for name, datatype in OUTPUTS.items()
        ]
        manifest = model.manifest
        return cls(name=manifest.name, versions=[manifest.version], platform=PLATFORM, inputs=inputs, outputs=outputs)


def _shape(output: str, model: Model) -> list[int]:
    return [-1, len(model.manifest.classes)] if output in SCORES else [-1]


class ConfiguredTensor(BaseModel):
    """A tensor in the words of Triton's model configuration."""

    name: str
    data_type: str
    dims: list[int]

    @classmethod
    def of(cls, tensor: TensorMetadata) -> Self:
        """The same tensor."""
        return cls(name=tensor.name, data_type=MODEL_CONFIG_TYPES[tensor.datatype], dims=tensor.shape)


class ModelConfig(BaseModel):
    """Triton's model configuration, as far as it says something here; 0: the shapes name the batch themselves."""

    name: str
    platform: str
    max_batch_size: Literal[0] = 0
    input: list[ConfiguredTensor]
    output: list[ConfiguredTensor]

    @classmethod
    def of(cls, model: Model) -> Self:
        """The configuration of a hosted model."""
        metadata = ModelMetadata.of(model)
        return cls(
            name=metadata.name,
            platform=metadata.platform,
            input=[ConfiguredTensor.of(tensor) for tensor in metadata.inputs],
            output=[ConfiguredTensor.of(tensor) for tensor in metadata.outputs],
        )


class RepositoryEntry(BaseModel):
    """A model in the index of the repository."""

    name: str
    version: str
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""

    @classmethod
    def of(cls, model: Model) -> Self:
        """The entry of a hosted model."""
        state: Literal["READY", "UNAVAILABLE"] = "READY" if model.running else "UNAVAILABLE"
        return cls(name=model.manifest.name, version=model.manifest.version, state=state)


class Duration(BaseModel):
    """How often something was done, and how many nanoseconds it took in all."""

    count: int
    ns: int


class InferenceStatistics(BaseModel):
    """Of what Triton distinguishes, the server counts the forward passes; the rest is 0."""

    success: Duration
    fail: Duration = Duration(count=0, ns=0)
    queue: Duration = Duration(count=0, ns=0)
    compute_input: Duration = Duration(count=0, ns=0)
    compute_infer: Duration
    compute_output: Duration = Duration(count=0, ns=0)
    cache_hit: Duration = Duration(count=0, ns=0)
    cache_miss: Duration = Duration(count=0, ns=0)


class ModelStatistics(BaseModel):
    """What a model of this process has done: images answered, forward passes, the time of the last in milliseconds."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: InferenceStatistics
    batch_stats: list[object] = []

    @classmethod
    def of(cls, model: Model) -> Self:
        """The statistics of a hosted model."""
        work = model.work
        return cls(
            name=model.manifest.name,
            version=model.manifest.version,
            last_inference=work.last_ms,
            inference_count=work.images,
            execution_count=work.passes,
            inference_stats=InferenceStatistics(
                success=Duration(count=work.images, ns=work.busy_ns),
                compute_infer=Duration(count=work.passes, ns=work.busy_ns),
            ),
        )


class Statistics(BaseModel):
    """The statistics of one model or of all."""

    model_stats: list[ModelStatistics]
