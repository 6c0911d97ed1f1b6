"""`client.predict`: the server's own interface, one image or many, with a name for every number."""

from sdb_client.answers.keys import NewImageKey
from sdb_client.answers.predictions import Predictions
from sdb_client.images import Images
from sdb_client.resources.sending import Encrypted, sent
from sdb_client.transport.request import Request, given, named, path, reader

BYTES = {"Content-Type": "application/octet-stream"}


def prediction(
    images: Images,
    model: str,
    *,
    top_k: int | None,
    temperature: float | None,
    views: int | None,
    mix: float | None,
    encryption: Encrypted | None,
    image_key: NewImageKey | str | None,
    idempotency_key: str | None,
) -> Request[Predictions]:
    """The request: one image as it is, several as the parts of a form."""
    ready = sent(images, model, encryption, image_key)
    query = given(
        top_k=top_k,
        temperature=temperature,
        views=views,
        mix=mix,
        encryption=ready.encryption,
        image_key=ready.image_key,
    )
    where, headers = path("v1", "models", model, "predict"), named(idempotency_key)
    if len(ready.images) == 1:
        (image,) = ready.images
        return Request("POST", where, reader(Predictions), query=query, headers=headers | BYTES, content=image)
    parts = [("image", (f"{number}", image)) for number, image in enumerate(ready.images)]
    return Request("POST", where, reader(Predictions), query=query, headers=headers, parts=parts)
