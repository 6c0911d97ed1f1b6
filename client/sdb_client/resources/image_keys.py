"""`client.keys.image_keys`: what opens a client's encrypted images, for admins."""

from typing import Literal, NotRequired, TypedDict

from sdb_client.answers.keys import ImageKey, ImageKeys, NewImageKey
from sdb_client.resources.changes import change
from sdb_client.transport.calls import Kind, Resource, call
from sdb_client.transport.request import Request, given, path, read, reader

Scheme = Literal["sealed", "pixel"]
PixelTransform = Literal["shf", "np", "ffx"]
Block = Literal[2, 4, 8, 16]


class ImageKeyGrant(TypedDict):
    """The image key that is asked for; "pixel" needs `transform` and `block`, "sealed" takes neither."""

    scheme: Scheme
    transform: NotRequired[PixelTransform]
    block: NotRequired[Block]


class ImageKeysOfKeys(Resource[Kind]):
    """The image keys of each key."""

    @call
    def create(
        self,
        key_id: str,
        scheme: Scheme,
        *,
        transform: PixelTransform | None = None,
        block: Block | None = None,
        overlap_s: int | None = None,
        idempotency_key: str | None = None,
    ) -> Request[NewImageKey]:
        """A new image key, its secret in this answer and nowhere else.

        The active ones of its scheme open images `overlap_s` seconds more; the server's default is a day.
        """
        document = given(scheme=scheme, transform=transform, block=block, overlap_s=overlap_s)
        where = ("keys", key_id, "image-keys")
        return change(reader(NewImageKey), *where, document=document, idempotency_key=idempotency_key)

    @call
    def list(self, key_id: str) -> Request[tuple[ImageKey, ...]]:
        """All image keys of a key, newest first, the retired ones too."""
        where = path("admin", "v1", "keys", key_id, "image-keys")
        return Request("GET", where, lambda response: read(response.content, ImageKeys).image_keys)

    @call
    def retire(
        self, key_id: str, kid: str, *, overlap_s: int = 0, idempotency_key: str | None = None
    ) -> Request[ImageKey]:
        """Let an image key end in `overlap_s` seconds."""
        where, query = ("keys", key_id, "image-keys", kid), {"overlap_s": overlap_s}
        return change(reader(ImageKey), *where, query=query, idempotency_key=idempotency_key, method="DELETE")
