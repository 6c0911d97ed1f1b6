"""What every page carries, and what the pages of the log, the health, the holder and the trial show."""

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from app.console.chart import draw
from app.console.forecast import forecast
from app.main import create_app
from app.settings import Settings
from keys.connection import connect
from keys.embedded import EmbeddedStore
from keys.records import Budget, KeyRecord, UsageBucket
from tests.app.visitor import Page, admin, visitor
from tests.conftest import Api, bearer

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
POLICY = {
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    "img-src 'self' data: blob:",
    "connect-src 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
    "base-uri 'none'",
}


async def test_every_page_forbids_what_it_does_not_need_and_is_kept_nowhere(api: Api) -> None:
    key = await api.issue()
    pages = ["/console", "/console/keys/new", f"/console/keys/{key['id']}", f"/console/keys/{key['id']}/revoke"]
    pages += ["/console/audit", "/console/health", "/console/login", "/try", "/console/nothing", "/console/me"]
    async with admin(api) as someone:
        for path in pages:
            answer = await someone.client.get(path)
            assert set(answer.headers["content-security-policy"].split("; ")) == POLICY, path
            assert answer.headers["cache-control"] == "no-store"
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son[a-z]+=", answer.text), path


async def test_scripts_and_styles_are_kept_by_browsers_until_they_change(api: Api) -> None:
    async with visitor(api.app) as someone:
        html = (await someone.client.get("/try")).text
        for address in re.findall(r'(?:src|href)="(/static/[^"]+)"', html):
            answer = await someone.client.get(address)
            assert answer.status_code == 200
            assert "immutable" in answer.headers["cache-control"]
            stale = await someone.client.get(re.sub(r"v=.*", "v=old", address))
            assert stale.headers["cache-control"] == "no-cache"
        assert (await someone.client.get("/static/nothing.js")).status_code == 404
        assert (await someone.client.get("/static/..%2frendering.py")).status_code == 404


async def test_the_log_shows_what_was_done_by_whom_and_that_its_chain_is_whole(api: Api) -> None:
    key = await api.issue()
    path = f"/console/keys/{key['id']}/disable"
    async with admin(api) as someone:
        await someone.send(path)
        page = await someone.page(f"/console/audit?target={key['id']}")
    own = (await api.client.get("/v1/keys/self", headers=api.admin)).json()["id"]
    assert "The chain is whole" in page.text
    assert "key.disable" in page.text
    assert f"/console/keys/{own}" in page.links


async def test_the_log_says_when_its_chain_is_broken(api: Api) -> None:
    for _ in range(3):
        await api.issue()
    store = EmbeddedStore(api.app.state.services.settings.state_dir / "store")
    async with connect(store.url) as client:
        entries: Any = await client.xrange("sdb:audit")
        await client.xdel("sdb:audit", entries[1][0])
    async with admin(api) as someone:
        text = (await someone.page("/console/audit")).text
    assert "The chain is broken" in text
    assert "key.create" in text


async def test_while_the_store_is_away_pages_say_so_and_the_trial_goes_on(settings: Settings) -> None:
    nowhere = type(settings.redis_url)("redis://127.0.0.1:1")
    app = create_app(settings.model_copy(update={"redis_url": nowhere}))
    async with app.router.lifespan_context(app), visitor(app) as someone:
        someone.client.cookies.set("sdb_session", "x" * 43)
        answer = await someone.client.get("/console")
        assert answer.status_code == 503
        assert answer.headers["content-type"].startswith("text/html")
        assert int(answer.headers["retry-after"]) > 0
        assert (await someone.client.get("/try")).status_code == 200


async def test_health_names_each_model_and_the_store(api: Api) -> None:
    async with admin(api) as someone:
        text = (await someone.page("/console/health")).text
    assert "tiny" in text
    assert "running" in text
    assert "embedded" in text


async def test_the_holder_sees_what_is_left_and_what_was_used(api: Api, photo: bytes) -> None:
    key = await api.issue(10)
    for _ in range(3):
        await api.client.post("/v1/models/tiny/predict", content=photo, headers=bearer(key["api_key"]))
    async with visitor(api.app) as holder:
        await holder.log_in(key["api_key"])
        text = (await holder.page("/console/me")).text
    assert "7 of 10 left" in text
    assert "3 charged" in text
    assert "runs out in 2 days" in text  # three a day, seven left


async def test_the_trial_is_for_everybody_and_offers_the_hosted_models(api: Api) -> None:
    async with visitor(api.app) as someone:
        answer = await someone.client.get("/try")
    assert answer.status_code == 200
    assert not Page(answer.text).forms[0].fields  # nothing typed there is ever sent as a form
    assert 'value="tiny"' in answer.text


def test_a_chart_has_a_bar_for_every_day_and_the_highest_fills_it() -> None:
    midnight = NOW.replace(hour=0)
    usage = [
        UsageBucket(midnight, "tiny", "served", 30),
        UsageBucket(midnight, "other", "served", 10),
        UsageBucket(midnight, "tiny", "quota-exceeded", 40),
        UsageBucket(midnight - timedelta(days=2), "tiny", "served", 20),
        UsageBucket(midnight - timedelta(days=99), "tiny", "served", 1000),
    ]
    usage += [UsageBucket(midnight, "tiny", "public", 5), UsageBucket(midnight, "tiny", "replayed", 15)]
    chart = draw(usage, "day", NOW)
    assert len(chart.bars) == 30
    assert (chart.top, chart.totals) == (100, {"charged": 60, "free": 20, "refused": 40})
    assert [[part.images for part in bar.parts] for bar in chart.bars[-3:]] == [[20, 0, 0], [0, 0, 0], [40, 20, 40]]
    assert [(part.y, part.height) for part in chart.bars[-1].parts] == [(60, 40), (40, 20), (0, 40)]
    assert chart.bars[-3].parts[0].height == 20


def a_key(left: int | None, age: timedelta, **budget: object) -> KeyRecord:
    fields = {"id": "key_1", "kind": "client", "name": "lab", "scopes": ("predict",), "models": ("*",)}
    more = {"state": "active", "created_at": NOW - age, "expires_at": None, "metadata": {}, "epoch": 0, "master": ""}
    limited = Budget.model_validate({"limit": left, "remaining": left, **budget})
    return KeyRecord.model_validate({**fields, **more, "budget": limited})


def used(a_day: int, days: int) -> list[UsageBucket]:
    midnight = NOW.replace(hour=0)
    return [UsageBucket(midnight - timedelta(days=ago), "tiny", "served", a_day) for ago in range(days)]


def test_a_budget_runs_out_when_the_rate_of_the_last_week_has_used_it() -> None:
    seen = forecast(a_key(1000, timedelta(days=100)), used(75, 60), NOW)
    assert seen.per_day == 80  # eight buckets hold the last seven and a half days
    assert seen.runs_out == NOW + timedelta(days=12.5)


def test_a_young_key_is_not_judged_by_its_first_hour() -> None:
    assert forecast(a_key(1000, timedelta(hours=1)), used(50, 1), NOW).per_day == 50


def test_no_date_is_named_where_nothing_runs_out() -> None:
    week = timedelta(days=7)
    assert forecast(a_key(None, week), used(10, 7), NOW).runs_out is None
    assert forecast(a_key(100, week), [], NOW).runs_out is None
    refilled = forecast(a_key(100, week, refill="daily", resets_at=NOW + timedelta(hours=12)), used(10, 7), NOW)
    assert refilled.runs_out is None
    assert refilled.refilled_before
