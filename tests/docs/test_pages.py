"""Every block of the README and of docs/ runs as pasted, in its order, against the page's own server."""

import json
import re
import tomllib
from configparser import ConfigParser
from pathlib import Path

import httpx
import pytest
import yaml

from app.settings import ZOO
from models.bundles import load_manifest
from tests.conftest import ROOT, Server, encode, serving, smooth_images
from tests.docs.blocks import PAGES, PARSED, RUN, Step, blocks, name, steps
from tests.docs.reader import Failed, reading

ANYTHING = "…"
QUICK = {"docs/client.md"}  # what the default suite reads; the others train something, or are many
RUNNING = [page for page in PAGES if steps(page)]
LEFT_OUT = {f"{name(page)}:{block.line}": block.not_run for page in PAGES for block in blocks(page) if block.not_run}
GRANT = {"name": "partner", "scopes": ["predict", "distill"], "budget": {"limit": 10_000}}


def clone(folder: Path) -> Path:
    """A folder that looks like a clone with a few pictures of each class of the shipped model."""
    for part in (".venv", "benchmarks", "client", "docker", "docs", "examples", "models"):
        (folder / part).symlink_to(ROOT / part)
    classes = load_manifest(ZOO / "cifar10").classes
    for split, count in (("train", 300), ("test", 50)):
        for number, image in enumerate(smooth_images(count, seed=count).permute(0, 2, 3, 1).numpy()):
            place = folder / "images" / split / classes[number % len(classes)]
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.png").write_bytes(encode(image))
    return folder


def make_the_first_request(server: Server) -> None:
    """What the README begins with: a partner has a key, and has asked for one soft label."""
    answer = httpx.post(f"{server.url}/admin/v1/keys", json=GRANT, headers=server.admin)
    assert answer.status_code == 201, answer.text
    (server.state_dir / "partner.json").write_bytes(answer.content)
    headers = {"Authorization": f"Bearer {answer.json()['api_key']}"}
    image = (ROOT / "docs" / "example.png").read_bytes()
    asked = httpx.post(f"{server.url}/v1/models/cifar10/predict", content=image, headers=headers)
    assert asked.json()["tier"] == "distill"


def pattern(printed: str) -> re.Pattern[str]:
    """What a page says is printed, where `…` stands for anything."""
    return re.compile(re.escape(printed.strip()).replace(re.escape(ANYTHING), ".*"), re.DOTALL)


def check(step: Step, printed: str) -> None:
    if step.printed is not None and not pattern(step.printed).fullmatch(printed.strip()):
        raise Failed(f"printed\n{printed}\nand not\n{step.printed}")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=name(page), marks=() if name(page) in QUICK else pytest.mark.slow) for page in RUNNING],
)
@pytest.mark.timeout(600)
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    place = clone(tmp_path)
    with serving(place / "var", ZOO) as server, reading(place, server) as reader:
        make_the_first_request(server)
        for step in steps(page):
            where = f"{name(page)}:{step.code.line}"
            try:
                check(step, reader.run(step.code))
            except Failed as error:
                pytest.fail(f"{where}: {error}", pytrace=False)


def test_what_is_not_run_is_data_that_parses_or_says_why() -> None:
    for page in PAGES:
        for block in blocks(page):
            where = f"{name(page)}:{block.line}"
            if block.not_run is not None or not block.language:
                continue
            assert block.language in RUN | PARSED, f"{where}: {block.language} is not run, and no comment says why"
            if block.language == "json":
                json.loads(block.text)
            elif block.language == "toml":
                tomllib.loads(block.text)
            elif block.language == "yaml":
                list(yaml.safe_load_all(block.text))
            elif block.language == "ini":
                ConfigParser().read_string(block.text)


@pytest.mark.parametrize(("where", "reason"), LEFT_OUT.items())
def test_a_block_is_left_out_for_a_reason(where: str, reason: str) -> None:
    pytest.skip(f"{where}: {reason}")


def test_most_blocks_are_run() -> None:
    assert len(LEFT_OUT) < sum(len(steps(page)) for page in PAGES) / 2
