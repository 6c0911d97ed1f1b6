"""What `sdb doctor` looks at beside whether the server would start: who else could read, enter or rewind what it keeps.

Each finding says what is wrong and what to do about it, and never a secret. Knows files, addresses and versions.
"""

import ast
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from os import geteuid
from pathlib import Path
from typing import Literal

from app.advisories.known import open_holes
from app.settings import Settings
from keys.exposure import StoreAddress, StoreFacts
from keys.material import Keyring, Vault

OTHERS, OTHERS_WRITE = stat.S_IRWXG | stat.S_IRWXO, stat.S_IWGRP | stat.S_IWOTH
SECRET_FILES, SECRET_FOLDERS = ("master_key", "token_keys", "admin.key"), ("model-secrets", "store")
CLOCKS_APART_S = 1.0  # beyond it another replica takes a token for one from the future (keys/tokens.py)
SHORTEST_PASSWORD = 16
GUESSED_FIRST = {"redis", "valkey", "password", "passwd", "secret", "changeme", "admin", "default", "sdb", "123456"}
SOURCES, JOSE, JOSE_FILE = ("app", "keys", "models", "sdb_client"), "jose", "tokens.py"


Result = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: how it is, and what to do where it is not well."""

    check: str
    result: Result
    detail: str
    remedy: str = ""


def permissions(settings: Settings, secret_files: Mapping[str, Path]) -> list[Finding]:
    """Who else may read or replace what the server keeps secret."""
    kept = {str(path): _fault(path, mounted=False) for path in _kept(settings.state_dir)}
    given = {f"{name}: {path}": _fault(path, mounted=True) for name, path in secret_files.items()}
    faults = {named: fault for named, fault in {**kept, **given}.items() if fault is not None}
    if not faults:
        return [Finding("permissions", "ok", f"what {settings.state_dir} keeps secret is this user's alone")]
    return [
        Finding("permissions", result, f"{named} {how}", f"{remedy} {named.rpartition(': ')[2]}")
        for named, (result, how, remedy) in faults.items()
    ]


def _kept(folder: Path) -> Iterator[Path]:
    """The state folder and what it keeps secret; what lies in a folder that nobody else enters is not looked at."""
    yield folder
    for path in (folder / name for name in SECRET_FILES):
        yield path
    for path in (folder / name for name in SECRET_FOLDERS):
        yield path
        if path.is_dir() and path.stat().st_mode & OTHERS:
            yield from sorted(path.rglob("*"))


def _fault(path: Path, *, mounted: bool) -> tuple[Result, str, str] | None:
    """How a file is open to others, and what closes it; one that is mounted is often open to all of a container."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        return None
    mode, folder = stat.S_IMODE(status.st_mode), stat.S_ISDIR(status.st_mode)
    closes = "chmod 700" if folder else "chmod 600"
    if mode & OTHERS_WRITE:
        return "fail", f"has mode {mode:o}: others may write to it", closes
    if status.st_uid != geteuid() and not mounted:
        return "fail", f"belongs to user {status.st_uid}, who can replace it", f"chown {geteuid()}"
    if mode & OTHERS:
        return "warn" if mounted or folder else "fail", f"has mode {mode:o}: others may read it", closes
    return None


def defaults(settings: Settings, vault: Vault, token_keys: Keyring) -> Iterator[Finding]:
    """Secrets that others know or can guess, or that open more than they should."""
    if vault.newest in {Vault(Keyring([secret])).newest for secret in token_keys}:
        detail = "SDB_MASTER_KEY and SDB_TOKEN_KEYS hold the same secret"
        yield Finding("default secrets", "fail", detail, "give each its own 32 random bytes, and rotate the old out")
    password = StoreAddress.of(settings.redis_url.get_secret_value()).password
    if password.lower() in GUESSED_FIRST:
        detail = "the password in SDB_REDIS_URL is among those that are guessed first"
        yield Finding("default secrets", "fail", detail, "set a random one, in the store and in SDB_REDIS_URL_FILE")
    elif 0 < len(password) < SHORTEST_PASSWORD:
        detail = f"the password in SDB_REDIS_URL has fewer than {SHORTEST_PASSWORD} characters"
        yield Finding("default secrets", "warn", detail, "set a longer one, for instance of `openssl rand -hex 32`")


def store(url: str, facts: StoreFacts) -> Iterator[Finding]:
    """Who else could reach the store and enter it, and whether its clock is ours."""
    address = StoreAddress.of(url)
    known = False
    if facts.without_password and (facts.beyond_loopback or not address.local):
        known = True
        detail = "whoever reaches the store is let in without a password, and other machines reach it"
        yield Finding("store exposure", "fail", detail, "set `requirepass` (or ACLs), and bind it to a private address")
    if not address.local and not address.password and not known:
        known = True
        yield Finding("store exposure", "warn", "SDB_REDIS_URL gives no password", "give the store one")
    if not address.local and not address.encrypted:
        known = True
        detail = "what goes to the store and back is not encrypted, and leaves this machine"
        yield Finding("store exposure", "warn", detail, "use rediss://, or a network that is encrypted itself")
    if not known:
        yield Finding("store exposure", "ok", "no stranger enters it, as far as it tells")
    yield _clock(facts.ahead_s)


def _clock(ahead_s: float) -> Finding:
    detail = f"the store's clock is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    if abs(ahead_s) > CLOCKS_APART_S:
        return Finding("clock", "fail", detail, "run an NTP service on both: tokens and budgets go by the time")
    return Finding("clock", "ok", "the store's clock and this machine's agree")


def jose_imports() -> Finding:
    """python-jose has published holes that nobody fixes: one file guards it, and no other may use it."""
    users = [path for package in SOURCES for path in _files(package) if _imports_jose(path)]
    astray = [str(path) for path in users if path.name != JOSE_FILE or path.parent.name != "keys"]
    if astray:
        return Finding("python-jose", "fail", f"imported by {', '.join(astray)}", "use keys.tokens.TokenMint instead")
    return Finding("python-jose", "ok", "used by keys/tokens.py alone")


def _files(package: str) -> list[Path]:
    spec = find_spec(package)
    folders = spec.submodule_search_locations if spec is not None else None
    return [path for folder in folders or () for path in sorted(Path(folder).rglob("*.py"))]


def _imports_jose(path: Path) -> bool:
    text = path.read_text(encoding="utf-8")
    if JOSE not in text:
        return False
    nodes = list(ast.walk(ast.parse(text)))
    names = [name.name for node in nodes if isinstance(node, ast.Import) for name in node.names]
    names += [str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)]
    return any(name.partition(".")[0] == JOSE for name in names)


def versions(found: Mapping[str, str], today: date) -> Iterator[Finding]:
    """Published holes of what runs here, but those that are accepted (docs/supply-chain.md)."""
    holes = list(open_holes(found.items(), today))
    for hole in holes:
        detail = f"{hole.package} {found[hole.package]} has {hole.id}: {hole.summary}"
        yield Finding("known holes", "fail", detail, f"install a version outside {hole.affected}")
    if not holes:
        yield Finding("known holes", "ok", f"none in {len(found)} packages, as far as this release knows")


def failed(findings: Iterable[Finding]) -> bool:
    """Whether something must be done before the server is used."""
    return any(finding.result == "fail" for finding in findings)
