"""Published holes: none that applies to the lock is open, and whichever is accepted says why, for how long, and what
shows that it does no harm.
"""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from app.advisories.known import Advisory, accepted, installed, locked, open_holes, snapshot
from tests.conftest import ROOT

LONGEST = timedelta(days=120)
OF_SERVERS = {"redis-server", "valkey-server"}


def test_no_hole_of_the_lock_is_open() -> None:
    assert list(open_holes(locked(ROOT / "requirements.lock"), datetime.now(UTC).date())) == []


def test_the_lock_is_what_the_snapshot_is_about() -> None:
    versions = dict(locked(ROOT / "requirements.lock"))
    assert len(versions) > 100
    assert {advisory.package for advisory in snapshot()} - OF_SERVERS <= versions.keys() | {"h11"}


def test_what_is_accepted_says_why_how_long_and_what_shows_it() -> None:
    known = {(advisory.id, advisory.package) for advisory in snapshot()}
    for entry in accepted():
        assert (entry.id, entry.package) in known
        assert len(entry.reason) > 60
        assert entry.since < entry.until <= entry.since + LONGEST
        path, _, name = entry.shown_by.partition("::")
        assert f"def {name}(" in (ROOT / path).read_text(), entry.shown_by


def test_nothing_is_accepted_that_does_not_apply() -> None:
    versions = dict(locked(ROOT / "requirements.lock"))
    applying = {
        (hole.id, hole.package)
        for hole in snapshot()
        if hole.package in versions and hole.applies(versions[hole.package])
    }
    assert {(entry.id, entry.package) for entry in accepted()} == applying


@pytest.mark.parametrize(
    ("affected", "version", "applies"),
    [
        ("<3.4.0", "3.3.9", True),
        ("<3.4.0", "3.4.0", False),
        (">=7.4,<7.4.6", "7.4.0", True),
        ("<=3.5.0", "3.5.0", True),
        ("<2.6.0", "2.14.1+cu130", False),
        ("<2.6.0", "2.5.0rc1", True),
        ("<1", "unknown", True),
    ],
)
def test_versions_are_compared_as_python_does(affected: str, version: str, applies: bool) -> None:
    assert Advisory("CVE-0", "any", affected, "").applies(version) == applies


def test_installed_packages_are_seen() -> None:
    assert {"torch", "python-jose", "safe-distillation-box"} <= installed().keys()


def test_tokens_are_made_and_read_without_ecdsa() -> None:
    """What python-jose calls of it would fail."""
    program = (
        "import sys; sys.modules['ecdsa'] = None\n"
        "from keys.material import Keyring\n"
        "from keys.tokens import TokenMint\n"
        "mint = TokenMint(Keyring([bytes(range(32))]), 60, lambda: 1_790_000_000.0)\n"
        "assert mint.verify(mint.issue('k', 1, frozenset({'distill'}))).key_id == 'k'\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", program], cwd=ROOT, check=True)  # noqa: S603 - ours


def test_the_guide_for_ray_keeps_its_dashboard_private() -> None:
    guide = (ROOT / "docs" / "scaling.md").read_text()
    assert "dashboard" in guide
    assert "CVE-2023-48022" in guide
