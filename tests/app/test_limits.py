"""Laws of rate limits and budgets as callers meet them: headers, refusals, and changes that count at once."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from app.settings import Settings
from tests.conftest import Api, application, bearer

PREDICT = "/v1/models/tiny/predict"
PER_MINUTE = {"name": "minute", "limit": 3, "window_s": 60}
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def predict(api: Api, key: dict[str, str], photo: bytes, **params: int) -> httpx.Response:
    return await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]), params=params)


async def change(api: Api, key: dict[str, str], **fields: object) -> None:
    answer = await api.client.patch(f"/admin/v1/keys/{key['id']}", json=fields, headers=api.admin)
    assert answer.status_code == 200, answer.text


def budget_of(answer: httpx.Response) -> dict[str, int]:
    budget: dict[str, int] = answer.json()["budget"]
    return budget


async def test_every_limit_stands_in_the_headers_of_an_answer(api: Api, photo: bytes) -> None:
    per_day = {"name": "day", "limit": 500, "window_s": 86400}
    key = await api.issue(100, rate_limits=[PER_MINUTE, per_day])
    answer = await predict(api, key, photo)
    assert answer.headers["ratelimit-policy"] == '"budget";q=100, "minute";q=3;w=60, "day";q=500;w=86400'
    states = re.fullmatch(r'"budget";r=99, "minute";r=2;t=(\d+), "day";r=499;t=(\d+)', answer.headers["ratelimit"])
    assert states is not None, answer.headers["ratelimit"]
    assert 0 < int(states[1]) <= 65
    assert 0 < int(states[2]) <= 93_600


async def test_a_full_window_refuses_with_the_time_to_wait_and_charges_nothing(api: Api, photo: bytes) -> None:
    key = await api.issue(100, rate_limits=[PER_MINUTE])
    answers = [await predict(api, key, photo) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    refused = answers[-1]
    assert refused.json()["code"] == "rate-limited"
    assert refused.json()["violated-policies"] == ["minute"]
    assert 0 < int(refused.headers["retry-after"]) <= 65
    assert "x-should-retry" not in refused.headers
    own = await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))
    assert own.json()["budget"]["remaining"] == 97


async def test_whoever_waits_as_told_is_answered(api: Api, photo: bytes) -> None:
    key = await api.issue(100, rate_limits=[{"name": "second", "limit": 1, "window_s": 1}])
    while (refused := await predict(api, key, photo)).status_code == 200:  # a machine may be slower than the window
        pass
    assert refused.status_code == 429
    await asyncio.sleep(int(refused.headers["retry-after"]))
    assert (await predict(api, key, photo)).status_code == 200


async def test_a_request_larger_than_its_limit_is_told_not_to_retry(api: Api, photo: bytes) -> None:
    key = await api.issue(100, rate_limits=[PER_MINUTE])
    refused = await predict(api, key, photo, views=4)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate-limited")
    assert refused.headers["x-should-retry"] == "false"
    assert "retry-after" not in refused.headers


async def test_public_answers_count_in_the_rate_limits_of_a_key_and_never_against_its_budget(
    api: Api, photo: bytes
) -> None:
    key = await api.issue(0, scopes=["predict"], rate_limits=[PER_MINUTE])
    answers = [await predict(api, key, photo) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].json()["tier"] == "public"
    assert "budget" not in answers[0].json()


async def test_a_spent_budget_that_is_refilled_says_when(api: Api, photo: bytes) -> None:
    key = await api.issue(budget={"limit": 1, "refill": "daily"})
    answer = await predict(api, key, photo)
    until = int(re.findall(r'"budget";r=0;t=(\d+)', answer.headers["ratelimit"])[0])
    assert 0 < until <= 86_400
    refused = await predict(api, key, photo)
    assert (refused.status_code, refused.json()["code"]) == (429, "quota-exceeded")
    assert abs(int(refused.headers["retry-after"]) - until) < 30
    assert refused.headers["x-should-retry"] == "false"
    assert refused.json()["violated-policies"] == ["budget"]


async def test_a_change_is_in_force_with_the_next_request(api: Api, photo: bytes) -> None:
    """The server remembers callers; what it remembers must never outlive what an admin has said."""
    key = await api.issue(100)
    assert (await predict(api, key, photo)).json()["tier"] == "distill"
    await change(api, key, scopes=["predict"])
    assert (await predict(api, key, photo)).json()["tier"] == "public"
    refused = await predict(api, key, photo, views=2)
    assert (refused.status_code, refused.json()["code"]) == (403, "missing-scope")
    await change(api, key, scopes=["distill"])
    answer = await predict(api, key, photo, views=2)
    assert (answer.status_code, answer.json()["tier"]) == (200, "distill")
    await change(api, key, models=["other"])
    assert (await predict(api, key, photo)).status_code == 403
    await change(api, key, models=["*"], budget={"limit": 4})
    assert budget_of(await predict(api, key, photo)) == {"limit": 4, "remaining": 0}
    assert (await predict(api, key, photo)).json()["code"] == "quota-exceeded"


async def test_a_key_that_ends_is_refused_with_the_next_request_whatever_it_asks(api: Api, photo: bytes) -> None:
    for verb in ("revoke", "disable"):
        key = await api.issue(100)
        token = await api.token(key)
        credentials = (key["api_key"], token)
        for credential in credentials:
            assert (await api.client.post(PREDICT, content=photo, headers=bearer(credential))).status_code == 200
        await api.client.post(f"/admin/v1/keys/{key['id']}/{verb}", headers=api.admin)
        for credential in credentials:
            for params in ({}, {"views": 2}, {"encryption": "pixel", "image_key": "img_x"}):
                answer = await api.client.post(PREDICT, content=photo, params=params, headers=bearer(credential))
                assert (answer.status_code, answer.json()["code"]) == (401, "invalid-credential")


async def test_a_rotated_secret_lives_as_long_as_its_overlap_and_its_tokens_not_at_all(api: Api, photo: bytes) -> None:
    key = await api.issue(100)
    token = await api.token(key)
    assert (await api.client.post(PREDICT, content=photo, headers=bearer(token))).status_code == 200
    rotate = f"/admin/v1/keys/{key['id']}/rotate"
    new = (await api.client.post(rotate, json={"overlap_s": 60}, headers=api.admin)).json()
    assert (await api.client.post(PREDICT, content=photo, headers=bearer(token))).status_code == 401
    for credential in (key["api_key"], new["api_key"]):
        assert (await api.client.post(PREDICT, content=photo, headers=bearer(credential))).status_code == 200
    newest = (await api.client.post(rotate, json={"overlap_s": 0}, headers=api.admin)).json()
    for credential, status in ((key["api_key"], 401), (new["api_key"], 401), (newest["api_key"], 200)):
        assert (await api.client.post(PREDICT, content=photo, headers=bearer(credential))).status_code == status


@pytest_asyncio.fixture(loop_scope="module")
async def limited(settings: Settings) -> AsyncIterator[Api]:
    """A server that lets each address ask for three images a minute, behind a proxy that it trusts."""
    ours = {"anonymous_per_minute": 3, "trusted_proxies": "127.0.0.1, 10.0.0.0/8"}
    async with application(Settings.model_validate(settings.model_dump() | ours)) as limited:
        yield limited


async def statuses(api: Api, photo: bytes, count: int, **headers: str) -> list[int]:
    return [(await api.client.post(PREDICT, content=photo, headers=headers)).status_code for _ in range(count)]


async def test_a_stranger_is_limited_by_address_and_a_key_holder_is_not(limited: Api, photo: bytes) -> None:
    first = await limited.client.post(PREDICT, content=photo)
    assert first.headers["ratelimit-policy"] == '"address";q=3;w=60'
    assert await statuses(limited, photo, 3) == [200, 200, 429]
    refused = await limited.client.post(PREDICT, content=photo)
    assert refused.json()["code"] == "rate-limited"
    assert int(refused.headers["retry-after"]) > 0
    key = await limited.issue(100)
    assert (await predict(limited, key, photo)).status_code == 200


async def test_behind_a_trusted_proxy_the_address_is_the_one_it_names(limited: Api, photo: bytes) -> None:
    assert await statuses(limited, photo, 4, **{"X-Forwarded-For": "203.0.113.7"}) == [200, 200, 200, 429]
    assert await statuses(limited, photo, 1, **{"X-Forwarded-For": "203.0.113.8"}) == [200]
    spoofed = {"X-Forwarded-For": "198.51.100.1, 203.0.113.7"}  # the caller wrote the first, the proxy the last
    assert await statuses(limited, photo, 1, **spoofed) == [429]
    one_customer = [{"X-Forwarded-For": f"2001:db8:0:1::{number}"} for number in range(4)]
    assert [(await statuses(limited, photo, 1, **headers))[0] for headers in one_customer] == [200, 200, 200, 429]


async def test_without_a_trusted_proxy_nobody_chooses_the_own_address(settings: Settings, photo: bytes) -> None:
    async with application(Settings.model_validate(settings.model_dump() | {"anonymous_per_minute": 2})) as limited:
        asked = [await statuses(limited, photo, 1, **{"X-Forwarded-For": f"203.0.113.{n}"}) for n in range(3)]
        assert asked == [[200], [200], [429]]


async def test_what_is_refused_to_a_key_is_in_the_audit_log_once_a_minute_and_in_its_usage_each_time(
    api: Api, photo: bytes
) -> None:
    key = await api.issue(0)
    for _ in range(3):
        assert (await predict(api, key, photo)).status_code == 429
    log = await api.client.get("/admin/v1/audit", params={"target": key["id"]}, headers=api.admin)
    refusals = [entry for entry in log.json()["entries"] if entry["action"] == "refusal"]
    assert [entry["detail"] for entry in refusals] == [{"code": "quota-exceeded", "model": "tiny"}]
    usage = await api.client.get(f"/admin/v1/keys/{key['id']}/usage", params={"bucket": "hour"}, headers=api.admin)
    assert "quota-exceeded" in usage.text
    assert key["api_key"] not in log.text


@pytest.mark.parametrize(
    ("path", "answer"),
    [("/admin/v1/keys", 400), ("/oauth2/token", 401), ("/console/login", 403), ("/v1/models/tiny/predict", 415)],
)
async def test_what_holds_no_image_is_short(api: Api, path: str, answer: int) -> None:
    headers = api.admin if path.startswith("/admin") else {}
    fits, too_long = [
        await api.client.post(path, content=b"x" * length, headers=headers) for length in (64 * 2**10, 64 * 2**10 + 1)
    ]
    assert fits.status_code == answer
    assert too_long.status_code == (answer if "predict" in path else 413)
