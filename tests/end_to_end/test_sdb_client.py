"""The client library before the shipped application: in its process, and over a socket, blocking and awaiting."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sdb_client import AsyncClient, Client, NewKey
from sdb_client.errors import (
    IdempotencyMismatch,
    InvalidCredential,
    InvalidRequest,
    MissingScope,
    PreconditionFailed,
    QuotaExceeded,
    UndecryptableImage,
    UnknownKey,
    UnknownModel,
    UnsupportedImage,
)

from app.settings import Settings
from tests.conftest import CLASSES, Server, application, encode, smooth_images

Act = Callable[[Any], Any]


@dataclass(frozen=True)
class Door:
    """A server, and a way to ask it: `open` makes a client that presents a key."""

    open: Callable[..., Client | AsyncClient]
    admin_key: str

    async def ask(self, api_key: str, act: Act) -> Any:  # noqa: ANN401 - whatever the call returns
        """What `act` gets of a new client."""
        return await self.of(self.open(api_key), act)

    async def of(self, client: Client | AsyncClient, act: Act) -> Any:  # noqa: ANN401
        """What `act` gets of this client; an iterator as a list."""
        if isinstance(client, Client):
            return await asyncio.to_thread(lambda: _listed(act(client)))
        found = act(client)
        return [item async for item in found] if isinstance(found, AsyncIterator) else await found

    async def issue(self, *scopes: str, limit: int | None = 10, **grant: object) -> NewKey:
        """A new client key."""
        act = lambda c: c.keys.create("partner", scopes=scopes, budget={"limit": limit}, **grant)  # noqa: E731
        key: NewKey = await self.ask(self.admin_key, act)
        return key


def _listed(found: Any) -> Any:  # noqa: ANN401
    return list(found) if isinstance(found, Iterator) else found


@pytest.fixture(params=["in-process", "blocking", "awaiting"])
async def door(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Door]:
    if request.param == "in-process":
        async with application(settings) as api:
            http = api.client
            yield Door(lambda api_key, **options: AsyncClient(api_key, http_client=http, **options), api.admin_key)
        return
    running: Server = request.getfixturevalue("server")
    admin_key = (running.state_dir / "admin.key").read_text().strip()
    if request.param == "blocking":
        with httpx.Client() as connections:
            yield Door(
                lambda api_key, **options: Client(api_key, running.url, http_client=connections, **options), admin_key
            )
        return
    async with httpx.AsyncClient() as connections:
        yield Door(
            lambda api_key, **options: AsyncClient(api_key, running.url, http_client=connections, **options), admin_key
        )


def photo(height: int = 32, width: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    found: np.ndarray[Any, np.dtype[np.uint8]] = smooth_images(1, 48, seed=9)[0].permute(1, 2, 0).numpy()
    return found[:height, :width]


async def test_everybody_is_answered_and_a_partner_is_taught(door: Door) -> None:
    key = await door.issue("distill")
    public = await door.ask("", lambda c: c.predict(photo(), "tiny"))
    client = door.open(key.api_key)
    several = [photo(), encode(photo(), "PNG"), Image.fromarray(photo())]
    taught = await door.of(client, lambda c: c.predict(several, "tiny", top_k=2, temperature=3.0))
    assert (public.tier, public.budget, taught.tier, taught.budget.remaining) == ("public", None, "distill", 7)
    assert {len(prediction.top) for prediction in taught.predictions} == {2}
    assert {prediction.label for prediction in taught.predictions} == {public.predictions[0].label}
    assert len({prediction.logits for prediction in taught.predictions}) == 1, (
        "an array, a file and a PIL image are one"
    )
    views = (await door.of(client, lambda c: c.predict(photo(), "tiny", views=2, mix=0.1))).predictions[0].views
    assert len(views) == 2
    own = await door.of(client, lambda c: c.me())
    assert (own.id, own.budget.remaining) == (key.id, 5)
    cards = await door.of(client, lambda c: c.models.list())
    assert [(card.name, card.classes, card.tiers) for card in cards] == [("tiny", CLASSES, ("public", "distill"))]


async def test_arrays_are_answered_as_files_are(door: Door) -> None:
    client = door.open((await door.issue("distill", limit=None)).api_key)
    batch = smooth_images(5, seed=2).permute(0, 2, 3, 1).contiguous().numpy()
    outputs = ["label", "index", "logits", "probabilities"]
    arrays = await door.of(client, lambda c: c.infer("tiny", batch, outputs=outputs, version="1", temperature=2.0))
    files = await door.of(client, lambda c: c.infer("tiny", [encode(image) for image in batch], temperature=2.0))
    native = await door.of(client, lambda c: c.predict(batch, "tiny", temperature=2.0))
    for found in (files, native):
        logits = found.logits if found is files else [prediction.logits for prediction in found.predictions]
        np.testing.assert_allclose(arrays.logits, logits, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(arrays.index, arrays.logits.argmax(1))
    assert arrays.label.tolist() == [CLASSES[index] for index in arrays.index]
    np.testing.assert_allclose(arrays.probabilities.sum(1), 1, rtol=1e-5)
    halves = await door.of(client, lambda c: c.infer("tiny", batch, dtype="float16", outputs=["logits"]))
    np.testing.assert_allclose(halves.logits, arrays.logits, rtol=2e-3, atol=2e-3)
    assert (arrays.tier, arrays.budget_remaining, halves.logits.dtype) == ("distill", None, np.float16)


async def test_a_repeated_name_is_charged_once_and_a_spent_budget_is_said_at_once(door: Door) -> None:
    client = door.open((await door.issue("distill", limit=2)).api_key)
    for _ in range(3):
        answer = await door.of(client, lambda c: c.predict(photo(), "tiny", idempotency_key="mine"))
    assert answer.budget.remaining == 1
    with pytest.raises(IdempotencyMismatch):
        await door.of(client, lambda c: c.predict(photo(31), "tiny", idempotency_key="mine"))
    await door.of(client, lambda c: c.infer("tiny", photo()[None]))
    with pytest.raises(QuotaExceeded) as caught:
        await door.of(client, lambda c: c.predict(photo(), "tiny"))
    assert (caught.value.status, caught.value.retry_after) == (429, None)
    assert caught.value.request_id


@pytest.mark.parametrize("grant", [{"scheme": "sealed"}, {"scheme": "pixel", "transform": "ffx", "block": 4}])
async def test_an_image_key_encrypts_here_and_the_answer_is_that_of_the_plain_image(
    door: Door, grant: dict[str, object]
) -> None:
    key = await door.issue("distill", "decrypt", image_key=grant)
    client, image_key = door.open(key.api_key), key.image_key
    plain = await door.of(client, lambda c: c.predict(photo(), "tiny"))
    hidden = await door.of(client, lambda c: c.predict(photo(), "tiny", image_key=image_key))
    assert hidden.predictions == plain.predictions
    pair = await door.of(client, lambda c: c.infer("tiny", np.stack([photo(), photo()]), image_key=image_key))
    np.testing.assert_allclose(pair.logits, [plain.predictions[0].logits] * 2, rtol=1e-3, atol=1e-3)
    elsewhere = door.open((await door.issue("decrypt")).api_key)
    with pytest.raises(UndecryptableImage):
        await door.of(elsewhere, lambda c: c.predict(photo(), "tiny", image_key=image_key))


async def test_a_key_has_a_life_and_its_holder_s_client_follows_it(door: Door) -> None:
    key = await door.issue("predict")
    partner, admin = door.open(key.api_key), door.open(door.admin_key)
    assert (await door.of(partner, lambda c: c.predict(photo(), "tiny"))).tier == "public"
    read = await door.of(admin, lambda c: c.keys.get(key.id))
    changed = await door.of(admin, lambda c: c.keys.update(key.id, scopes={"distill"}, if_match=read.etag))
    assert changed.scopes == ("distill", "predict")
    with pytest.raises(PreconditionFailed):
        await door.of(admin, lambda c: c.keys.update(key.id, name="late", if_match=read.etag))
    assert (await door.of(partner, lambda c: c.predict(photo(), "tiny"))).tier == "distill"
    for _ in range(2):
        topped = await door.of(admin, lambda c: c.keys.top_up(key.id, 5, idempotency_key=f"invoice-{key.id}"))
    assert topped.budget.granted == 5

    holder = door.open(key.api_key, auth="token")
    assert (await door.of(holder, lambda c: c.me())).id == key.id
    rotated = await door.of(admin, lambda c: c.keys.rotate(key.id, overlap_s=60))
    assert (await door.of(holder, lambda c: c.me())).id == key.id, "its token ended; the old key fetched the next"
    assert (await door.ask(rotated.api_key, lambda c: c.me())).id == key.id
    await door.of(admin, lambda c: c.keys.disable(key.id))
    for client in (partner, holder):
        with pytest.raises(InvalidCredential):
            await door.of(client, lambda c: c.me())
    await door.of(admin, lambda c: c.keys.enable(key.id))
    for client in (partner, holder):
        assert (await door.of(client, lambda c: c.me())).id == key.id
    assert (await door.of(admin, lambda c: c.keys.revoke(key.id))).state == "revoked"
    for client in (partner, holder):
        with pytest.raises(InvalidCredential):
            await door.of(client, lambda c: c.me())

    usage = await door.of(admin, lambda c: c.keys.usage(key.id, bucket="hour"))
    assert ("tiny", "served", 1) in [(bucket.model, bucket.outcome, bucket.images) for bucket in usage]
    ledger = await door.of(admin, lambda c: c.keys.ledger(key.id))
    assert [line.kind for line in ledger if line.kind != "limit"] == ["charge", "top-up"]
    entries = await door.of(admin, lambda c: c.audit.list(target=key.id, limit=2))
    assert [entry.action for entry in entries if entry.action.startswith("key.")] == [
        "key.revoke",
        "key.enable",
        "key.disable",
        "key.rotate",
        "key.top-up",
        "key.update",
        "key.create",
    ]
    assert (await door.of(admin, lambda c: c.audit.verify())).intact


async def test_lists_and_image_keys_are_those_of_the_server(door: Door) -> None:
    admin = door.open(door.admin_key)
    made = [await door.issue("decrypt", metadata={"contract": "find me"}) for _ in range(3)]
    found = await door.of(admin, lambda c: c.keys.list(search="find me", limit=2))
    assert [key.id for key in found][:3] == [key.id for key in reversed(made)]
    first = await door.of(admin, lambda c: c.keys.image_keys.create(made[0].id, "sealed"))
    second = await door.of(admin, lambda c: c.keys.image_keys.create(made[0].id, "sealed", overlap_s=0))
    retired = await door.of(admin, lambda c: c.keys.image_keys.retire(made[0].id, second.kid))
    shown = await door.of(admin, lambda c: c.keys.image_keys.list(made[0].id))
    assert [image_key.kid for image_key in shown] == [second.kid, first.kid]
    assert retired.state == "retired"


@pytest.mark.parametrize(
    ("act", "refusal"),
    [
        (lambda c: c.models.get("nothing"), UnknownModel),
        (lambda c: c.predict(b"no picture", "tiny"), UnsupportedImage),
        (lambda c: c.predict(photo(), "tiny", views=2), MissingScope),
        (lambda c: c.predict(photo(), "tiny", top_k=0), InvalidRequest),
        (lambda c: c.infer("tiny", photo()[None], version="9"), UnknownModel),
        (lambda c: c.keys.get("key_0"), InvalidCredential),
        (lambda c: c.me(), InvalidCredential),
    ],
)
async def test_a_stranger_is_refused_by_name(door: Door, act: Act, refusal: type[Exception]) -> None:
    with pytest.raises(refusal):
        await door.ask("", act)


async def test_planes_are_apart(door: Door) -> None:
    key = await door.issue("predict")
    with pytest.raises((MissingScope, InvalidCredential)):
        await door.ask(key.api_key, lambda c: c.keys.get(key.id))
    with pytest.raises(MissingScope):
        await door.ask(door.admin_key, lambda c: c.predict(photo(), "tiny"))
    with pytest.raises(UnknownKey):
        await door.ask(door.admin_key, lambda c: c.keys.get("key_0"))
