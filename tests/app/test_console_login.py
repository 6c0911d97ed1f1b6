"""Who gets into the console, for how long, and what a browser is told to keep."""

import re
from http.cookies import Morsel, SimpleCookie
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from starlette.types import Message, Scope

from app.console.login import ATTEMPTS
from tests.app.visitor import Fields, Page, Visitor, admin, visitor
from tests.conftest import Api, bearer

SESSION = "sdb_session"
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def api(shared_api: Api) -> Api:
    """One for all: each test has keys of its own."""
    return shared_api


def cookies(answer: httpx.Response) -> dict[str, Morsel[str]]:
    return {
        name: morsel
        for header in answer.headers.get_list("set-cookie")
        for name, morsel in SimpleCookie(header).items()
    }


async def ended(someone: Visitor, path: str = "/console") -> bool:
    """Whether the visitor is sent to the login."""
    answer = await someone.client.get(path)
    return answer.status_code == 303 and answer.headers["location"].startswith("/console/login")


async def test_an_admin_lands_on_the_keys_and_a_client_on_its_own_page(api: Api) -> None:
    client_key = await api.issue()
    async with visitor(api.app) as one, visitor(api.app) as other:
        assert (await one.log_in(api.admin_key)).headers["location"] == "/console"
        assert (await other.log_in(client_key["api_key"])).headers["location"] == "/console/me"
        assert (await one.client.get("/console")).status_code == 200
        assert (await other.client.get("/console/me")).status_code == 200


async def test_an_address_that_is_no_text_leads_to_the_login_too(api: Api) -> None:
    async def receive() -> Message:
        return {"type": "http.request"}

    for path in ("/console", "/console/login"):
        sent: list[Message] = []

        async def send(message: Message, sent: list[Message] = sent) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": path,
            "query_string": b"next=\xff",
            "headers": [],
        }
        await api.app(scope, receive, send)
        assert sent[0]["status"] < 400


async def test_no_page_but_the_login_opens_without_a_session(api: Api) -> None:
    async with visitor(api.app) as someone:
        for path in ("/console", "/console/keys/new", "/console/audit", "/console/health", "/console/me"):
            assert await ended(someone, path)
        assert (await someone.client.get("/console/login")).status_code == 200


async def test_the_session_cookie_is_out_of_reach_of_scripts_of_other_sites_and_of_other_paths(api: Api) -> None:
    async with visitor(api.app) as someone:
        morsel = cookies(await someone.log_in(api.admin_key))[SESSION]
        assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "strict", "/console")
        assert not morsel["secure"]
        assert not morsel["max-age"]
        assert not morsel["expires"]
        assert re.fullmatch(r"[A-Za-z0-9_-]{43}", morsel.value)


async def test_over_https_the_cookie_is_secure_by_flag_and_by_name(api: Api) -> None:
    async with visitor(api.app, "https://box") as someone:
        morsel = cookies(await someone.log_in(api.admin_key))[f"__Secure-{SESSION}"]
        assert morsel["secure"]
        assert (await someone.client.get("/console")).status_code == 200


async def test_every_refused_login_says_the_same(api: Api) -> None:
    revoked, key = await api.issue(), await api.issue()
    await api.client.post(f"/admin/v1/keys/{revoked['id']}/revoke", headers=api.admin)
    token = await api.token(key)
    refused = set()
    for wrong in ("", "nonsense", revoked["api_key"], token, api.admin_key[:-1], "sdb_adm_" + "0" * 38, "ключ\n"):
        async with visitor(api.app) as someone:
            answer = await someone.log_in(wrong)
            assert SESSION not in cookies(answer)
            refused.add((answer.status_code, re.sub(r'name="ticket" value="[^"]*"', "", answer.text)))
    assert len(refused) == 1
    assert next(iter(refused))[0] == 401


@pytest.mark.parametrize(
    "elsewhere",
    [
        "https://evil.test/",
        "//evil.test",
        "/\\evil.test",
        "/console//evil.test",
        "/console/../v1",
        "javascript:alert(1)",
    ],
)
async def test_a_login_returns_to_the_page_that_was_asked_for_and_never_leaves_the_site(
    api: Api, elsewhere: str
) -> None:
    async with visitor(api.app) as someone:
        answer = await someone.client.get("/console/audit?target=key_1")
        there = parse_qs(urlsplit(answer.headers["location"]).query)["next"][0]
        assert (await someone.log_in(api.admin_key, there)).headers["location"] == "/console/audit?target=key_1"
    async with visitor(api.app) as someone:
        assert (await someone.log_in(api.admin_key, elsewhere)).headers["location"] == "/console"
    async with visitor(api.app) as someone:
        typed: Fields = {"api_key": api.admin_key, "next": elsewhere}
        assert (await someone.send("/console/login", typed=typed)).headers["location"] == "/console"


async def test_a_login_form_of_another_browser_opens_no_session(api: Api) -> None:
    async with visitor(api.app) as one, visitor(api.app) as other:
        form = Page((await one.client.get("/console/login")).text).form("/console/login")
        answer = await other.client.post(form.action, data=form.fields | {"api_key": api.admin_key})
        assert answer.status_code == 403
        assert SESSION not in cookies(answer)


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "https://evil.test"}]
)
async def test_another_site_logs_nobody_in(api: Api, headers: dict[str, str]) -> None:
    async with visitor(api.app) as someone:
        form = Page((await someone.client.get("/console/login")).text).form("/console/login")
        sent = form.fields | {"api_key": api.admin_key}
        assert (await someone.client.post(form.action, data=sent, headers=headers)).status_code == 403


async def test_a_session_ends_with_the_log_out_even_for_who_kept_the_cookie(api: Api) -> None:
    async with admin(api) as someone:
        kept = someone.client.cookies[SESSION]
        answer = await someone.send("/console", "/console/logout")
        assert answer.status_code == 303
        assert cookies(answer)[SESSION].value == ""
        someone.client.cookies.set(SESSION, kept)
        assert await ended(someone)


async def test_no_link_logs_out(api: Api) -> None:
    async with admin(api) as someone:
        assert (await someone.client.get("/console/logout")).status_code == 404
        assert not await ended(someone)


@pytest.mark.parametrize("act", ["revoke", "disable", "rotate"])
async def test_a_session_dies_with_its_key(api: Api, act: str) -> None:
    key = await api.issue()
    async with visitor(api.app) as holder:
        await holder.log_in(key["api_key"])
        assert not await ended(holder, "/console/me")
        answer = await api.client.post(f"/admin/v1/keys/{key['id']}/{act}", headers=api.admin)
        assert answer.status_code == 200
        assert await ended(holder, "/console/me")


async def test_a_new_login_has_a_new_session_and_ends_the_old_one(api: Api) -> None:
    async with admin(api) as someone:
        before = someone.client.cookies[SESSION]
        await someone.log_in(api.admin_key)
        assert someone.client.cookies[SESSION] != before
        someone.client.cookies.clear()
        someone.client.cookies.set(SESSION, before)
        assert await ended(someone)


async def test_a_client_opens_no_page_of_the_admins_and_sends_none_of_their_forms(api: Api) -> None:
    key, victim = await api.issue(), await api.issue()
    async with visitor(api.app) as holder:
        await holder.log_in(key["api_key"])
        proof = (await holder.page("/console/me")).form("/console/logout").fields
        paths = ("/console", "/console/keys/new", "/console/audit", "/console/health", f"/console/keys/{victim['id']}")
        for path in (*paths, f"/console/keys/{victim['id']}/revoke"):
            assert (await holder.client.get(path)).status_code == 403
        for path in ("/console/keys/new", f"/console/keys/{victim['id']}", f"/console/keys/{victim['id']}/revoke"):
            assert (await holder.client.post(path, data=proof | {"name": "mine"})).status_code == 403
    assert (await api.client.get("/v1/keys/self", headers=bearer(victim["api_key"]))).json()["state"] == "active"


async def test_an_address_that_tries_too_often_waits_even_with_a_good_key(api: Api) -> None:
    async with visitor(api.app) as someone:
        answers = [await someone.log_in("guess") for _ in range(ATTEMPTS.limit)]
        assert {answer.status_code for answer in answers} == {401}
        answer = await someone.log_in(api.admin_key)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        assert SESSION not in cookies(answer)


async def test_a_script_whose_session_is_over_is_sent_to_the_login_as_a_whole_page(api: Api) -> None:
    async with visitor(api.app) as someone:
        answer = await someone.client.get("/console?search=x", headers={"HX-Request": "true"})
        assert answer.status_code == 204
        assert answer.headers["hx-redirect"] == "/console/login?next=%2Fconsole%3Fsearch%3Dx"


async def test_who_logged_in_and_from_where_a_login_was_refused_is_in_the_audit_log(api: Api) -> None:
    key = await api.issue()
    async with visitor(api.app) as someone:
        for _ in range(2):
            await someone.log_in("nonsense")
        await someone.log_in(key["api_key"])
    log = (await api.client.get("/admin/v1/audit", headers=api.admin)).json()["entries"]
    assert [(entry["action"], entry["actor"], entry["target"]) for entry in log[:2]] == [
        ("session.start", key["id"], key["id"]),
        ("session.refuse", "console", "console"),
    ]
    assert all(entry["address"] and entry["request_id"] for entry in log[:2])
    of_this_address = [entry["action"] for entry in log if entry["address"] == log[0]["address"]]
    assert of_this_address.count("session.refuse") == 1, "once a minute"
