"""`/hf/models/{model}`: image classification as Hugging Face's inference clients ask for it."""

import base64
from typing import Annotated, Literal

import numpy as np
import orjson
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app import pipeline
from app.answers import Answer, greatest
from app.dependencies import IdempotencyKey, PredictingCaller, ServicesDep
from app.errors import InvalidRequest, rate_limit_headers, validated
from app.json_body import parsed
from app.routes.door import Door
from app.routes.predict import BINARY, REFUSALS, named
from app.schemas import Parameters, refusals

doors = APIRouter(prefix="/hf/models", tags=["hugging face"], route_class=Door)


class ClassificationParameters(BaseModel):
    """What Hugging Face's task lets a caller ask; null is what is not said."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: Annotated[int | None, Field(ge=1, le=100_000, description="how many classes are listed; 5")] = None
    function_to_apply: Annotated[
        Literal["softmax", "sigmoid", "none"] | None, Field(description="makes scores of logits; softmax")
    ] = None


class JsonImage(BaseModel):
    """The JSON form of a request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: Annotated[str, Field(description="the encoded image in base64")]
    parameters: ClassificationParameters | None = None

    def image(self) -> bytes:
        """The encoded image.

        Raises:
            InvalidRequest: it is not base64.
        """
        try:
            return base64.b64decode(self.inputs, validate=True)
        except ValueError:
            raise InvalidRequest("inputs: not base64") from None


class LabelScore(BaseModel):
    """One class; the greatest score comes first."""

    label: str
    score: float


JSON = {
    "schema": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "inputs": JsonImage.model_json_schema()["properties"]["inputs"],
            "parameters": ClassificationParameters.model_json_schema(),
        },
    }
}
BODY = {
    "required": True,
    "description": "one image as raw bytes with any or no content type, or JSON",
    "content": {"image/*": BINARY, "application/octet-stream": BINARY, "application/json": JSON},
}


@doors.post(
    "/{model}",
    dependencies=[Depends(named)],
    response_model=list[LabelScore],
    openapi_extra={"requestBody": BODY},
    responses=refusals(*REFUSALS),
)
async def classify(
    request: Request, caller: PredictingCaller, services: ServicesDep, idempotency_key: IdempotencyKey = None
) -> Response:
    """Classify one image; the scores are those of the caller's tier."""
    model = request.path_params["model"]
    _ = services.models[model]  # a name that is unknown is refused before the body is read
    image, asked = await _read(request)
    answer = await pipeline.predict(services, caller, model, [image], Parameters(), idempotency_key=idempotency_key)
    headers = {"Cache-Control": "no-store", **rate_limit_headers(answer.budget, answer.standings)}
    content = orjson.dumps(_ranked(answer, asked), option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(content, media_type="application/json", headers=headers)


async def _read(request: Request) -> tuple[bytes, ClassificationParameters]:
    """The encoded image, and what is asked of its answer."""
    body = await request.body()
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return body, ClassificationParameters()
    asked = validated(JsonImage, parsed(body))
    return asked.image(), asked.parameters or ClassificationParameters()


def _ranked(answer: Answer, asked: ClassificationParameters) -> list[dict[str, object]]:
    """The greatest classes of the one image."""
    (logits,), (probabilities,) = answer.logits, answer.probabilities
    (order,) = greatest(answer.logits, asked.top_k or 5)
    match asked.function_to_apply:
        case "none":
            scores = logits
        case "sigmoid":
            scores = (0.5 + 0.5 * np.tanh(logits.astype(np.float64) / 2)).astype(np.float32)  # which never overflows
        case _:
            scores = probabilities
    return [{"label": answer.manifest.classes[index], "score": scores[index]} for index in order]
