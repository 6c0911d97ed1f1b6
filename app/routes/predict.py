"""`/v1/models`: what is hosted, and predictions."""

from fastapi import APIRouter, Depends, Request, Response
from sdb_client import sealed
from starlette.datastructures import UploadFile

from app import pipeline
from app.answers import as_json
from app.dependencies import AnyCaller, IdempotencyKey, PredictingCaller, ServicesDep
from app.errors import InvalidRequest, rate_limit_headers, validated
from app.forms import form
from app.hosting import Model
from app.json_body import parsed
from app.responses import response
from app.routes.door import Door
from app.schemas import InputSize, JsonImages, ModelCard, ModelCards, Parameters, Predictions, refusals
from keys.records import Caller, Scope

router = APIRouter(prefix="/v1/models", tags=["predictions"])
doors = APIRouter(prefix="/v1/models", tags=["predictions"], route_class=Door)
PLAIN = Parameters()
TIERS: dict[str, Scope] = {"public": "predict", "distill": "distill"}
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODY = {
    "required": True,
    "description": "one image as raw bytes with any or no content type, a form with `image` parts, or JSON; "
    "`application/cose` is a sealed image",
    "content": {
        "image/*": BINARY,
        "application/cose": BINARY,
        "application/octet-stream": BINARY,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {"image": {"type": "array", "items": {"type": "string", "format": "binary"}}},
            }
        },
        "application/json": {"schema": JsonImages.model_json_schema()},
    },
}
REFUSALS = (
    "invalid-request",
    "invalid-credential",
    "missing-scope",
    "unknown-model",
    "body-too-large",
    "unsupported-image",
    "unsupported-encoding",
    "undecodable-image",
    "undecryptable-image",
    "idempotency-in-progress",
    "idempotency-mismatch",
    "quota-exceeded",
    "rate-limited",
    "store-unavailable",
    "overloaded",
    "draining",
)
QUERY = [
    {"name": name, "in": "query", "required": False, "schema": schema}
    for name, schema in Parameters.model_json_schema()["properties"].items()
]


def _card(model: Model, caller: Caller) -> ModelCard:
    manifest = model.manifest
    return ModelCard(
        name=manifest.name,
        version=manifest.version,
        classes=list(manifest.classes),
        input=InputSize(height=manifest.input.height, width=manifest.input.width),
        guard=list(manifest.guards),
        tiers=[tier for tier, scope in TIERS.items() if caller.may(scope, manifest.name)],
    )


@router.get("", responses=refusals("invalid-credential", "missing-scope", "store-unavailable"))
async def models(caller: AnyCaller, services: ServicesDep) -> ModelCards:
    """The hosted models and the tiers that this caller has of each."""
    return ModelCards(models=[_card(model, caller) for model in services.models])


@router.get("/{model}", responses=refusals("invalid-credential", "missing-scope", "unknown-model", "store-unavailable"))
async def model(model: str, caller: AnyCaller, services: ServicesDep) -> ModelCard:
    """One hosted model."""
    return _card(services.models[model], caller)


async def named(model: str) -> None:
    """Documents the parameter: the door judges it, once the caller is known."""


@doors.post(
    "/{model}/predict",
    dependencies=[Depends(named)],
    response_model=Predictions,
    openapi_extra={"requestBody": BODY, "parameters": QUERY},
    responses=refusals(*REFUSALS),
)
async def predict(
    request: Request, caller: PredictingCaller, services: ServicesDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Classify images: everybody gets the right label, who holds `distill` gets augmented soft labels."""
    model = request.path_params["model"]
    _ = services.models[model]  # a name that is unknown is refused before the body is read
    encoded, parameters = await _read(request, services.settings.max_images_per_request)
    answer = await pipeline.predict(services, caller, model, encoded, parameters, idempotency_key=idempotency_key)
    headers = {"Cache-Control": "no-store", **rate_limit_headers(answer.budget, answer.standings)}
    return response(as_json(answer, parameters.top_k, request.scope["request_id"]), "application/json", headers)


async def _read(request: Request, most_images: int) -> tuple[list[bytes], Parameters]:
    """The encoded images and the parameters, whichever way they came; the body's parameters beat the query's."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    fields: dict[str, object] = dict(request.query_params) if request.scope["query_string"] else {}
    if kind == "application/json":
        images = validated(JsonImages, parsed(await request.body()))
        encoded, fields = images.encoded(), fields | images.parameters
    elif kind == "multipart/form-data":
        encoded = []
        async with form(request, max_files=most_images + 1) as parts:
            for name, value in parts.multi_items():
                if name == "image" and isinstance(value, UploadFile):
                    encoded.append(await value.read())
                elif isinstance(value, UploadFile):
                    raise InvalidRequest("a file part must be called image")
                else:
                    fields[name] = value
    else:
        encoded = [await request.body()]
        if kind == sealed.MEDIA_TYPE:
            fields = {"encryption": "sealed"} | fields
    return encoded, validated(Parameters, fields) if fields else PLAIN
