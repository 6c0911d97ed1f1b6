"""The shapes of predictions and refusals, as the OpenAPI document shows them.

Knows pydantic; knows neither HTTP nor how an answer comes about.
"""

import base64
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import STATUS, InvalidRequest, problem
from models.views import MAX_VIEWS

PROBLEM = "application/problem+json"
MOST_IMAGES = 2**16  # whatever SDB_MAX_IMAGES_PER_REQUEST says: a million are read for a second, with nothing else done
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}


class Parameters(BaseModel):
    """What a caller may ask about the answer; in the query, in a form or in the JSON body."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    top_k: Annotated[int, Field(ge=1, le=100_000, description="how many classes `top` lists")] = 5
    temperature: Annotated[float | None, Field(ge=0.01, le=1000, description="of `probabilities`")] = None
    views: Annotated[int, Field(ge=1, le=MAX_VIEWS, description="views of each image, one soft label each")] = 1
    mix: Annotated[float, Field(ge=0, le=0.5, description="most that another image is blended into a view")] = 0.0
    encryption: Annotated[
        Literal["sealed", "pixel", "lock"] | None,
        Field(description="how the images are encrypted; `lock`: already transformed with the model's key"),
    ] = None
    image_key: Annotated[
        str | None, Field(min_length=1, max_length=64, description="id of the caller's image key; `pixel` needs it")
    ] = None

    @model_validator(mode="after")
    def _key_of_an_encryption(self) -> Self:
        if self.image_key is not None and self.encryption not in {"sealed", "pixel"}:
            raise ValueError("`image_key` goes with `encryption=sealed` or `encryption=pixel`")
        return self


class JsonImages(BaseModel):
    """The JSON form of a prediction request."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Annotated[list[str], Field(min_length=1, max_length=MOST_IMAGES, description="encoded images in base64")]
    parameters: dict[str, int | float | str] = {}

    def encoded(self) -> list[bytes]:
        """The images as bytes.

        Raises:
            InvalidRequest: one of them is not base64.
        """
        try:
            return [base64.b64decode(image, validate=True) for image in self.images]
        except ValueError:
            raise InvalidRequest("images: not base64") from None


class Score(BaseModel):
    """One class of the `top` list."""

    label: str
    index: int
    score: float


class ShownView(BaseModel):
    """How a view was made, so that a student can be shown the same: blend, crop of the reflect-padded image, mirror."""

    top: int
    left: int
    mirrored: bool
    partner: int | None
    share: float


class SoftLabel(BaseModel):
    """The answer for one view of an image."""

    view: ShownView
    logits: list[float]
    probabilities: list[float]


class Prediction(BaseModel):
    """The answer for one image; `views`, the image itself first, comes when more than one was asked for."""

    label: str
    index: int
    score: float
    top: list[Score]
    logits: list[float]
    probabilities: list[float]
    views: list[SoftLabel] | None = None


class RemainingBudget(BaseModel):
    """What the caller's key has left; null is unlimited."""

    limit: int | None
    remaining: int | None


class Predictions(BaseModel):
    """The answer to a prediction request; `budget` comes with the `distill` tier."""

    model: str
    version: str
    tier: Literal["public", "distill"]
    request_id: str
    predictions: list[Prediction]
    budget: RemainingBudget | None = None


class InputSize(BaseModel):
    """Pixels of the network's input; other sizes are resized and centre-cropped."""

    height: int
    width: int


class ModelCard(BaseModel):
    """A hosted model, as this caller sees it."""

    name: str
    version: str
    classes: list[str]
    input: InputSize
    guard: list[str]
    tiers: list[str]


class ModelCards(BaseModel):
    """All hosted models."""

    models: list[ModelCard]


def refusals(*codes: str, media_type: str = PROBLEM) -> dict[int | str, dict[str, Any]]:
    """What a route's documentation says of the refusals with these codes, each with an example."""
    any_other: dict[str, Any] = {
        "description": "any other refusal",
        "content": {media_type: {"schema": PROBLEM_SCHEMA}},
    }
    if media_type == "application/json":
        any_other["model"] = Problem  # puts its schema where the references look for it
    answers: dict[int | str, dict[str, Any]] = {"default": any_other}
    for code in codes:
        status, title = STATUS[code]
        said = f"{answers[status]['description']}; " if status in answers else ""
        form = {media_type: {"schema": PROBLEM_SCHEMA, "examples": {}}}
        content = answers.setdefault(status, {"content": form})["content"]
        content[media_type]["examples"][code] = {"value": _example(code)}
        answers[status]["description"] = f"{said}`{code}`: {title}"
    return answers


def _example(code: str) -> dict[str, object]:
    """A refusal with this code, as it is sent."""
    said: dict[str, object] = orjson.loads(problem(code, STATUS[code][1], path="/", request_id="3f1d9a2c").body)
    return said


class Problem(BaseModel):
    """A refusal (RFC 9457); `error` is the same in one string."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str
    request_id: str
    error: str
