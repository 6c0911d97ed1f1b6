"""Encrypted images and locked models through the door of a caller."""

import base64
import io
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
import torch
from PIL import Image
from sdb_client.sealed import MEDIA_TYPE, seal
from sdb_client.transforms import Transform

from app.state import DEMO_SECRET
from keys.material import to_text, write_private
from models import bundles
from models.bundles import GuardSpec, InputSpec, LockSpec, Manifest
from models.key_stream import fingerprint
from models.lock import lock_transform
from tests.conftest import CLASSES, SECRET, Api, application, bearer, encode, settings_in, smooth_images

PREDICT = "/v1/models/tiny/predict"
SEALED = {"scheme": "sealed"}
REFUSED = "undecryptable-image"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


def picture(seed: int = 3, side: int = 48) -> np.ndarray:
    return smooth_images(1, side, seed)[0].permute(1, 2, 0).numpy()


def secret_of(image_key: dict[str, Any]) -> bytes:
    return base64.urlsafe_b64decode(image_key["secret"] + "=")


async def holder(
    api: Api, image_key: dict[str, Any], scopes: Sequence[str] = ("predict", "decrypt", "distill"), limit: int = 100
) -> dict[str, Any]:
    """A key of scope `decrypt` with an image key."""
    key: dict[str, Any] = await api.issue(limit, scopes=scopes, image_key=image_key)
    return key


def envelope(
    key: dict[str, Any], image: bytes, kid: str | None = None, model: str = "tiny", now: float | None = None
) -> bytes:
    own = key["image_key"]
    return seal(image, secret_of(own), kid=own["kid"] if kid is None else kid, model=model, now=now)


async def send(
    api: Api, key: dict[str, Any], content: bytes, params: Mapping[str, str | int] = {}, kind: str = MEDIA_TYPE
) -> httpx.Response:
    headers = bearer(key["api_key"]) | {"Content-Type": kind}
    return await api.client.post(PREDICT, content=content, headers=headers, params=params)


async def send_plain(
    api: Api, key: dict[str, Any], content: bytes, params: Mapping[str, str | int] = {}
) -> httpx.Response:
    return await send(api, key, content, params, kind="image/png")


def logits(answer: httpx.Response) -> list[float]:
    assert answer.status_code == 200, answer.text
    found: list[float] = answer.json()["predictions"][0]["logits"]
    return found


def is_refused(answer: httpx.Response) -> bool:
    """The one refusal, which says nothing of why."""
    body = answer.json()
    facts = {name: body[name] for name in ("code", "status", "detail", "error", "title")}
    return bool(
        facts
        == {
            "code": REFUSED,
            "status": 422,
            "detail": body["detail"],
            "error": f"{REFUSED}: {body['detail']}",
            "title": body["title"],
        }
        and answer.status_code == 422
        and "key" not in body["detail"].replace("image key", "")
    )


async def remaining(api: Api, key: dict[str, Any]) -> int:
    answer = await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))
    left: int = answer.json()["budget"]["remaining"]
    return left


async def test_a_sealed_image_is_answered_bit_for_bit_as_the_plain_one(api: Api, photo: bytes) -> None:
    key = await holder(api, SEALED)
    plain = logits(await send_plain(api, key, photo))
    assert logits(await send(api, key, envelope(key, photo))) == plain
    assert logits(await send_plain(api, key, envelope(key, photo), {"encryption": "sealed"})) == plain


async def test_sealed_images_travel_in_forms_and_in_json(api: Api, photo: bytes) -> None:
    key = await holder(api, SEALED)
    messages = [envelope(key, photo), envelope(key, encode(picture(9)))]
    parts = [("image", (f"{number}", message, MEDIA_TYPE)) for number, message in enumerate(messages)]
    form = await api.client.post(PREDICT, files=parts, data={"encryption": "sealed"}, headers=bearer(key["api_key"]))
    again = [base64.b64encode(envelope(key, image)).decode() for image in (photo, encode(picture(9)))]
    body = {"images": again, "parameters": {"encryption": "sealed"}}
    json = await api.client.post(PREDICT, json=body, headers=bearer(key["api_key"]))
    assert form.status_code == json.status_code == 200, form.text + json.text
    assert form.json()["predictions"] == json.json()["predictions"]
    assert len(form.json()["predictions"]) == 2


async def test_an_envelope_opens_once(api: Api, photo: bytes) -> None:
    key = await holder(api, SEALED)
    message = envelope(key, photo)
    assert (await send(api, key, message)).status_code == 200
    assert is_refused(await send(api, key, message))
    form = [("image", ("a", envelope(key, photo), MEDIA_TYPE))] * 2
    twice = await api.client.post(PREDICT, files=form, data={"encryption": "sealed"}, headers=bearer(key["api_key"]))
    assert is_refused(twice)


async def test_an_envelope_of_a_request_that_failed_may_come_again(api: Api, photo: bytes) -> None:
    key = await holder(api, SEALED, limit=0)
    message = envelope(key, photo)
    for _ in range(2):
        assert (await send(api, key, message)).json()["code"] == "quota-exceeded"


async def test_every_reason_not_to_open_is_one_refusal(api: Api, photo: bytes) -> None:
    key, other = await holder(api, SEALED), await holder(api, SEALED)
    pixel = await holder(api, {"scheme": "pixel", "transform": "shf", "block": 4})
    fresh = envelope(key, photo)
    middle = len(fresh) // 2
    messages = {
        "foreign kid": envelope(other, photo),
        "unknown kid": envelope(key, photo, kid="img_unknown"),
        "foreign secret": seal(photo, secret_of(other["image_key"]), kid=key["image_key"]["kid"], model="tiny"),
        "kid of the other scheme": envelope(pixel, photo),
        "another model": envelope(key, photo, model="cifar10"),
        "a changed byte": fresh[:middle] + bytes([fresh[middle] ^ 1]) + fresh[middle + 1 :],
        "cut off": fresh[:-1],
        "more after it": fresh + b"\0",
        "no envelope": photo,
        "too old": envelope(key, photo, now=time.time() - 600),
        "from the future": envelope(key, photo, now=time.time() + 600),
    }
    answers = {reason: await send(api, key, message) for reason, message in messages.items()}
    assert [reason for reason, answer in answers.items() if not is_refused(answer)] == []
    assert len({answer.json()["detail"] for answer in answers.values()}) == 1
    assert await remaining(api, key) == 100


async def test_a_retired_image_key_opens_nothing(api: Api, photo: bytes) -> None:
    key = await holder(api, SEALED)
    kid = key["image_key"]["kid"]
    retired = await api.client.delete(f"/admin/v1/keys/{key['id']}/image-keys/{kid}", headers=api.admin)
    assert retired.status_code == 200, retired.text
    assert is_refused(await send(api, key, envelope(key, photo)))


async def test_what_is_sealed_must_be_an_image(api: Api) -> None:
    key = await holder(api, SEALED)
    assert (await send(api, key, envelope(key, b"no image"))).json()["code"] == "unsupported-image"
    assert (await send(api, key, envelope(key, b"\xff\xd8\xff"))).json()["code"] == "undecodable-image"
    assert await remaining(api, key) == 100


@pytest.mark.parametrize("params", [{"encryption": "sealed"}, {"encryption": "pixel", "image_key": "img_x"}])
async def test_encrypted_images_need_the_scope(api: Api, photo: bytes, params: dict[str, str]) -> None:
    key = await api.issue()
    answer = await send_plain(api, key, photo, params)
    assert (answer.status_code, answer.json()["code"]) == (403, "missing-scope")
    anonymous = await api.client.post(PREDICT, content=photo, params=params)
    assert anonymous.status_code == 403


async def test_a_decrypted_image_is_charged_without_soft_labels_too(api: Api, photo: bytes) -> None:
    key = await holder(api, SEALED, scopes=["predict", "decrypt"])
    answer = await send(api, key, envelope(key, photo))
    assert answer.json()["tier"] == "public"
    assert answer.json()["budget"] == {"remaining": 99, "limit": 100}
    assert await remaining(api, key) == 99


def stored(values: np.ndarray) -> bytes:
    """An encrypted picture as a lossless file: codes as 16-bit grey, three values a pixel."""
    if values.dtype == np.uint8:
        return encode(values)
    buffer = io.BytesIO()
    Image.fromarray(values.reshape(len(values), -1)).save(buffer, "PNG")
    return buffer.getvalue()


def transformed(key: dict[str, Any], pixels: np.ndarray) -> np.ndarray:
    image_key = key["image_key"]
    steps, block, kid = [image_key["transform"]], image_key["block"], image_key["kid"]
    return Transform.from_secret(secret_of(image_key), kid=kid, model="tiny", steps=steps, block=block).apply(pixels)


@pytest.mark.parametrize("transform", ["shf", "np", "ffx"])
@pytest.mark.parametrize("block", [2, 16])
async def test_a_pixel_image_is_answered_as_the_plain_one(api: Api, transform: str, block: int) -> None:
    key = await holder(api, {"scheme": "pixel", "transform": transform, "block": block})
    pixels = picture()
    params = {"encryption": "pixel", "image_key": key["image_key"]["kid"]}
    encrypted = transformed(key, pixels)
    assert not np.array_equal(encrypted, pixels)
    found = logits(await send_plain(api, key, stored(encrypted), params))
    assert found == logits(await send_plain(api, key, encode(pixels)))


async def test_a_wrong_pixel_key_of_ones_own_gives_another_answer(api: Api) -> None:
    key = await holder(api, {"scheme": "pixel", "transform": "np", "block": 4})
    issued = await api.client.post(
        f"/admin/v1/keys/{key['id']}/image-keys",
        json={"scheme": "pixel", "transform": "np", "block": 4},
        headers=api.admin,
    )
    assert issued.status_code == 201, issued.text
    encrypted = encode(transformed(key, picture()))
    both = [
        logits(await send_plain(api, key, encrypted, {"encryption": "pixel", "image_key": kid}))
        for kid in (key["image_key"]["kid"], issued.json()["kid"])
    ]
    assert both[0] != both[1]


async def test_a_pixel_image_that_cannot_be_one_is_refused(api: Api) -> None:
    key, other = [await holder(api, {"scheme": "pixel", "transform": "shf", "block": 4}) for _ in range(2)]
    params = {"encryption": "pixel", "image_key": key["image_key"]["kid"]}
    alpha = io.BytesIO()
    Image.fromarray(picture()).convert("RGBA").save(alpha, "PNG")
    cases = {
        "jpeg": (encode(picture(), "JPEG"), params, "unsupported-image"),
        "lossy webp": (encode(picture(), "WEBP"), params, "unsupported-image"),
        "alpha": (alpha.getvalue(), params, "unsupported-image"),
        "odd size": (encode(picture(side=46)), params, "invalid-request"),
        "no key named": (encode(picture()), {"encryption": "pixel"}, "invalid-request"),
        "foreign key": (encode(picture()), params | {"image_key": other["image_key"]["kid"]}, REFUSED),
        "unknown key": (encode(picture()), params | {"image_key": "img_nobody"}, REFUSED),
        "key without encryption": (encode(picture()), {"image_key": key["image_key"]["kid"]}, "invalid-request"),
        "unknown encryption": (encode(picture()), {"encryption": "rot13"}, "invalid-request"),
    }
    found = {}
    for reason, (content, parameters, _) in cases.items():
        answer = await send_plain(api, key, content, parameters)
        found[reason] = answer.json()["code"]
    assert found == {reason: code for reason, (_, _, code) in cases.items()}


@pytest.fixture(scope="module")
def locked_zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One bundle, "tiny", locked and untrained: its answers to transformed images are whatever they are."""
    manifest = Manifest(
        name="tiny",
        architecture="cifar_resnet8",
        classes=CLASSES,
        input=InputSpec(height=32, width=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        guard=GuardSpec(kind="lock", lam=1.0, passes=1, secret_fingerprint=fingerprint(SECRET)),
        lock=LockSpec(steps=("shf", "np"), block=4),
    )
    torch.manual_seed(0)
    box = bundles.assemble(manifest, SECRET)
    box.release.calibrate(smooth_images(512))
    folder = tmp_path_factory.mktemp("locked")
    bundles.save(folder / "tiny", manifest, box.state_dict(), SECRET)
    write_private(folder / "tiny" / DEMO_SECRET, to_text(SECRET).encode())
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def locked(tmp_path_factory: pytest.TempPathFactory, locked_zoo: Path) -> AsyncIterator[Api]:
    async with application(settings_in(tmp_path_factory.mktemp("locked-api"), locked_zoo)) as api:
        yield api


async def test_unlock_and_the_models_key_give_the_same_answer_and_nothing_else_does(locked: Api) -> None:
    pixels = picture(side=32)
    transform = lock_transform(SECRET, "tiny", ("shf", "np"), 4)
    unlocked = await locked.issue(scopes=["predict", "distill", "unlock"], mark=0)
    without = await locked.issue(scopes=["predict", "distill"], mark=0)
    right = logits(await send_plain(locked, unlocked, encode(pixels)))
    sent = encode(transform.apply(pixels))
    lock = {"encryption": "lock"}
    for key, params in ((without, lock), (without, {}), (unlocked, lock)):
        assert logits(await send_plain(locked, key, sent, params)) == pytest.approx(right, abs=1e-4)
    for key, content in ((without, encode(pixels)), (unlocked, sent)):
        assert logits(await send_plain(locked, key, content)) != pytest.approx(right, abs=1e-2)


async def test_an_unlocked_answer_is_charged_and_a_transformed_one_is_not(locked: Api) -> None:
    key = await locked.issue(scopes=["predict", "unlock"])
    image = encode(picture(side=32))
    assert (await send_plain(locked, key, image)).json()["budget"]["remaining"] == 99
    answer = await send_plain(locked, key, image, {"encryption": "lock"})
    assert "budget" not in answer.json()
    assert await remaining(locked, key) == 99


async def test_the_catalogue_says_that_a_model_is_locked(locked: Api, api: Api) -> None:
    assert (await locked.client.get("/v1/models/tiny")).json()["guard"] == ["lock"]
    assert (await api.client.get("/v1/models/tiny")).json()["guard"] == ["sdb"]


async def test_transformed_images_are_of_the_models_size_and_for_locked_models(locked: Api, api: Api) -> None:
    lock: dict[str, str | int] = {"encryption": "lock"}
    refusals = [
        await locked.client.post(PREDICT, content=encode(picture(side=36)), params=lock),
        await api.client.post(PREDICT, content=encode(picture(side=32)), params=lock),
        await locked.client.post(PREDICT, content=encode(picture(side=32), "JPEG"), params=lock),
        await send_plain(locked, await locked.issue(), encode(picture(side=32)), lock | {"views": 2}),
    ]
    codes = [answer.json()["code"] for answer in refusals]
    assert codes == ["invalid-request", "invalid-request", "unsupported-image", "invalid-request"]


async def test_a_locked_model_takes_sealed_images_too(locked: Api, photo: bytes) -> None:
    scopes = ["predict", "decrypt", "distill", "unlock"]
    key = await holder(locked, SEALED, scopes=scopes)
    plain = logits(await send_plain(locked, key, photo))
    assert logits(await send(locked, key, envelope(key, photo))) == plain
