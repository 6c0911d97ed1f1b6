"""What an image key is: what an admin asks for, what admins and the holder see, and the key opened for one request.

An image key undoes a client's encryption of its images. Knows no store, no cipher and no pixel.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

ImageScheme = Literal["sealed", "pixel"]
PixelTransform = Literal["shf", "np", "ffx"]
ImageKeyState = Literal["active", "retiring", "retired"]
DAY_S = 24 * 3600
DEFAULT_OVERLAP_S, MAX_OVERLAP_S = DAY_S, 30 * DAY_S
Overlap = Annotated[int, Field(ge=0, le=MAX_OVERLAP_S, description="seconds that an older key still opens images")]


class ImageKeyGrant(BaseModel):
    """The image key that an admin asks for; `pixel` needs `transform` and `block`, `sealed` takes neither."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={
            "examples": [{"scheme": "sealed"}, {"scheme": "pixel", "transform": "shf", "block": 4}],
        },
    )

    scheme: ImageScheme
    transform: PixelTransform | None = None
    block: Annotated[Literal[2, 4, 8, 16] | None, Field(description="pixels of a block's side")] = None

    @model_validator(mode="after")
    def _pixel_names_its_transform(self) -> Self:
        if {self.transform is not None, self.block is not None} != {self.scheme == "pixel"}:
            raise ValueError("the scheme pixel needs `transform` and `block`, the scheme sealed takes neither")
        return self


class ImageKey(BaseModel):
    """An image key without its secret; one that is retiring still opens images until `ends_at`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kid: str
    scheme: ImageScheme
    transform: PixelTransform | None
    block: int | None
    created_at: datetime
    state: ImageKeyState
    ends_at: datetime | None


@dataclass(frozen=True)
class OpenedImageKey:
    """What one request needs to undo its caller's encryption; `secret` has 32 bytes."""

    kid: str
    scheme: ImageScheme
    transform: PixelTransform | None
    block: int | None
    secret: bytes = field(repr=False)


@dataclass(frozen=True)
class IssuedImageKey:
    """An image key just made, with the secret (32 bytes) that is shown this once."""

    record: ImageKey
    secret: bytes = field(repr=False)
