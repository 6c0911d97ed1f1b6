"""The pictures of docs/console.md: `python -m tests.end_to_end.screenshots`, from a server of its own.

The keys and the usage in them are made up.
"""

import asyncio
import json
import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from PIL import Image
from playwright.sync_api import Browser, Page, ViewportSize

from keys.connection import connect
from keys.embedded import EmbeddedStore
from keys.records import instant
from tests.conftest import ROOT, Server, free_port, start_server
from tests.end_to_end.browser import chromium, log_in, tab

FIGURES, EXAMPLE = ROOT / "docs" / "figures", ROOT / "docs" / "example.png"
DESKTOP, PHONE = ViewportSize(width=960, height=640), ViewportSize(width=360, height=720)
COLOURS = 96
HOUR_S, DAYS = 3600, 24
GRANTS: list[dict[str, object]] = [
    {"name": "Archive, until spring", "scopes": ["distill"], "budget": {"limit": 500}},
    {"name": "Eye clinic", "scopes": ["decrypt"], "image_key": {"scheme": "sealed"}},
    {
        "name": "Vision lab",
        "scopes": ["distill"],
        "budget": {"limit": 20_000},
        "rate_limits": [{"name": "per-minute", "limit": 600, "window_s": 60}],
        "metadata": {"contract": "7/2026"},
    },
]


@contextmanager
def server(folder: Path) -> Iterator[Server]:
    running = start_server(folder / "var", ROOT / "models" / "zoo", free_port())
    yield running
    running.process.send_signal(signal.SIGTERM)
    running.process.wait(timeout=40)


def issue(server: Server) -> list[dict[str, str]]:
    answers = [httpx.post(f"{server.url}/admin/v1/keys", json=grant, headers=server.admin) for grant in GRANTS]
    httpx.post(f"{server.url}/admin/v1/keys/{answers[0].json()['id']}/disable", headers=server.admin)
    return [answer.json() for answer in answers]


async def make_up_usage(server: Server, key_id: str) -> None:
    """Twenty-four days of work, as the store counts it."""
    draw, now = random.Random(5), int(time.time()) // HOUR_S  # noqa: S311 - a picture
    name = f"sdb:{{{key_id}}}"
    async with connect(EmbeddedStore(server.state_dir / "store").url) as client:
        for hour in range(now - DAYS * 24, now):
            busy = 7 < hour % 24 < 19
            for outcome, most in {"served": 60, "public": 12, "rate-limited": 9}.items():
                images = str(draw.randrange(most) if busy else 0)
                await client.hset(f"{name}:usage:{hour // 24}", f"{hour}:{outcome}:cifar10", images)
        record = json.loads(str(await client.hget(name, "record")))
        record["created_at"] = instant((now - DAYS * 24) * HOUR_S).isoformat()
        mapping: dict[Any, Any] = {"used": 14240, "last_used": now * HOUR_S, "record": json.dumps(record)}
        await client.hset(name, mapping=mapping)


def save(page: Page, name: str, whole: bool = False) -> None:
    """A small PNG."""
    path = FIGURES / f"{name}.png"
    page.mouse.move(0, 0)
    page.screenshot(path=path, full_page=whole)
    with Image.open(path) as picture:
        picture.convert("RGB").quantize(COLOURS).save(path, optimize=True)


def shoot(browser: Browser, server: Server, keys: list[dict[str, str]]) -> None:
    holder = keys[-1]
    with tab(browser.new_context(viewport=DESKTOP), []) as page:
        log_in(page, server.url, (server.state_dir / "admin.key").read_text().strip())
        save(page, "console-keys")
        page.goto(f"{server.url}/console/keys/{holder['id']}")
        save(page, "console-key")
        page.goto(f"{server.url}/console/audit")
        save(page, "console-audit")
        page.goto(f"{server.url}/try")
        page.locator("#credential").fill(holder["api_key"])
        page.locator("#image").set_input_files(EXAMPLE)
        page.get_by_role("button", name="Ask").click()
        page.get_by_text("Answered.").wait_for()
        save(page, "try", whole=True)
    with tab(browser.new_context(viewport=PHONE, color_scheme="dark"), []) as page:
        log_in(page, server.url, holder["api_key"])
        save(page, "console-holder")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as running:
        keys = issue(running)
        asyncio.run(make_up_usage(running, keys[-1]["id"]))
        with chromium() as browser:
            shoot(browser, running, keys)


if __name__ == "__main__":
    main()
