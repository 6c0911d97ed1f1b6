"""Laws of the profile `ha`: the compose file's own commands make stores that fail over and lose nothing."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import ROOT, until
from tests.deployment.manifests import MAKE_SECRETS
from tests.deployment.stage import ADDRESSES, Stage, stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
eventually = partial(until, within_s=90)
SDB = str(ROOT / ".venv" / "bin" / "sdb")


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stage]:
    if os.geteuid() != 0 or shutil.which("redis-server") is None:
        pytest.skip("takes root and Redis")
    try:
        with stage(tmp_path) as running:
            yield running
    except PermissionError as error:
        pytest.skip(str(error))


def primary(stores: Stage) -> set[str]:
    """Who the Sentinels say it is."""
    answers = (stores.ask(name, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "sdb") for name in ADDRESSES if "sent" in name)
    return {answer.partition("\n")[0] for answer in answers}


def follows(stores: Stage, name: str) -> bool:
    """Whether this store gets what the primary writes."""
    return "master_link_status:up" in stores.ask(name, "INFO", "replication")


def agree(stores: Stage) -> bool:
    """Whether all three Sentinels can be heard."""
    return stores.ask("sentinel-1", "SENTINEL", "CKQUORUM", "sdb").startswith("OK 3 ")


def start_all(stores: Stage) -> None:
    """The profile, until its Sentinels agree and know the replica."""
    stores.start("redis")
    eventually(lambda: stores.ask("redis", "PING") == "PONG\n", what="the first store answers")
    for name in ADDRESSES:
        if name != "redis":
            stores.start(name)
    eventually(lambda: follows(stores, "redis") or follows(stores, "redis-replica"), what="one follows the other")
    eventually(lambda: agree(stores), what="the Sentinels agree")
    eventually(
        lambda: "redis-replica" in stores.ask("sentinel-1", "SENTINEL", "REPLICAS", "sdb"), what="they know the replica"
    )


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(stores: Stage, tmp_path: Path) -> None:
    files = {
        f"SDB_{name.upper()}_FILE": str(stores.secrets / name) for name in ("redis_url", "master_key", "token_keys")
    }
    settings = {"SDB_STATE_DIR": str(tmp_path / "var"), "SDB_REDIS_REPLICAS": "1", **files}

    def issue(name: str) -> bool:
        """Whether an admin was told of a key; a replica has heard of it then."""
        made = stores.run(SDB, "keys", "create", "--name", name, "--json", **settings)
        return bool(made) and json.loads(made)["name"] == name

    start_all(stores)
    assert issue("before")

    stores.kill("redis")
    eventually(lambda: primary(stores) == {"redis-replica"}, what="the replica is promoted")
    assert not issue("alone"), "nobody else has heard of it"
    stores.start("redis")
    eventually(lambda: follows(stores, "redis"), what="the old primary follows")
    eventually(lambda: issue("after"), what="changes are acknowledged again")
    listed = {key["name"] for key in json.loads(stores.run(SDB, "keys", "list", "--json", **settings))}
    assert {"before", "after"} <= listed


def test_a_new_password_counts_where_sentinels_have_had_the_old_one_written_down(stores: Stage) -> None:
    start_all(stores)
    stores.kill("redis")
    eventually(lambda: primary(stores) == {"redis-replica"}, what="the replica is promoted, and its role written down")
    stores.start("redis")
    eventually(lambda: follows(stores, "redis"), what="the old primary follows")
    for name in ADDRESSES:
        stores.kill(name)
    old = (stores.secrets / "redis_password").read_text().strip()
    for name in ("redis_password", "redis_auth"):
        (stores.secrets / name).unlink()
    subprocess.run([MAKE_SECRETS, stores.secrets, "ha"], check=True)  # noqa: S603

    for name in ADDRESSES:
        stores.start(name)
    eventually(lambda: follows(stores, "redis"), what="the stores know each other by the new password")
    for name in ("redis", "redis-replica"):
        assert "PONG" not in stores.run("redis-cli", "-h", name, "PING", REDISCLI_AUTH=old)
    eventually(lambda: agree(stores), what="the Sentinels agree")
    stores.kill("redis-replica")
    eventually(lambda: primary(stores) == {"redis"}, what="they watch the stores by the new password")
