"""Of two admins who change what they have read, the second one is told that it is not so any more."""

import asyncio

import pytest

from tests.app.changing import KEYS, Json, patch, show
from tests.conftest import Api

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def tag_of(api: Api, key: Json) -> str:
    return (await api.client.get(f"{KEYS}/{key['id']}", headers=api.admin)).headers["etag"]


async def test_a_change_is_made_only_of_what_was_read(api: Api) -> None:
    key = await api.issue()
    where, read = f"{KEYS}/{key['id']}", await tag_of(api, key)
    mine = await api.client.patch(where, json={"name": "mine"}, headers=api.admin | {"If-Match": read})
    assert (mine.status_code, mine.headers["etag"]) == (200, await tag_of(api, key))
    theirs = await api.client.patch(where, json={"name": "theirs"}, headers=api.admin | {"If-Match": read})
    assert (theirs.status_code, theirs.json()["code"]) == (412, "precondition-failed")
    assert (await show(api, key))["name"] == "mine"
    again = await api.client.patch(
        where, json={"name": "theirs"}, headers=api.admin | {"If-Match": await tag_of(api, key)}
    )
    assert (again.status_code, again.json()["name"]) == (200, "theirs")


async def test_of_ten_changes_of_one_reading_one_is_made(api: Api) -> None:
    key = await api.issue()
    headers = api.admin | {"If-Match": await tag_of(api, key)}
    calls = (api.client.patch(f"{KEYS}/{key['id']}", json={"name": f"{n}"}, headers=headers) for n in range(10))
    assert sorted(answer.status_code for answer in await asyncio.gather(*calls)) == [200] + [412] * 9


@pytest.mark.parametrize("tag", ['"999"', 'W/"0"', "0", '"x"', "", '"0", "1"'])
async def test_a_tag_that_no_reading_gave_changes_nothing(api: Api, tag: str) -> None:
    key = await api.issue()
    answer = await api.client.patch(f"{KEYS}/{key['id']}", json={"name": "b"}, headers=api.admin | {"If-Match": tag})
    assert answer.status_code == 412
    assert (await show(api, key))["name"] == key["name"]


async def test_without_a_condition_or_with_any_a_change_is_made(api: Api) -> None:
    key = await api.issue()
    await patch(api, key, name="b")
    answer = await api.client.patch(f"{KEYS}/{key['id']}", json={"name": "c"}, headers=api.admin | {"If-Match": "*"})
    assert (answer.status_code, answer.json()["name"]) == (200, "c")


async def test_a_retry_of_a_conditional_change_is_told_the_same(api: Api) -> None:
    key = await api.issue()
    headers = api.admin | {"If-Match": await tag_of(api, key), "Idempotency-Key": "once"}
    told = [await api.client.patch(f"{KEYS}/{key['id']}", json={"name": "b"}, headers=headers) for _ in range(2)]
    assert [answer.status_code for answer in told] == [200, 200]
