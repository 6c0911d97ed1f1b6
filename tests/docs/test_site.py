"""The documentation site builds without a warning, loads nothing from elsewhere, and is searched without a server."""

import os
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.docs.blocks import PAGES
from tests.end_to_end.browser import chromium

pytestmark = pytest.mark.slow
MKDOCS = shutil.which("mkdocs", path=str(ROOT / ".venv" / "bin")) or "mkdocs"
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}
NOT_LOADED = {"canonical", "next", "prev"}  # of <link>


class Loads(HTMLParser):
    """What a page makes a browser fetch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """One element; links that a reader may follow are not loaded."""
        values = dict(attrs)
        address = values.get(LOADING.get(tag, ""))
        if address and not (tag == "link" and values.get("rel") in NOT_LOADED):
            self.addresses.append(address)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it; its `strict` makes every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [MKDOCS, "build", "--site-dir", str(folder)]
    environment = {"PATH": os.defpath, "HOME": str(folder), "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_of_docs_is_on_the_site(site: Path) -> None:
    pages = {
        "index" if page.name == "README.md" else str(page.relative_to(ROOT / "docs").with_suffix("")) for page in PAGES
    }
    built = {str(page.relative_to(site).with_suffix("")) for page in site.rglob("*.html")}
    assert pages <= built
    assert {"reference/http", "reference/cli", "changes"} <= built


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text())
        assert not [address for address in loads.addresses if re.match(r"(https?:)?//", address)], page
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", sheet.read_text()), sheet


def test_the_generated_references_name_what_exists(site: Path) -> None:
    assert "/v1/models/{model}/predict" in (site / "reference" / "http.html").read_text()
    assert "sdb keys rotate" in (site / "reference" / "cli.html").read_text()
    client = (site / "reference" / "client.html").read_text()
    assert all(f'{call}"' in client for call in ("Api.with_options", "Api.predict", "SoftLabels.fetch"))


def test_the_site_is_searched_from_the_file_system(site: Path) -> None:
    with chromium() as browser:
        page = browser.new_page()
        page.goto((site / "index.html").as_uri())
        page.locator("input[name=query]").first.fill("overspend", force=True)
        page.locator(".md-search-result__link").first.wait_for(state="attached", timeout=30_000)
        found = page.locator(".md-search-result__link").evaluate_all("links => links.map(link => link.href)")
    assert any("guarantees.html" in link for link in found)
