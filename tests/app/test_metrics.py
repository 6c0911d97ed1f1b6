"""What `/metrics` says is what happened, to whom it may be said, and of nobody in particular."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import numpy as np
import pytest
from pydantic import SecretStr

from app.main import create_app
from app.metrics.families import FAMILIES
from app.metrics.series import Distribution
from app.settings import Settings
from app.state import State
from keys.errors import ConfigurationError
from tests.app.scraping import Scrape, scrape
from tests.conftest import ROOT, Api, bearer

PREDICT = "/v1/models/{model}/predict"
URL = "/v1/models/tiny/predict"
TOKEN = "UGVYbGZ3c2V0YmFkaWx5MTIzNDU2Nzg5MGFiY2RlZmc"


@asynccontextmanager
async def asking(settings: Settings, address: str = "127.0.0.1") -> AsyncIterator[Api]:
    """The application as these settings have it, spoken to from `address`."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(address, 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://box") as client:
            yield Api(client, app, (settings.state_dir / "admin.key").read_text().strip())


async def test_what_was_asked_and_answered_is_counted(api: Api, photo: bytes) -> None:
    key = await api.issue(2)
    before = await scrape(api.client)
    for _ in range(3):
        await api.client.post(URL, content=photo)
    for _ in range(3):
        await api.client.post(URL, content=photo, headers=bearer(key["api_key"]))
    await api.client.post(URL, content=b"no image", headers=bearer(await api.token(await api.issue(5))))
    now = await scrape(api.client)

    def grown(name: str, **labels: str) -> float:
        return now.value(name, **labels) - before.value(name, **labels)

    assert grown("sdb_requests_total", route=PREDICT, tier="public", outcome="ok") == 3
    assert grown("sdb_requests_total", route=PREDICT, tier="distill", outcome="ok") == 2
    assert grown("sdb_requests_total", route=PREDICT, outcome="quota-exceeded") == 1
    assert grown("sdb_requests_total", route=PREDICT, tier="distill", outcome="unsupported-image") == 1
    assert grown("sdb_denied_total", reason="quota-exceeded") == 1
    assert grown("sdb_request_seconds_count", route=PREDICT) == 7
    assert grown("sdb_images_total", model="tiny", tier="public") == 3
    assert grown("sdb_images_total", model="tiny", tier="distill") == 2
    assert grown("sdb_images_charged_total", model="tiny") == 2
    assert grown("sdb_batch_images_sum", model="tiny") == 5
    assert grown("sdb_batch_seconds_sum", model="tiny") > 0
    assert grown("sdb_store_seconds_count") > 0
    steps = {"admit": 7, "decode": 6, "queue": 5, "model": 5, "settle": 2, "answer": 5}
    assert {step: grown("sdb_stage_seconds_count", stage=step) for step in steps} == steps
    assert now.value("sdb_requests_in_flight") == 1  # the scrape itself
    assert now.value("sdb_model_ready", model="tiny") == 1


async def test_an_answer_that_is_repeated_is_not_charged_again(api: Api, photo: bytes) -> None:
    headers = {**bearer((await api.issue(5))["api_key"]), "Idempotency-Key": "once"}
    for _ in range(3):
        assert (await api.client.post(URL, content=photo, headers=headers)).status_code == 200
    assert (await scrape(api.client)).value("sdb_images_charged_total", model="tiny") == 1


async def test_what_callers_choose_makes_no_series(api: Api, photo: bytes) -> None:
    key = await api.issue(5)
    await scrape(api.client)

    async def roam(numbers: range) -> None:
        for number in numbers:
            await api.client.get(f"/nowhere/{number}")
            await api.client.request(f"METHOD{number}", "/livez")
            await api.client.post(f"/v1/models/none{number}/predict", content=photo)
            await api.client.get(f"/admin/v1/keys/{number}", headers=api.admin)
            await api.client.post(URL, content=photo, headers=bearer(f"sdb_cli_{number}"))

    await roam(range(1))
    several = len(await scrape(api.client))
    await roam(range(1, 10))
    text = (await api.client.get("/metrics")).text
    assert len(Scrape.of(text)) == several
    for mine in (key["id"], key["api_key"], "127.0.0.1", "none7", "METHOD7", "nowhere"):
        assert mine not in text


async def test_prometheus_and_openmetrics_are_both_spoken(api: Api) -> None:
    plain = await api.client.get("/metrics", headers={"accept": "text/plain"})
    assert plain.headers["content-type"].startswith("text/plain; version=")
    accept = {"accept": "application/openmetrics-text; version=1.0.0"}
    open_metrics = await api.client.get("/metrics", headers=accept)
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")
    assert plain.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "accept", ["application/openmetrics-text; version=x", "text/plain; version=²", "a/b; version="]
)
async def test_an_accept_that_names_no_version_gets_what_everybody_gets(api: Api, accept: str) -> None:
    answer = await api.client.get("/metrics", headers={b"accept": accept.encode()})
    assert answer.status_code == 200
    assert "sdb_build_info" in answer.text


async def test_by_default_who_is_on_this_machine_may_read_and_an_admin(settings: Settings) -> None:
    async with asking(settings) as here:
        assert (await here.client.get("/metrics")).status_code == 200
        for header in ("X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"):
            assert (await here.client.get("/metrics", headers={header: "1.2.3.4"})).status_code == 401
        client = bearer((await here.issue(5))["api_key"])
        refused = await here.client.get("/metrics", headers=client)
        assert (refused.status_code, refused.json()["code"]) == (403, "missing-scope")
        assert (await here.client.get("/metrics", headers=bearer("nonsense"))).status_code == 401
    async with asking(settings, "192.0.2.1") as there:
        assert (await there.client.get("/metrics")).status_code == 401
        assert (await there.client.get("/metrics", headers=there.admin)).status_code == 200


async def test_whoever_a_trusted_proxy_passed_on_is_not_of_this_machine_whatever_it_calls_the_caller(
    settings: Settings,
) -> None:
    behind = Settings.model_validate(settings.model_dump() | {"trusted_proxies": "127.0.0.1"})
    async with asking(behind) as there:
        for name in ("127.0.0.1", "unknown", "203.0.113.7:4711", "_hidden"):
            assert (await there.client.get("/metrics", headers={"X-Forwarded-For": name})).status_code == 401


async def test_who_has_the_token_may_read_from_anywhere_and_do_nothing_else(settings: Settings) -> None:
    given = settings.model_copy(update={"metrics": "admin", "metrics_token": SecretStr(TOKEN)})
    async with asking(given, "192.0.2.1") as there:
        assert (await there.client.get("/metrics", headers=bearer(TOKEN))).status_code == 200
        assert (await there.client.get("/metrics", headers=bearer(TOKEN[:-1] + "x"))).status_code == 401
        assert (await there.client.get("/admin/v1/keys", headers=bearer(TOKEN))).status_code == 401


async def test_settings_open_it_to_everybody_or_to_admins_alone(settings: Settings) -> None:
    async with asking(settings.model_copy(update={"metrics": "everybody"}), "192.0.2.1") as there:
        assert (await there.client.get("/metrics")).status_code == 200
    async with asking(settings.model_copy(update={"metrics": "admin"})) as here:
        assert (await here.client.get("/metrics")).status_code == 401


@pytest.mark.parametrize("token", ["short", "A" * 43, "not base64 !"])
def test_a_token_that_can_be_guessed_stops_the_start(settings: Settings, token: str) -> None:
    with pytest.raises(ConfigurationError, match="SDB_METRICS_TOKEN") as refusal:
        State(settings.model_copy(update={"metrics_token": SecretStr(token)}))
    assert token not in str(refusal.value)


async def test_a_store_that_is_away_is_seen(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": SecretStr("redis://127.0.0.1:1")})  # nothing listens on port 1
    app = create_app(away)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://box") as client,
    ):
        before = await scrape(client)
        for _ in range(3):
            assert (await client.get("/readyz")).status_code == 503
        now = await scrape(client)
        failed = now.total("sdb_store_errors_total") - before.total("sdb_store_errors_total")
        assert failed == now.total("sdb_store_seconds_count") - before.total("sdb_store_seconds_count") >= 3
        assert now.value("sdb_store_errors_total", error="ConnectionError") >= 3


async def test_gauges_say_how_it_is_now(api: Api) -> None:
    services = api.app.state.services
    assert (await scrape(api.client)).value("sdb_draining") == 0
    services.stopping.set()
    assert (await scrape(api.client)).value("sdb_draining") == 1
    metrics = await scrape(api.client)
    assert metrics.value("sdb_queue_limit_images", model="tiny") == services.settings.queue_limit
    assert metrics.value("sdb_worker_starts_total", worker="0") == 1
    assert metrics.value("process_resident_memory_bytes", worker="0") > 1e7
    assert await asyncio.to_thread(services.metrics.text, "")


def test_an_observation_is_in_the_bucket_of_the_first_bound_not_below_it() -> None:
    values = memoryview(bytearray(8 * 8)).cast("d")
    distribution = Distribution(values, 1, (0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 1.0, 3.0):
        distribution.observe(value)
    np.testing.assert_allclose(list(values), [0, 2, 2, 1, 4.65, 0, 0, 0])


def test_the_documentation_lists_every_metric_with_its_labels_and_no_other() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", page, re.MULTILINE)
    documented = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text.strip()) for name, kind, labels, text in rows
    }
    worker = {True: ("worker",), False: ()}
    assert documented == {
        family.name: (family.kind, (*family.labels, *worker[family.over_workers == "each"]), family.help)
        for family in FAMILIES
    }
