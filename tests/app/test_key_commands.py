"""`sdb keys`, beside a running server and without one: does what REST does, and shows the same."""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from pydantic import SecretStr

from app.settings import Settings
from app.state import State
from keys.material import to_text
from tests.app.processes import EXTRA, Json, Outcome, sdb, sdb_here, sdb_without
from tests.conftest import Api, bearer

KEYS, PREDICT = "/admin/v1/keys", "/v1/models/tiny/predict"
Command = Callable[..., Awaitable[Outcome]]


@pytest.fixture
def keys(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Command:
    """`sdb keys …` in this process, beside the server of `settings`."""
    monkeypatch.setenv("SDB_STATE_DIR", str(settings.state_dir))

    async def run(*arguments: str) -> Outcome:
        return await asyncio.to_thread(sdb_here, "keys", *arguments)

    return run


async def test_keys_made_and_revoked_beside_a_running_server_take_effect_at_once(
    api: Api, settings: Settings, zoo: Path, photo: bytes
) -> None:
    var = settings.state_dir
    options = ("--scope", "distill", "--model", "tiny", "--budget", "5", "--expires-at", "2099-01-01T00:00:00")
    created, unknown = await asyncio.gather(
        sdb(var, zoo, "keys", "create", "--name", "partner", *options, "--json", TZ="America/New_York"),
        sdb(var, zoo, "keys", "show", "key_none", "--json"),
    )
    unknown.assert_one_line("key_none")
    assert (created.status, created.err) == (0, "")
    key = created.record
    assert re.fullmatch(r"sdb_cli_[0-9A-Za-z]{38}", key["api_key"])
    answer = await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    assert (answer.json()["tier"], answer.json()["budget"]) == ("distill", {"limit": 5, "remaining": 4})
    own = (await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))).json()
    assert (own["name"], own["scopes"], own["models"]) == ("partner", ["distill", "predict"], ["tiny"])

    revoked = await sdb(var, zoo, "keys", "revoke", key["id"], "--json")
    assert revoked.record["state"] == "revoked"
    assert "api_key" not in revoked.record
    assert (await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))).status_code == 401

    # `--expires-at` is UTC, wherever the admin sits.
    assert (key["expires_at"], own["expires_at"]) == ("2099-01-01T00:00:00Z",) * 2


async def test_every_act_is_what_rest_does_and_shows_what_rest_shows(api: Api, keys: Command, photo: bytes) -> None:
    limits = ("--rate-limit", "burst:60/1m", "--rate-limit", "day:1000/d", "--metadata", "contract=7/2026=a")
    options = ("--scope", "distill", "--budget", "5", "--refill", "daily", "--expires-at", "2099-01-01", *limits)
    created = (await keys("create", "--name", "partner", *options, "--json")).record
    where, api_key = f"{KEYS}/{created['id']}", created.pop("api_key")
    windows = [{"name": "burst", "limit": 60, "window_s": 60}, {"name": "day", "limit": 1000, "window_s": 86400}]
    assert (created["rate_limits"], created["metadata"]) == (windows, {"contract": "7/2026=a"})
    assert (created["budget"]["refill"], created["expires_at"]) == ("daily", "2099-01-01T00:00:00Z")

    async def shown() -> Json:
        found: Json = (await api.client.get(where, headers=api.admin)).json()
        return found

    assert created == await shown()
    updates: list[tuple[tuple[str, ...], Json]] = [
        (("--name", "b", "--model", "tiny"), {"name": "b", "models": ["tiny"]}),
        (("--expires-at", "never"), {"expires_at": None}),
        (("--rate-limit", "none", "--metadata", "none"), {"rate_limits": [], "metadata": {}}),
        (("--mark", "0.75"), {"mark": 0.75}),
        (("--budget", "9"), {"budget": {**created["budget"], "limit": 9, "remaining": 9}}),
        (
            ("--refill", "none"),
            {"budget": {**created["budget"], "limit": 9, "remaining": 9, "refill": "none", "resets_at": None}},
        ),
    ]
    expected = created
    for given, changed in updates:
        expected = {**expected, **changed}
        assert (await keys("update", created["id"], *given, "--json")).record == await shown() == expected
    topped = (await keys("top-up", created["id"], "3", "--json")).record
    assert topped == await shown()
    assert (topped["budget"]["granted"], topped["budget"]["remaining"]) == (3, 12)
    for act, state in (("disable", "disabled"), ("enable", "active")):
        assert (await keys(act, created["id"], "--json")).record == await shown() == {**topped, "state": state}
    rotated = (await keys("rotate", created["id"], "--overlap-s", "60", "--json")).record
    for credential in (api_key, rotated.pop("api_key")):
        assert (await api.client.post(PREDICT, content=photo, headers=bearer(credential))).json()["tier"] == "distill"
    assert rotated == topped
    unlimited = (await keys("update", created["id"], "--budget", "unlimited", "--json")).record
    assert unlimited["budget"] == {"limit": None, "remaining": None, "granted": 3, "refill": "none", "resets_at": None}

    for bucket in ("day", "hour"):
        answer = await api.client.get(f"{where}/usage", params={"bucket": bucket}, headers=api.admin)
        assert (await keys("usage", created["id"], "--bucket", bucket, "--json")).record == answer.json()
        assert [row["images"] for row in answer.json()["usage"]] == [2]
    assert (
        (await keys("revoke", created["id"], "--json")).record
        == await shown()
        == {
            **unlimited,
            "state": "revoked",
            "last_used_at": (await shown())["last_used_at"],
        }
    )
    other = await api.issue(name="other")
    found = (await keys("list", "--search", "OTH", "--json")).records
    assert [key["id"] for key in found] == [other["id"]]
    listed = await api.client.get(KEYS, headers=api.admin)
    assert (await keys("list", "--json")).records == listed.json()["keys"]
    actors = {
        entry["actor"]
        for entry in (
            await api.client.get("/admin/v1/audit", params={"target": created["id"]}, headers=api.admin)
        ).json()["entries"]
    }
    assert actors == {"cli", "server"}, "who notes since when its answers are marked"


async def test_people_read_what_is_left_and_when_it_ends(api: Api, keys: Command, photo: bytes) -> None:
    key = await api.issue(4, expires_at="2099-01-01T00:00:00Z", metadata={"team": "vision"})
    await api.client.post(PREDICT, content=photo, headers=bearer(key["api_key"]))
    card = (await keys("show", key["id"])).out
    lines = [" ".join(line.split()) for line in card.splitlines()]
    assert "left ████░ 3 of 4" in lines
    assert "metadata team=vision" in lines
    assert any(re.fullmatch(r"expires 2099-01-01 00:00:00 UTC \(in \d+ years\)", line) for line in lines), card
    created = await keys("create", "--name", "c", "--scope", "decrypt", "--image-key", "sealed")
    assert re.search(r"^API key +sdb_cli_[0-9A-Za-z]{38} *$", created.out, re.MULTILINE), created.out
    assert re.search(r"^image key's secret +[0-9A-Za-z_-]{43} *$", created.out, re.MULTILINE), created.out
    listed = (await keys("list")).out
    assert key["id"] in listed
    assert (await keys("usage", key["id"])).out.count("served") == 1
    nothing = await keys("list", "--search", "nothing such")
    assert (nothing.out, nothing.err) == ("", "none\n")


async def test_a_name_can_neither_command_the_terminal_nor_the_table(api: Api, keys: Command) -> None:
    key = await api.issue(name="[/x] [red]a\u202eb\x9b2J", metadata={"x": "\x1b[2J\r[bold]"})
    for command in (("list",), ("show", key["id"])):
        out = (await keys(*command)).out
        assert "[/x]" in out
        assert [letter for letter in out if not letter.isprintable() and letter != "\n"] == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("create --name=", "name"),
        ("create --name a --scope root", "scopes"),
        ("create --name a --budget many", "'many'"),
        ("create --name a --budget=-1", "'-1'"),
        ("create --name a --budget=", "''"),
        ("create --name a --budget 9007199254740992", "budget.limit"),
        ("create --name a --refill daily", "unlimited budget has no refill"),
        ("create --name a --rate-limit burst", "burst:60/1m"),
        ("create --name a --rate-limit burst:60", "burst:60/1m"),
        ("create --name a --rate-limit burst:60/1w", "burst:60/1m"),
        ("create --name a --rate-limit burst:0/1m", "rate_limits.0.limit"),
        ("create --name a --rate-limit a:1/1s --rate-limit a:2/1s", "one name"),
        ("create --name a --rate-limit none --rate-limit a:2/1s", "'none'"),
        ("create --name a --expires-at tomorrow", "'tomorrow'"),
        ("create --name a --metadata team", "NAME=VALUE"),
        ("create --name a --image-key sealed", "scope decrypt"),
        ("create --name a --admin --scope decrypt --image-key sealed", "admin"),
        ("update key_none --budget many", "key_none"),
        ("update key_none --name b", "key"),
        ("top-up key_none 1", "key"),
        ("rotate key_none", "key"),
        ("usage key_none", "key_none"),
    ],
)
def test_what_cannot_be_is_one_line_and_makes_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: str, why: str
) -> None:
    monkeypatch.setenv("SDB_STATE_DIR", str(tmp_path / "var"))
    sdb_here("keys", *options.split()).assert_one_line(why)
    assert not (tmp_path / "var" / "store").exists() or sdb_here("keys", "list", "--json").records == []


def test_who_lists_the_keys_of_a_store_that_no_server_has_used_is_told_how_to_name_the_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDB_STATE_DIR", str(tmp_path / "var"))
    listed = sdb_here("keys", "list", "--json")
    assert (listed.status, listed.records) == (0, [])
    assert "SDB_STATE_DIR" in listed.err


async def test_without_a_server_keys_outlive_the_command_that_made_them(tmp_path: Path, zoo: Path) -> None:
    var = tmp_path / "var"
    created = await sdb(var, zoo, "keys", "create", "--name", "boss", "--admin", "--json")
    assert (created.status, created.err) == (0, "")
    key = created.record
    listed = await sdb(var, zoo, "keys", "list", "--json")
    api_key = key.pop("api_key")
    assert re.fullmatch(r"sdb_adm_[0-9A-Za-z]{38}", api_key)
    assert listed.records == [key]
    assert api_key not in listed.out
    assert (key["name"], key["kind"], key["scopes"], key["expires_at"]) == ("boss", "admin", [], None)
    assert var.stat().st_mode & 0o777 == 0o700
    assert (var / "master_key").stat().st_mode & 0o777 == 0o600


async def test_image_keys_are_looked_after_beside_a_running_server(api: Api, keys: Command) -> None:
    create = ("create", "--name", "clinic", "--scope", "decrypt", "--json")
    (await keys(*create[:3], "--image-key", "sealed")).assert_one_line("scope decrypt")
    (await keys(*create, "--image-key", "pixel:shf:4:5")).assert_one_line("image_key")
    key = (await keys(*create, "--image-key", "pixel:shf:4")).record
    first = key["image_key"]
    assert (first["scheme"], first["transform"], first["block"], len(first["secret"])) == ("pixel", "shf", 4, 43)
    own = (await api.client.get("/v1/keys/self", headers=bearer(key["api_key"]))).json()
    assert own["image_key"] == {name: value for name, value in first.items() if name != "secret"}

    second = (await keys("new-image-key", key["id"], "pixel:np:8", "--overlap-s", "60", "--json")).record
    listed, shown = await keys("image-keys", key["id"], "--json"), await keys("show", key["id"], "--json")
    (await keys("retire-image-key", key["id"], "img_nobody")).assert_one_line("img_nobody")
    states = [(image_key["kid"], image_key["state"]) for image_key in listed.records]
    assert states == [(second["kid"], "active"), (first["kid"], "retiring")]
    assert shown.record["image_key"] == listed.records[0]
    for secret in (first["secret"], second["secret"]):
        assert secret not in listed.out + shown.out
    retired = (await keys("retire-image-key", key["id"], second["kid"], "--json")).record
    assert (retired["kid"], retired["state"]) == (second["kid"], "retired")


def test_after_a_rewrap_the_new_master_key_alone_opens_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    var, (old, new) = tmp_path / "var", (to_text(hashlib.sha256(name).digest()) for name in (b"old", b"new"))
    state = State(Settings(state_dir=var, master_key=SecretStr(old)))
    secret = state.new_model_secret("tiny")
    monkeypatch.setenv("SDB_STATE_DIR", str(var))

    def keys(ring: str, *arguments: str) -> Outcome:
        monkeypatch.setenv("SDB_MASTER_KEY", ring)
        return sdb_here("keys", *arguments, "--json")

    key = keys(old, "create", "--name", "clinic", "--scope", "decrypt", "--image-key", "sealed").record
    assert keys(old, "new-tracing-secret").record == {"generation": 1}

    too_early = keys(new, "rewrap")
    assert too_early.status == 1
    assert "SDB_MASTER_KEY" in too_early.err
    assert too_early.record["model_secrets"]["unreadable"] == ["model-secret/tiny"]
    assert len(too_early.record["image_keys"]["unreadable"]) == 1
    assert too_early.record["tracing_secrets"]["unreadable"] == ["tracing-secret/1"]

    done = {"resealed": 1, "current": 0, "unreadable": []}
    again = {"resealed": 0, "current": 1, "unreadable": []}
    for ring, tally in ((f"{new},{old}", done), (f"{new},{old}", again), (new, again)):
        rewrapped = keys(ring, "rewrap")
        assert (rewrapped.status, rewrapped.err) == (0, "")
        assert rewrapped.record == {
            "model_secrets": tally,
            "image_keys": tally,
            "tracing_secrets": tally,
            "waiting": [key["id"]],
        }
    assert State(Settings(state_dir=var, master_key=SecretStr(new))).model_secret("tiny", tmp_path) == (secret, False)
    assert [path.name for path in (var / "model-secrets").iterdir()] == ["tiny.sealed"]


async def test_keys_are_looked_after_without_torch(tmp_path: Path) -> None:
    listed, unknown = await asyncio.gather(
        sdb_without(f"{EXTRA},torch,numpy", tmp_path, "keys", "list", "--json"),
        sdb_without(f"{EXTRA},torch,numpy", tmp_path, "keys", "show"),
    )
    assert (listed.status, listed.out, listed.err.count("\n")) == (0, "[]\n", 1), "the store is new, and that is said"
    assert unknown.status == 2
    (await sdb_without(f"{EXTRA},torch,numpy", tmp_path, "keys", "show", "key_none")).assert_one_line("key_none")
