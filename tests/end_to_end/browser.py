"""A headless Chromium that looks at a server's pages, and whether anybody could use them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

WIDTHS = {"phone": 360, "desktop": 1200}
Theme = Literal["light", "dark"]


@contextmanager
def chromium() -> Iterator[Browser]:
    """The machine's own Chromium; the test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("no Chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def tab(context: BrowserContext, complaints: list[str]) -> Iterator[Page]:
    """A page of a fresh profile; what its scripts and its content security policy complain of is collected."""
    context.set_default_timeout(20_000)
    page = context.new_page()
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", lambda said: complaints.extend([said.text] if "Security Policy" in said.text else []))
    page.add_init_script("window.alert = (text) => { throw new Error(`alert: ${text}`) }")
    yield page
    context.close()


def log_in(page: Page, url: str, api_key: str) -> None:
    """Through the login page, to wherever it leads."""
    page.goto(f"{url}/console/login")
    page.get_by_label("API key").fill(api_key)
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("button", name="Log out").wait_for()


def hindrances(page: Page) -> list[str]:
    """What is in somebody's way on the page as it is now: axe's findings, and what is wider than the window."""
    found = [
        f"{violation['id']}: {node['html'][:200]}"
        for violation in Axe().run(page).response["violations"]
        for node in violation["nodes"]
    ]
    beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return found + ([f"{beyond} pixels beyond the window"] if beyond > 0 else [])
