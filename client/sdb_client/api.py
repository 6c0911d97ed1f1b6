"""The calls that both clients have: each described once, as a request and how its answer is read."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sdb_client.answers.inference import Inference
from sdb_client.answers.keys import Key, NewImageKey
from sdb_client.answers.predictions import Predictions
from sdb_client.images import Images
from sdb_client.resources.audit import Audit
from sdb_client.resources.inference import Floats, Output, inference
from sdb_client.resources.keys import Keys
from sdb_client.resources.models import Models
from sdb_client.resources.prediction import prediction
from sdb_client.resources.sending import Encrypted
from sdb_client.transport.calls import Asker, Kind, call
from sdb_client.transport.request import Request, reader

if TYPE_CHECKING:
    from sdb_client.encryption import Encryption

BOTH: Sequence[Output] = ("logits", "probabilities")


class Api(Asker[Kind]):
    """Everything that can be asked of a server."""

    @property
    def models(self) -> Models[Kind]:
        """What is hosted."""
        return Models(self)

    @property
    def keys(self) -> Keys[Kind]:
        """Issue, change and end keys: for admins."""
        return Keys(self)

    @property
    def audit(self) -> Audit[Kind]:
        """Who changed what: for admins."""
        return Audit(self)

    @property
    def encrypt(self) -> "Encryption":
        """Images as only the server can read them."""
        from sdb_client.encryption import Encryption  # noqa: PLC0415 - its ciphers load in a tenth of a second

        return Encryption()

    @call
    def me(self) -> Request[Key]:
        """What the presented key may do, and what is left of its budget."""
        return Request("GET", "/v1/keys/self", reader(Key))

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
        return prediction(
            images,
            model,
            top_k=top_k,
            temperature=temperature,
            views=views,
            mix=mix,
            encryption=encryption,
            image_key=image_key,
            idempotency_key=idempotency_key,
        )

    @call
    def infer(
        self,
        model: str,
        images: Images,
        *,
        outputs: Sequence[Output] = BOTH,
        dtype: Floats = "float32",
        version: str | None = None,
        temperature: float | None = None,
        views: int | None = None,
        mix: float | None = None,
        encryption: Encrypted | None = None,
        image_key: NewImageKey | str | None = None,
        idempotency_key: str | None = None,
    ) -> Request[Inference]:
        """Classify many images at once, in arrays: pixels uint8 [N, H, W, 3] need no decoding on either side.

        `outputs` are some of "label", "index", "logits", "probabilities"; `dtype` is that of the last two. `version`
        refuses any other version of the model. The rest is as in `predict`; `views` above 1 are refused by servers
        whose protocol has no place for them.

        Raises:
            APIError: refused; `QuotaExceeded` when the budget is spent.
            InvalidImage: one of them is no image.
        """
        return inference(
            model,
            images,
            outputs=outputs,
            dtype=dtype,
            version=version,
            temperature=temperature,
            views=views,
            mix=mix,
            encryption=encryption,
            image_key=image_key,
            idempotency_key=idempotency_key,
        )
