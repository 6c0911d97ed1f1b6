"""docs/operation.md lists every setting with its default, and no other, every command, and every refusal."""

import re
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.cli import COMMANDS
from app.errors import STATUS
from app.settings import PREFIX, SECRETS, ZOO, Settings
from tests.conftest import ROOT

PAGE = (ROOT / "docs" / "operation.md").read_text()
IN_WORDS: dict[object, set[str]] = {  # defaults that a table says in words
    ZOO: {"the shipped zoo"},
    0: {"0", "0 = all"},
    "": {"empty", "empty = embedded", "generated", "none", "off"},
    None: {"600; unlimited on loopback", "none"},
    (): {"none"},
    16 * 2**20: {"16 MiB"},
    25_000_000: {"25 Mpx"},
}


def table() -> dict[str, tuple[str, bool]]:
    """Variable → (default as written, whether it is called a secret)."""
    found: dict[str, tuple[str, bool]] = {}
    for row in re.findall(r"^\| (`SDB_.*) \|$", PAGE, re.MULTILINE):
        variables, default, *_ = row.split(" | ")
        names = re.findall(r"`(SDB_\w+)`", variables)
        defaults = default.split(", ") if len(names) > 1 else [default]
        assert len(defaults) == len(names), row
        for name, value in zip(names, defaults, strict=True):
            found[name] = (value.strip("`"), "(secret)" in variables)
    return found


def written(value: object) -> set[str]:
    """How a default may stand in the table."""
    plain = value.get_secret_value() if isinstance(value, SecretStr) else value
    if isinstance(plain, bool):
        return {str(plain).lower()}
    exact = {str(plain)}
    if isinstance(plain, float):
        exact |= {f"{plain:g}", f"{plain:,g}"}
    if isinstance(plain, int):
        exact.add(f"{plain:,}")
    return exact | (IN_WORDS.get(plain, set()) if isinstance(plain, int | str | Path | tuple | None) else set())


def test_the_table_lists_exactly_the_settings() -> None:
    assert set(table()) == {f"{PREFIX}{name.upper()}" for name in Settings.model_fields}


@pytest.mark.parametrize("name", Settings.model_fields)
def test_a_default_is_the_documented_one(name: str) -> None:
    default, secret = table()[f"{PREFIX}{name.upper()}"]
    assert default in written(Settings.model_fields[name].get_default())
    assert secret == (name in SECRETS)


def test_every_command_is_listed() -> None:
    listed = PAGE.partition("## Commands")[2].partition("\n## ")[0]
    assert {command for command in COMMANDS if f"`sdb {command}" not in listed} == set()


def test_the_refusals_are_listed_with_their_statuses() -> None:
    rows = re.findall(r"^\| (\d{3}) \| (`.*?`) \|", PAGE.partition("## Refusals")[2], re.MULTILINE)
    listed = {code: int(status) for status, codes in rows for code in re.findall(r"`([a-z0-9-]+)`", codes)}
    assert listed == {code: status for code, (status, _) in STATUS.items()}
