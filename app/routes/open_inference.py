"""`/v2`: the Open Inference Protocol, so that its clients (Triton's, KServe's) work here without a line of ours."""

from fastapi import APIRouter, Depends, Request, Response

from app.dependencies import AnyCaller, Everybody, KeyHolder, ServicesDep
from app.oip import metadata
from app.routes.health import readiness
from app.routes.infer import JSON, hosted, of_version
from app.routes.predict import named
from app.schemas import refusals

SEEN = refusals("invalid-credential", "missing-scope", "unknown-model", "store-unavailable", media_type=JSON)
COUNTED = refusals("invalid-credential", "unknown-model", "store-unavailable", media_type=JSON)
router = APIRouter(prefix="/v2", tags=["open inference protocol"])
of_model = APIRouter()


@router.get("", dependencies=[Everybody])
async def server(request: Request) -> metadata.Server:
    """The server, and the extensions of the protocol that it knows."""
    extensions = list(metadata.EXTENSIONS)
    return metadata.Server(name="safe-distillation-box", version=request.app.version, extensions=extensions)


@router.get("/health/live", dependencies=[Everybody])
async def live() -> metadata.Live:
    """The process answers."""
    return metadata.Live()


@router.get("/health/ready", dependencies=[Everybody], response_model_exclude_none=True)
async def ready(services: ServicesDep, response: Response) -> metadata.Ready:
    """The store and the models work: 200, or 503 and which does not."""
    health = metadata.Ready.of(await readiness(services))
    response.status_code = 200 if health.ready else 503
    return health


@router.get("/models/stats", responses=refusals("invalid-credential", "store-unavailable", media_type=JSON))
async def all_statistics(_: KeyHolder, services: ServicesDep) -> metadata.Statistics:
    """What the models have done in this process; for whoever holds a key."""
    return metadata.Statistics(model_stats=[metadata.ModelStatistics.of(model) for model in services.models])


@router.post(
    "/repository/index",
    responses=refusals("invalid-credential", "missing-scope", "store-unavailable", media_type=JSON),
)
async def repository(_: AnyCaller, services: ServicesDep) -> list[metadata.RepositoryEntry]:
    """The hosted models."""
    return [metadata.RepositoryEntry.of(model) for model in services.models]


@of_model.get("", responses=SEEN)
async def model_metadata(_: AnyCaller, services: ServicesDep, request: Request) -> metadata.ModelMetadata:
    """The inputs and outputs of a model."""
    return metadata.ModelMetadata.of(hosted(request, services))


@of_model.get("/config", responses=SEEN)
async def model_config(_: AnyCaller, services: ServicesDep, request: Request) -> metadata.ModelConfig:
    """The same in the words of Triton's model configuration."""
    return metadata.ModelConfig.of(hosted(request, services))


@of_model.get("/stats", responses=COUNTED)
async def model_statistics(_: KeyHolder, services: ServicesDep, request: Request) -> metadata.Statistics:
    """What the model has done in this process; for whoever holds a key."""
    return metadata.Statistics(model_stats=[metadata.ModelStatistics.of(hosted(request, services))])


@of_model.get(
    "/ready",
    dependencies=[Everybody],
    response_model_exclude_none=True,
    responses=refusals("unknown-model", media_type=JSON),
)
async def model_ready(services: ServicesDep, request: Request, response: Response) -> metadata.ModelReady:
    """The model can answer: 200, or 503."""
    health = metadata.ModelReady.of(hosted(request, services))
    response.status_code = 200 if health.ready else 503
    return health


router.include_router(of_model, prefix="/models/{model}", dependencies=[Depends(named)])
versioned = [Depends(named), Depends(of_version)]
router.include_router(of_model, prefix="/models/{model}/versions/{version}", dependencies=versioned)
