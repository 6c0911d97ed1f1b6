"""The console as people use it: a real server, a real browser, with and without a mouse, a wide screen or a script."""

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from tests.conftest import Server, bearer, free_port, start_server
from tests.end_to_end.browser import WIDTHS, Theme, chromium, hindrances, log_in, tab


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, zoo: Path) -> Iterator[Server]:
    running = start_server(tmp_path_factory.mktemp("console") / "var", zoo, free_port())
    yield running
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(timeout=40)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    """What pages complained of during a test: nothing."""
    said: list[str] = []
    yield said
    assert not said


def admin_key(server: Server) -> str:
    return (server.state_dir / "admin.key").read_text().strip()


def issue(server: Server, **grant: object) -> dict[str, str]:
    body = {"name": "partner", "scopes": ["distill"], "budget": {"limit": 100}, **grant}
    key: dict[str, str] = httpx.post(f"{server.url}/admin/v1/keys", json=body, headers=server.admin).json()
    return key


def own(server: Server, api_key: str) -> httpx.Response:
    return httpx.get(f"{server.url}/v1/keys/self", headers=bearer(api_key))


def press(page: Page, name: str) -> None:
    page.get_by_role("button", name=name).click()


def follow(page: Page, name: str) -> None:
    page.get_by_role("link", name=name, exact=True).click()


def test_a_keys_whole_life(server: Server, browser: Browser, complaints: list[str]) -> None:
    with tab(browser.new_context(permissions=["clipboard-read", "clipboard-write"]), complaints) as page:
        log_in(page, server.url, admin_key(server))
        follow(page, "New key")
        page.get_by_label("Name").fill("Vision lab")
        page.get_by_label("distill").check()
        page.get_by_label("Budget").fill("100")
        press(page, "Make the key")
        first = page.get_by_label("API key").input_value()
        press(page, "Copy")
        page.get_by_text("Copied.").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == first
        assert own(server, first).json()["name"] == "Vision lab"

        follow(page, "I have kept it")
        follow(page, "Top up")
        page.get_by_label("Answers").fill("25")
        press(page, "Top up")
        page.get_by_text("125 of 100 left").wait_for()
        assert own(server, first).json()["budget"]["remaining"] == 125

        follow(page, "Rotate")
        page.get_by_label("Hours that the old one still works").fill("0")
        press(page, "Make a new API key")
        second = page.get_by_label("API key").input_value()
        page.reload()  # sends the form again: the same key is shown, and no third one is made
        assert page.get_by_label("API key").input_value() == second
        assert [own(server, key).status_code for key in (first, second)] == [401, 200]

        follow(page, "I have kept it")
        follow(page, "Revoke")
        assert own(server, second).status_code == 200
        press(page, "Revoke the key for good")
        page.get_by_text("The key is revoked.").wait_for()
        assert own(server, second).status_code == 401

        follow(page, "What was done to it")
        page.get_by_text("The chain is whole").wait_for()
        done = page.locator(".entry strong").all_text_contents()
        assert [act for act in done if act != "refusal"] == ["key.revoke", "key.rotate", "key.top-up", "key.create"]
        press(page, "Log out")
        page.get_by_text("You are logged out.").wait_for()
        page.go_back()
        assert page.get_by_label("API key").is_visible()


def test_the_keyboard_is_enough(server: Server, browser: Browser, complaints: list[str]) -> None:
    key = issue(server, name="Keyboard")
    with tab(browser.new_context(), complaints) as page:
        page.goto(f"{server.url}/console/keys/{key['id']}")
        page.keyboard.type(admin_key(server))  # the field has the focus
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Keyboard").wait_for()
        assert page.url.endswith(key["id"])
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
        assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
        page.keyboard.press("Enter")
        reach(page, "Revoke")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none"
        page.keyboard.press("Enter")
        page.get_by_role("heading", name="Revoke: Keyboard").wait_for()
        reach(page, "Revoke the key for good")
        page.keyboard.press("Enter")
        page.get_by_text("The key is revoked.").wait_for()


def reach(page: Page, text: str) -> None:
    """Press Tab until what has this text has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip() == text:
            return
    raise AssertionError(f"{text} cannot be reached by keyboard")


@pytest.mark.parametrize(
    ("width", "theme"),
    [
        ("phone", "dark"),
        ("desktop", "light"),
        pytest.param("phone", "light", marks=pytest.mark.slow),
        pytest.param("desktop", "dark", marks=pytest.mark.slow),
    ],
)
def test_every_page_is_open_to_everybody(
    server: Server, browser: Browser, complaints: list[str], width: str, theme: Theme
) -> None:
    key = issue(
        server,
        name='<img src=x onerror="alert(1)"> \u202eعيادة ' + "W" * 120,
        scopes=["distill", "decrypt"],
        rate_limits=[{"name": "per-minute", "limit": 600, "window_s": 60}],
        metadata={"team": "vision" * 60},
        image_key={"scheme": "sealed"},
    )
    page_of_key = f"/console/keys/{key['id']}"
    acts = [f"{page_of_key}/{act}" for act in ("rotate", "revoke", "image-key")]
    pages = ["/console", "/console/keys/new", page_of_key, *acts, "/console/audit", "/console/health", "/try"]
    window = ViewportSize(width=WIDTHS[width], height=800)
    with tab(browser.new_context(color_scheme=theme, viewport=window), complaints) as page:
        page.goto(f"{server.url}/console/login")
        assert hindrances(page) == []
        log_in(page, server.url, admin_key(server))
        for path in (*pages, "/console/nothing"):
            page.goto(server.url + path)
            for details in page.locator("summary").all():
                if details.is_visible():
                    details.click()
            assert hindrances(page) == [], path
        page.goto(f"{server.url}/console/keys/new")
        page.get_by_label("Name").fill("x")
        page.get_by_label("Rate limits").fill("often")
        press(page, "Make the key")
        page.get_by_role("alert").wait_for()
        assert hindrances(page) == []
        page.get_by_label("Rate limits").fill("")
        press(page, "Make the key")
        page.get_by_label("API key").wait_for()
        assert hindrances(page) == []
    with tab(browser.new_context(color_scheme=theme, viewport=window), complaints) as page:
        log_in(page, server.url, key["api_key"])
        assert page.url.endswith("/console/me")
        assert hindrances(page) == []


def test_without_a_script_everything_works_but_the_trial(server: Server, browser: Browser) -> None:
    with tab(browser.new_context(java_script_enabled=False), []) as page:
        log_in(page, server.url, admin_key(server))
        follow(page, "New key")
        page.get_by_label("Name").fill("Scriptless")
        press(page, "Make the key")
        api_key = page.get_by_label("API key").input_value()
        assert not page.get_by_role("button", name="Copy").is_visible()
        page.goto(f"{server.url}/console")
        page.get_by_label("Search").fill("scriptless")
        press(page, "Search")
        follow(page, "Scriptless")
        follow(page, "48 hours")
        follow(page, "Disable")
        press(page, "Disable the key")
        page.get_by_text("The key is disabled.").wait_for()
        assert own(server, api_key).status_code == 401
        page.goto(f"{server.url}/try")
        assert page.get_by_text("needs JavaScript").is_visible()


def test_the_search_narrows_the_list_while_one_types(server: Server, browser: Browser, complaints: list[str]) -> None:
    for name in ("Alpha", "Beta"):
        issue(server, name=f"{name} searched")
    with tab(browser.new_context(), complaints) as page:
        log_in(page, server.url, admin_key(server))
        page.evaluate("window.loaded = 'once'")
        page.get_by_label("Search").press_sequentially("beta sea", delay=20)
        page.get_by_text("1 key for “beta sea”").wait_for()
        assert page.get_by_role("link", name="Alpha searched").count() == 0
        assert page.evaluate("window.loaded") == "once"
        assert page.url.endswith("?search=beta+sea") or page.url.endswith("?search=beta%20sea")
        follow(page, "Beta searched")
        follow(page, "48 hours")
        page.locator("a[aria-current=true]", has_text="48 hours").wait_for()
        page.context.clear_cookies()
        follow(page, "30 days")  # a script's request, too, leads to the login as a page
        page.get_by_role("heading", name="Log in").wait_for()


def test_the_trial_shows_both_answers_side_by_side_and_keeps_no_credential(
    server: Server, browser: Browser, complaints: list[str], photo: bytes, tmp_path: Path
) -> None:
    key = issue(server, budget={"limit": 5})
    file = tmp_path / "photo.png"
    file.write_bytes(photo)
    with tab(browser.new_context(viewport=ViewportSize(width=360, height=800)), complaints) as page:
        page.goto(f"{server.url}/try")
        page.get_by_label("Image").set_input_files(file)
        page.get_by_text("Answered.").wait_for()
        everybody = page.locator("#public")
        assert everybody.locator("svg.bar").count() == 5
        assert "Give a credential" in page.locator("#own").inner_text()

        page.get_by_label("Credential (").fill(key["api_key"])
        press(page, "Ask")
        page.get_by_text("tier: distill").wait_for()
        assert everybody.get_by_text("tier: public").is_visible()
        assert page.get_by_text("4 answers of the budget are left.").is_visible()
        page.get_by_text("All logits").click()
        assert page.locator("#rows tr").count() == 10
        assert all(re.fullmatch(r"-?\d+\.\d{3}", cell) for cell in page.locator("#rows td").all_text_contents())
        assert hindrances(page) == []
        kept = page.evaluate("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])")
        assert key["api_key"] not in kept

        page.get_by_label("Credential (").fill("sdb_cli_wrong")
        press(page, "Ask")
        page.get_by_text("the presented credential is not valid").wait_for()
        assert everybody.locator("svg.bar").count() == 5
        other = tmp_path / "other.png"
        other.write_text("<b>no image</b>")
        page.get_by_label("Image").set_input_files(other)
        press(page, "Ask")
        page.get_by_text("The image format is not supported").first.wait_for()
        page.goto(f"{server.url}/console/login")
        page.go_back()
        assert page.get_by_label("Credential (").input_value() == ""
