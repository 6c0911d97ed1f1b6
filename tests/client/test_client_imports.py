"""What the import of the client loads: counted in modules, which no slow machine changes."""

import subprocess
import sys

import pytest

HEAVY = {
    "torch",
    "torchvision",
    "PIL",
    "pydantic",
    "fastapi",
    "cwt",
    "redis",
    "pyarrow",
    "matplotlib",
    "app",
    "keys",
    "models",
}
SHOW = "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"


def loaded(code: str) -> set[str]:
    """The top-level names of what a fresh interpreter has loaded after `code`."""
    command = [sys.executable, "-c", code + SHOW]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())  # noqa: S603


def test_the_package_alone_loads_nothing_but_itself() -> None:
    assert loaded("import sdb_client") - loaded("import importlib, typing") == {"sdb_client"}


def test_the_client_loads_nothing_heavy() -> None:
    found = loaded("from sdb_client import Client, AsyncClient, NewKey, SdbError")
    assert {"httpx", "msgspec", "sdb_client"} <= found
    assert not found & HEAVY


def test_the_server_needs_no_http_client_for_what_both_ends_share() -> None:
    found = loaded("from sdb_client import sealed, transforms, views, environment")
    assert not found & {"httpx", "msgspec", "torch"}


def test_an_unknown_name_is_an_attribute_error_like_any() -> None:
    import sdb_client  # noqa: PLC0415

    with pytest.raises(AttributeError, match="no attribute 'Clint'"):
        _ = sdb_client.Clint  # type: ignore[attr-defined]
    assert set(sdb_client.__all__) <= set(dir(sdb_client))
