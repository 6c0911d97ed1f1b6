"""What follows when a caller is suspected: nothing, less, or an end; and for nobody else anything."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.main import create_app
from app.settings import Settings
from app.watch import coarsened
from keys.errors import ConfigurationError
from models import bundles
from models.watch import FILE, Reference
from tests.app.scraping import scrape
from tests.conftest import CLASSES, Api, bearer, encode, smooth_images

PREDICT = "/v1/models/tiny/predict"
SENT = 40  # images; from the 21st on the threshold is passed
PICTURES = [encode(image) for image in smooth_images(SENT).permute(0, 2, 3, 1).numpy()]


@pytest.fixture(params=[50.0])
def watched(request: pytest.FixtureRequest, tmp_path: Path, zoo: Path) -> Path:
    """A folder of models of which every image falls short of the certainty that their owner's images have."""
    folder = tmp_path / "zoo"
    shutil.copytree(zoo, folder)
    manifest = bundles.load_manifest(folder / "tiny")
    reference = Reference(
        weights_sha256=manifest.sha256[bundles.WEIGHTS],
        quantiles=((request.param, request.param + 1),) * len(CLASSES),
        allowance=0.2,
        threshold=6.0,
    )
    reference.save(folder / "tiny")
    return folder


@asynccontextmanager
async def serving(folder: Path, state: Path, action: str) -> AsyncIterator[Api]:
    """The application, with callers of the address 10.0.0.1."""
    settings = Settings.model_validate(
        {"state_dir": state, "models_dir": folder, "device": "cpu", "engine": "eager", "watch": action}
    )
    app = create_app(settings)
    async with app.router.lifespan_context(app), client(app, "10.0.0.1") as one:
        yield Api(one, app, (state / "admin.key").read_text().strip())


def client(app: object, address: str) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://box")


async def ask(one: httpx.AsyncClient, count: int = SENT, headers: dict[str, str] | None = None) -> httpx.Response:
    return await one.post(PREDICT, files=[("image", picture) for picture in PICTURES[:count]], headers=headers)


async def entries(api: Api, target: str) -> list[dict[str, object]]:
    """What the audit log says of a caller, oldest first, once the alarm is written."""
    await api.app.state.services.watch.close()
    answer = await api.client.get("/admin/v1/audit", params={"target": target}, headers=api.admin)
    found: list[dict[str, object]] = answer.json()["entries"]
    return found[::-1]


async def test_an_alarm_is_counted_and_logged_once_and_changes_no_answer(watched: Path, tmp_path: Path) -> None:
    async with serving(watched, tmp_path / "var", "off") as api:
        assert api.app.state.services.watch is None
        before = (await ask(api.client)).json()["predictions"]
    async with serving(watched, tmp_path / "var", "alarm") as api:
        answers = [await ask(api.client) for _ in range(3)]
        for answer in answers:
            for was, now in zip(before, answer.json()["predictions"], strict=True):
                assert now["index"] == was["index"]
                np.testing.assert_allclose(now["logits"], was["logits"], rtol=1e-4, atol=1e-4)
        (entry,) = await entries(api, "10.0.0.1")
        assert (entry["action"], entry["actor"], entry["address"]) == ("watch.alarm", "watch", "10.0.0.1")
        assert entry["detail"] == {"model": "tiny", "action": "alarm", "images": SENT}
        metrics = await scrape(api.client, **api.admin)
        assert metrics.value("sdb_watch_alarms_total", model="tiny", caller="address", action="alarm") == 1
        assert (await api.client.get("/admin/v1/audit/verify", headers=api.admin)).json()["intact"]


async def test_a_suspect_is_slowed_down_and_its_neighbour_is_not(watched: Path, tmp_path: Path) -> None:
    async with serving(watched, tmp_path / "var", "throttle") as api, client(api.app, "10.0.0.2") as neighbour:
        key = await api.issue()
        assert (await ask(api.client)).status_code == 200
        assert [(await ask(api.client, 20)).status_code for _ in range(2)] == [200, 429]
        refused = await ask(api.client, 20)
        assert refused.json()["code"] == "rate-limited"
        assert int(refused.headers["retry-after"]) > 0
        assert (await ask(neighbour, 20)).status_code == 200
        assert (await ask(api.client, 20, bearer(key["api_key"]))).status_code == 200  # a key is not its address


async def test_a_suspected_key_gets_what_everybody_gets_and_pays_nothing(watched: Path, tmp_path: Path) -> None:
    async with serving(watched, tmp_path / "var", "coarsen") as api:
        key, other = await api.issue(), await api.issue()
        first, second = [(await ask(api.client, headers=bearer(key["api_key"]))).json() for _ in range(2)]
        assert (first["tier"], second["tier"]) == ("distill", "public")
        assert [one["index"] for one in first["predictions"]] == [one["index"] for one in second["predictions"]]
        held = (await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))).json()
        assert held["budget"]["remaining"] == 100 - SENT
        views = await api.client.post(f"{PREDICT}?views=2", content=PICTURES[0], headers=bearer(key["api_key"]))
        assert views.json()["code"] == "missing-scope"
        assert (await ask(api.client, headers=bearer(other["api_key"]))).json()["tier"] == "distill"


async def test_a_suspected_key_is_disabled_until_an_admin_enables_it(watched: Path, tmp_path: Path) -> None:
    async with serving(watched, tmp_path / "var", "suspend") as api:
        key = await api.issue()
        headers = bearer(key["api_key"])
        assert (await ask(api.client, headers=headers)).status_code == 200
        actions = [entry["action"] for entry in await entries(api, key["id"]) if entry["actor"] == "watch"]
        assert actions == ["watch.alarm", "key.disable"]
        assert (await ask(api.client, headers=headers)).status_code == 401
        await api.client.post(f"/admin/v1/keys/{key['id']}/enable", headers=api.admin)
        assert (await ask(api.client, headers=headers)).status_code == 200
        assert (await ask(api.client)).status_code == 200  # of an address it makes a suspect, who is slowed down
        assert [(await ask(api.client, 20)).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("watched", [-50.0], indirect=True)
async def test_a_customer_is_not_suspected_and_views_do_not_count(watched: Path, tmp_path: Path) -> None:
    async with serving(watched, tmp_path / "var", "suspend") as api:
        key = await api.issue()
        headers = bearer(key["api_key"])
        for _ in range(2):
            assert (await ask(api.client, headers=headers)).json()["tier"] == "distill"
        await api.client.post(f"{PREDICT}?views=4", content=PICTURES[0], headers=headers)
        (suspicion,) = api.app.state.services.watch._suspicions.values()
        assert (suspicion.images, suspicion.level) == (2 * SENT + 1, 0)


async def test_a_model_that_nobody_calibrated_is_not_served_under_a_watch(zoo: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"SDB_WATCH=alarm: .*watch\.json is not among .* `sdb watch"):
        async with serving(zoo, tmp_path / "var", "alarm"):
            pass


async def test_a_calibration_that_was_changed_afterwards_stops_the_start_by_name(watched: Path, tmp_path: Path) -> None:
    path = watched / "tiny" / FILE
    path.write_bytes(path.read_bytes().replace(b'"threshold":6.0', b'"threshold":6e9'))
    with pytest.raises(ConfigurationError, match=r"SDB_WATCH=alarm: .*watch\.json differs from the sha256"):
        async with serving(watched, tmp_path / "var", "alarm"):
            pass


def test_coarse_answers_have_one_probability_of_the_same_top1() -> None:
    logits = np.random.default_rng(0).normal(0, 12, (50, 10)).astype(np.float32)
    rows, top = np.arange(50), logits.argmax(1)
    coarse = coarsened(logits, 0.6)
    exponentials = np.exp(coarse - coarse.max(1, keepdims=True))
    probabilities = exponentials / exponentials.sum(1, keepdims=True)
    assert (coarse.argmax(1) == top).all()
    np.testing.assert_allclose(probabilities[rows, top], 0.6, rtol=1e-4)
    logits[rows, top] = coarse[rows, top] = 0
    np.testing.assert_array_equal(coarse, logits)
