"""`sdb keys image-keys` and its kin: what opens a client's encrypted images."""

from typing import Annotated

import typer

from app.commands import grants
from app.commands.output import Json, report
from app.commands.service import ACT, run
from app.errors import validated
from app.key_schemas import NewImageKey
from keys.image_keys import DEFAULT_OVERLAP_S, MAX_OVERLAP_S, ImageKeyGrant

commands = typer.Typer()
OverlapS = Annotated[int, typer.Option(min=0, max=MAX_OVERLAP_S, help="seconds that it still opens images")]
SCHEME = "sealed, or pixel:TRANSFORM:BLOCK like pixel:shf:4"


@commands.command()
def image_keys(key_id: str, as_json: Json = False) -> None:
    """The image keys of a key, newest first, the retired ones too; never a secret."""
    found = run(lambda keys: keys.image_keys.of(key_id))
    report([image_key.model_dump(mode="json") for image_key in found], as_json)


@commands.command()
def new_image_key(
    key_id: str,
    scheme: Annotated[str, typer.Argument(help=SCHEME)],
    overlap_s: OverlapS = DEFAULT_OVERLAP_S,
    as_json: Json = False,
) -> None:
    """Issue an image key; active ones of its scheme retire. Its secret is printed once and can never be shown again."""
    grant = validated(ImageKeyGrant, grants.image_key(scheme))
    issued = run(lambda keys: keys.image_keys.issue(key_id, grant, overlap_s, ACT))
    report(NewImageKey.of(issued).model_dump(mode="json"), as_json)


@commands.command()
def retire_image_key(key_id: str, kid: str, overlap_s: OverlapS = 0, as_json: Json = False) -> None:
    """Let an image key end."""
    retired = run(lambda keys: keys.image_keys.retire(key_id, kid, overlap_s, ACT))
    report(retired.model_dump(mode="json"), as_json)
