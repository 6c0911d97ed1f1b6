"""`…/infer` of the Open Inference Protocol: tensors in, tensors out, the same prediction as the native one."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response

from app import pipeline
from app.answers import Answer
from app.dependencies import IdempotencyKey, PredictingCaller, ServicesDep
from app.errors import InvalidRequest, UnknownModel, rate_limit_headers, validated
from app.hosting import Model
from app.images import Sendable
from app.oip import tensors
from app.oip.messages import JSON_LENGTH, InferRequest, InferResponse, read, written
from app.oip.metadata import INPUT
from app.oip.outputs import tensors as outputs_of
from app.oip.outputs import wanted
from app.pipeline import Services
from app.responses import response
from app.routes.door import Door
from app.routes.predict import BINARY, REFUSALS, named
from app.schemas import Parameters, refusals

JSON, BYTES = "application/json", "application/octet-stream"
doors = APIRouter(prefix="/v2/models/{model}", tags=["open inference protocol"], route_class=Door)


def hosted(request: Request, services: Services) -> Model:
    """The model that the path names, if it names no version of it or the one that is hosted.

    Raises:
        UnknownModel: there is no such model, or not in this version.
    """
    model = services.models[request.path_params["model"]]
    if request.path_params.get("version", model.manifest.version) != model.manifest.version:
        raise UnknownModel("this version of the model is not served here")
    return model


def _inlined(schema: object, definitions: Mapping[str, object]) -> object:
    """A JSON schema without references, which would lead astray at the place in the document that it is put at."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[str(schema["$ref"]).rpartition("/")[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items() if name != "$defs"}


def _body() -> dict[str, object]:
    schema = InferRequest.model_json_schema()
    return {
        "required": True,
        "description": f"JSON, and behind it the bytes of binary tensors if the header `{JSON_LENGTH}` says where it "
        "ends. One input `image`: BYTES `[N]`, encoded images (base64 in JSON), or UINT8 `[N, H, W, 3]`, RGB pixels.",
        "content": {JSON: {"schema": _inlined(schema, schema["$defs"])}, BYTES: BINARY},
    }


async def of_version(version: Annotated[str, Path(description="the one that is hosted; there is no other")]) -> None:
    """Documents the parameter: `hosted` judges it, once the caller is known."""


DOCUMENTED: dict[str, Any] = {
    "response_model": InferResponse,
    "openapi_extra": {"requestBody": _body()},
    "responses": refusals(*REFUSALS, media_type=JSON),
}


@doors.post("/infer", dependencies=[Depends(named)], **DOCUMENTED)
@doors.post("/versions/{version}/infer", dependencies=[Depends(named), Depends(of_version)], **DOCUMENTED)
async def infer(
    request: Request, caller: PredictingCaller, services: ServicesDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Classify images; everybody gets the right label, who holds `distill` gets augmented soft labels."""
    name = hosted(request, services).manifest.name
    asked, raw = read(await request.body(), request.headers.get(JSON_LENGTH))
    outputs, parameters = wanted(asked), _parameters(asked)
    images = _images(asked, raw, services.settings.max_images_per_request)
    answer = await pipeline.predict(services, caller, name, images, parameters, idempotency_key=idempotency_key)
    parts, json_length = written(_head(asked, answer), outputs_of(answer, outputs))
    headers = {"Cache-Control": "no-store", **rate_limit_headers(answer.budget, answer.standings)}
    if json_length is not None:
        headers[JSON_LENGTH] = str(json_length)
    return response(parts, JSON if json_length is None else BYTES, headers, sum(map(len, parts)))


def _images(asked: InferRequest, raw: Sequence[memoryview | None], most: int) -> Sendable:
    """The images in the one input that there is; `raw` is what belongs to it of the bytes behind the JSON."""
    given, behind = asked.inputs[0], raw[0]
    if len(raw) > 1 or given.name != INPUT:
        raise InvalidRequest(f"a request has one input, and it is called {INPUT}")
    if not given.shape or not 0 < given.shape[0] <= most:
        raise InvalidRequest(f"the first dimension of the input counts its images, from 1 to {most}")
    match given.datatype, given.shape:
        case "BYTES", [count]:
            return tensors.elements_of_json(given.data, count) if behind is None else tensors.elements(behind, count)
        case "UINT8", [_, height, width, 3] if height and width:
            shape = given.shape
            return tensors.uint8_of_json(given.data, shape) if behind is None else tensors.uint8(behind, shape)
    raise InvalidRequest("the input is BYTES of shape [N], or UINT8 of shape [N, H, W, 3]")


def _parameters(asked: InferRequest) -> Parameters:
    """What the request asks of the model, as in the native call."""
    fields = asked.parameters.model_extra or {}
    if "top_k" in fields:
        raise InvalidRequest("top_k: ask for the `classification` of an output instead")
    parameters = validated(Parameters, fields)
    if parameters.views > 1:
        raise InvalidRequest(
            "views: the soft label of a view is of use only with what the view shows, and outputs of fixed shapes have "
            "no place for that; ask /v1/models/{model}/predict"
        )
    return parameters


def _head(asked: InferRequest, answer: Answer) -> dict[str, object]:
    """All of an answer's JSON but the outputs."""
    named = {"model_name": answer.manifest.name, "model_version": answer.manifest.version}
    parameters: dict[str, object] = {"tier": answer.tier}
    if answer.charged and answer.budget is not None and answer.budget.remaining is not None:
        parameters["budget_remaining"] = answer.budget.remaining
    return {**named, **({} if asked.id is None else {"id": asked.id}), "parameters": parameters}
