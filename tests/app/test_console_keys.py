"""Admins look after keys with forms: what is sent happens once, and only if the form was made for this very session."""

import re
from html import unescape
from itertools import product

import pytest

from app.settings import Settings
from tests.app.visitor import Visitor, admin, visitor
from tests.conftest import Api, application, bearer

NEW = "/console/keys/new"
SENSELESS = (
    ("limit", "many"),
    ("limit", "9" * 19),
    ("rate_limits", "sixty a minute"),
    ("rate_limits", "a 1 1\na 2 2"),
    ("metadata", "no colon"),
    ("expires_at", "tomorrow"),
    ("scopes", "everything"),
    ("models", " "),
    ("refill", "hourly"),
    ("mark", "strong"),
    ("mark", "2"),
    ("image_key", "sealed"),  # without the scope decrypt
    ("image_key", "pixel:shf:5"),
)
STRANGE = (
    "/console/keys/%00",
    "/console/keys/%ff%fe",
    "/console/keys/a%7Db%7B",
    "/console/keys/" + "a" * 5000,
    "/console/keys/key_x/%E2%80%AE",
    "/console?search=%ED%A0%80%00",
    "/console?cursor=%00",
    "/console?search=" + "a" * 300,
    "/console/audit?cursor=99999999999999999-1",
    "/console/audit?target=%00",
)
HOSTILE = ['<script>alert("x")</script>', "\"'><img src=x onerror=alert(1)>", "\u202e{{ 7*7 }}", "عيادة"]
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


async def shown(api: Api, key_id: str) -> dict[str, object]:
    answer = await api.client.get(f"/admin/v1/keys/{key_id}", headers=api.admin)
    assert answer.status_code == 200, answer.text
    key: dict[str, object] = answer.json()
    return key


async def names(api: Api) -> list[str]:
    answer = await api.client.get("/admin/v1/keys", headers=api.admin)
    return [key["name"] for key in answer.json()["keys"]]


def issued(html: str) -> tuple[str, str]:
    """The id and the API key on the page of a new key."""
    key_id = re.search(r"key_[0-9A-Za-z]{20}", html)
    api_key = re.search(r"sdb_cli_[0-9A-Za-z]{38}", html)
    assert key_id
    assert api_key
    return key_id[0], api_key[0]


async def test_the_form_of_a_new_key_has_all_its_fields_and_the_page_shows_the_secret_once(api: Api) -> None:
    typed: dict[str, str | list[str]] = {
        "name": "Müller & Söhne",
        "scopes": ["distill", "decrypt"],
        "models": "tiny other",
        "limit": "1,000",
        "refill": "monthly",
        "expires_at": "2099-12-31T12:00",
        "rate_limits": "per-minute: 600 in 60 s\r\nburst 10 1",
        "metadata": "team: vision\r\ncontract: 7/2026",
        "mark": "0.75",
        "image_key": "pixel:shf:4",
    }
    async with admin(api) as someone:
        answer = await someone.send(NEW, typed=typed)
        key_id, api_key = issued(answer.text)
        assert answer.headers["cache-control"] == "no-store"
        later = await someone.client.get(f"/console/keys/{key_id}")
        assert api_key not in later.text
    key = await shown(api, key_id)
    assert (await api.client.get("/v1/keys/self", headers=bearer(api_key))).json()["id"] == key_id
    assert key["name"] == "Müller & Söhne"
    assert key["scopes"] == ["decrypt", "distill", "predict"]
    assert key["models"] == ["tiny", "other"]
    assert key["expires_at"] == "2099-12-31T12:00:00Z"
    assert key["metadata"] == {"team": "vision", "contract": "7/2026"}
    assert key["rate_limits"] == [
        {"name": "per-minute", "limit": 600, "window_s": 60},
        {"name": "burst", "limit": 10, "window_s": 1},
    ]
    budget = key["budget"]
    assert isinstance(budget, dict)
    assert (budget["limit"], budget["remaining"], budget["refill"]) == (1000, 1000, "monthly")
    image_key = key["image_key"]
    assert isinstance(image_key, dict)
    assert key["mark"] == 0.75
    assert (image_key["scheme"], image_key["transform"], image_key["block"]) == ("pixel", "shf", 4)


async def test_a_field_that_makes_no_sense_is_named_and_what_was_typed_stays(api: Api) -> None:
    async with admin(api) as someone:
        for field, value in SENSELESS:
            answer = await someone.send(NEW, typed={"name": "typed before", field: value})
            assert answer.status_code == 400, (field, value)
            assert f'<a href="#{field}">' in answer.text
            assert 'value="typed before"' in answer.text
    assert "typed before" not in await names(api)


async def test_a_time_that_says_how_far_it_is_from_utc_is_believed(api: Api) -> None:
    async with admin(api) as someone:
        answer = await someone.send(NEW, typed={"name": "far", "expires_at": "2099-12-31T12:00+02:00"})
    assert (await shown(api, issued(answer.text)[0]))["expires_at"] == "2099-12-31T10:00:00Z"


async def test_half_a_character_is_no_obstacle(api: Api) -> None:
    async with admin(api) as someone:
        fields = (await someone.page(NEW)).form(NEW).fields | {"name": "+2AA-", "limit": "+2AA-"}
        parts = [
            f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}\r\n' for name, text in fields.items()
        ]
        kind = {"content-type": "multipart/form-data; boundary=x; charset=utf-7"}
        answer = await someone.client.post(NEW, content="".join([*parts, "--x--\r\n"]), headers=kind)
        assert answer.status_code == 400
        assert answer.headers["content-type"].startswith("text/html")


async def test_a_form_that_is_sent_twice_makes_one_key(api: Api) -> None:
    async with admin(api) as someone:
        form = (await someone.page(NEW)).form(NEW)
        first, second = [await someone.client.post(NEW, data=form.fields | {"name": "once"}) for _ in range(2)]
    assert issued(first.text) == issued(second.text)
    assert (await names(api)).count("once") == 1


@pytest.mark.parametrize(
    "broken", [{"csrf": ""}, {"csrf": "x" * 43}, {"csrf": "é"}, {"form_id": ""}, {"form_id": "../x"}]
)
async def test_a_form_without_its_proof_changes_nothing(api: Api, broken: dict[str, str]) -> None:
    key = await api.issue()
    path = f"/console/keys/{key['id']}/revoke"
    async with admin(api) as someone:
        form = (await someone.page(path)).form(path)
        assert (await someone.client.post(path, data=form.fields | broken)).status_code == 403
        assert (await someone.client.post(path)).status_code == 403
    assert (await shown(api, key["id"]))["state"] == "active"


async def test_a_body_that_is_no_form_is_refused_with_a_page(api: Api) -> None:
    kinds = ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "text/plain")
    bodies = (b"", b"csrf=a&csrf=b", b"csrf=%FF", b"x=1&" * 5000, b"\xff" * 100, b"--x\r\n\r\n")
    async with admin(api) as someone:
        for path, kind, body in product((NEW, "/console/login", "/console/logout"), kinds, bodies):
            answer = await someone.client.post(path, content=body, headers={"content-type": kind})
            assert 400 <= answer.status_code < 500, (path, kind, body)
            assert answer.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.test"}, {"Origin": "null"}]
)
async def test_a_form_sent_by_another_site_changes_nothing(api: Api, headers: dict[str, str]) -> None:
    key = await api.issue()
    path = f"/console/keys/{key['id']}/revoke"
    async with admin(api) as someone:
        form = (await someone.page(path)).form(path)
        assert (await someone.client.post(path, data=form.fields, headers=headers)).status_code == 403
    assert (await shown(api, key["id"]))["state"] == "active"


async def test_a_form_of_another_session_changes_nothing_even_if_the_same_admin_has_both(api: Api) -> None:
    key = await api.issue()
    path = f"/console/keys/{key['id']}/revoke"
    async with admin(api) as one, admin(api) as other:
        form = (await one.page(path)).form(path)
        assert (await other.client.post(path, data=form.fields)).status_code == 403
    assert (await shown(api, key["id"]))["state"] == "active"


async def test_every_act_asks_first_and_then_does_what_it_says(api: Api) -> None:
    key = await api.issue(100)
    page = f"/console/keys/{key['id']}"
    states = {"disable": "disabled", "enable": "active", "revoke": "revoked"}
    async with admin(api) as someone:
        assert (await someone.send(f"{page}/top-up", typed={"number": "50"})).status_code == 303
        budget = (await shown(api, key["id"]))["budget"]
        assert isinstance(budget, dict)
        assert budget["remaining"] == 150
        rotated = await someone.send(f"{page}/rotate", typed={"number": "0"})
        key_id, api_key = issued(rotated.text)
        assert key_id == key["id"]
        assert (await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))).status_code == 401
        assert (await api.client.get("/v1/keys/self", headers=bearer(api_key))).status_code == 200
        for act, state in states.items():
            await someone.client.get(f"{page}/{act}")
            assert (await shown(api, key["id"]))["state"] != state
            assert (await someone.send(f"{page}/{act}")).headers["location"] == f"{page}?done={act}"
            assert (await shown(api, key["id"]))["state"] == state
        assert f"{page}/rotate" not in (await someone.page(page)).links


async def test_a_top_up_that_is_sent_twice_counts_once(api: Api) -> None:
    key = await api.issue(100)
    path = f"/console/keys/{key['id']}/top-up"
    async with admin(api) as someone:
        form = (await someone.page(path)).form(path)
        for _ in range(2):
            assert (await someone.client.post(path, data=form.fields | {"number": "7"})).status_code == 303
    budget = (await shown(api, key["id"]))["budget"]
    assert isinstance(budget, dict)
    assert budget["remaining"] == 107


async def test_a_number_out_of_range_is_asked_for_again(api: Api) -> None:
    key = await api.issue(100)
    path = f"/console/keys/{key['id']}/top-up"
    async with admin(api) as someone:
        for number in ("", "0", "-1", "1.5", "x", "١", "9" * 17, "9" * 5000):
            answer = await someone.send(path, typed={"number": number})
            assert answer.status_code == 400
            assert "a whole number" in answer.text
    assert (await shown(api, key["id"]))["budget"] == key["budget"]


async def test_an_image_key_is_issued_and_retired(api: Api) -> None:
    key = await api.issue(scopes=["decrypt"])
    page = f"/console/keys/{key['id']}"
    async with admin(api) as someone:
        answer = await someone.send(f"{page}/image-key", typed={"scheme": "pixel:np:8", "number": "1"})
        kid = re.search(r"img_[0-9A-Za-z]{22}", answer.text)
        assert kid
        retire = f"{page}/image-keys/{kid[0]}/retire"
        assert retire in (await someone.page(page)).links
        assert (await someone.send(retire)).status_code == 303
        assert retire not in (await someone.page(page)).links
        assert (await someone.client.get(f"{page}/image-keys/img_nobody/retire")).status_code == 404


async def test_only_what_the_form_changes_is_changed(api: Api) -> None:
    metadata = {"a:b": "two\nlines"}  # what the form's text cannot say stays as it is while nobody touches it
    key = await api.issue(10, metadata=metadata)
    page = f"/console/keys/{key['id']}"
    async with admin(api) as someone:
        assert (await someone.send(page, typed={"name": "renamed", "limit": "20"})).status_code == 303
        after = await shown(api, key["id"])
        assert (after["name"], after["metadata"]) == ("renamed", metadata)
        assert after["scopes"] == ["distill", "predict"]
        budget = after["budget"]
        assert isinstance(budget, dict)
        assert budget["limit"] == 20
        entries = (await someone.page(f"/console/audit?target={key['id']}")).text.count("key.update")
        assert (await someone.send(page)).status_code == 303  # nothing typed, nothing done
        assert (await someone.page(f"/console/audit?target={key['id']}")).text.count("key.update") == entries


async def test_a_form_made_before_somebody_elses_change_is_refused(api: Api) -> None:
    key = await api.issue()
    page = f"/console/keys/{key['id']}"
    async with admin(api) as one, admin(api) as other:
        form = (await one.page(page)).form(page)
        await other.send(page, typed={"name": "faster"})
        assert (await one.client.post(page, data=form.fields | {"name": "slower"})).status_code == 409
    assert (await shown(api, key["id"]))["name"] == "faster"


async def test_an_admins_own_key_can_be_renamed(api: Api) -> None:
    own = (await api.client.get("/v1/keys/self", headers=api.admin)).json()
    page = f"/console/keys/{own['id']}"
    async with admin(api) as someone:
        assert (await someone.send(page, typed={"name": "head of the lab"})).status_code == 303
    assert (await shown(api, own["id"]))["name"] == "head of the lab"


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_name_is_text_on_every_page(api: Api, name: str) -> None:
    key = await api.issue(name=name, metadata={name[:50]: name})
    page = f"/console/keys/{key['id']}"
    pages = ("/console", f"/console?search={key['id']}", page, f"{page}/revoke", f"/console/audit?target={key['id']}")
    async with admin(api) as someone, visitor(api.app) as holder:
        await holder.log_in(key["api_key"])
        answers = [await someone.client.get(path) for path in pages] + [await holder.client.get("/console/me")]
    for answer in answers:
        assert answer.status_code == 200
        assert "<script>alert" not in answer.text
        assert "<img src=x" not in answer.text
        assert name in unescape(answer.text)


async def test_the_list_is_searched_and_paged(settings: Settings) -> None:
    async with application(settings) as alone, admin(alone) as someone:
        for number in range(22):
            await alone.issue(name=f"lab {number}", metadata={"team": "un-even" if number % 2 else "even"})
        assert await listed(someone, "/console") == 20
        older = next(link for link in (await someone.page("/console")).links if "cursor=" in link)
        assert await listed(someone, older) == 3  # and the admin's own
        assert await listed(someone, "/console?search=un-even") == 11
        assert await listed(someone, "/console?search=LAB 21") == 1
        assert await listed(someone, "/console?search=nobody") == 0


async def listed(someone: Visitor, path: str) -> int:
    return len({link for link in (await someone.page(path)).links if re.fullmatch(r"/console/keys/key_\w+", link)})


async def test_an_address_that_nobody_linked_to_is_a_page_too(api: Api) -> None:
    async with admin(api) as someone:
        for path in STRANGE:
            answer = await someone.client.get(path)
            assert answer.status_code < 500, path
            assert answer.headers["content-type"].startswith("text/html")


async def test_what_does_not_exist_is_a_page_that_says_so(api: Api) -> None:
    async with admin(api) as someone:
        for path in ("/console/keys/key_nobody", "/console/keys/key_nobody/revoke", "/console/nothing", "/console/a/b"):
            answer = await someone.client.get(path)
            assert answer.status_code == 404
            assert answer.headers["content-type"].startswith("text/html")
        key = await api.issue()
        assert (await someone.client.get(f"/console/keys/{key['id']}/explode")).status_code == 404
        assert (await someone.client.get("/console?cursor=key_nobody")).status_code == 404
