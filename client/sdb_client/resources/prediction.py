"""`client.predict`: the server's own interface, one image or many, with a name for every number."""

from sdb_client.answers.keys import NewImageKey
from sdb_client.answers.predictions import Predictions
from sdb_client.images import Images
from sdb_client.resources.sending import Encrypted, sent
from sdb_client.transport.calls import Asker, Kind, call
from sdb_client.transport.request import Request, given, named, path, reader

BYTES = {"Content-Type": "application/octet-stream"}


class Predicting(Asker[Kind]):
    """A client that predicts."""

    @call
    def predict(
        self,
        images: Images,
        model: str,
        *,
        top_k: int | None = None,
        temperature: float | None = None,
        views: int | None = None,
        mix: float | None = None,
        encryption: Encrypted | None = None,
        image_key: NewImageKey | str | None = None,
        idempotency_key: str | None = None,
    ) -> Request[Predictions]:
        """Classify one image or several (`sdb_client.images.Images`); None is the server's default.

        `top_k` classes are listed in `top`; `temperature` is that of `probabilities`. With the scope `distill`: `views`
        of each image, with up to `mix` of another image blended in, one soft label each. With `image_key` as the
        server's answer had it the images are encrypted here; with its id, or for `encryption="lock"`, they are already.
        A retry under the same `idempotency_key` is charged once; the client's own retries are so without it.

        Raises:
            APIError: refused; `QuotaExceeded` when the budget is spent.
            InvalidImage: one of them is no image.
        """
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
