"""The audit log: it says who did what, and whoever changes what it said is found out."""

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import pytest
from redis.asyncio import Redis

from keys import audit
from keys.budget_store import Ask
from keys.errors import ChangeRefused, QuotaExceeded, UnknownKey
from keys.image_keys import ImageKeyGrant
from keys.layout import AUDIT, HEAD
from keys.material import Keyring, Vault, to_text
from keys.records import Act, BudgetGrant, KeyGrant, KeyPatch, Origin, RateLimit
from keys.service import KeyService
from tests.keys.conftest import ADMIN, MASTER, NEXT_MASTER, Clock, another_service, embedded, hurried, issue

STRANGER = Vault(Keyring([NEXT_MASTER]))
Log = list[dict[Any, Any]]
"""The entries of the log as the store has them."""


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with hurried(embedded(tmp_path_factory.mktemp("audit"))) as url:
        yield url


async def write(service: KeyService, count: int = 5) -> None:
    """Some history: a key, and what was granted to it."""
    key = (await issue(service, name="Müller & Söhne “β”")).record
    for number in range(1, count):
        await service.lifecycle.top_up(key.id, number, Act("key_admin", f"request-{number}", "192.0.2.1"))


async def stored(client: Redis) -> Log:
    entries: Any = await client.xrange(AUDIT)
    return [entry for _, entry in entries]


async def rewrite(client: Redis, log: Log, head: str | None = None) -> None:
    """Put another log in the place of the one that is there, as who can write to the store could."""
    async with client.pipeline() as pipeline:
        pipeline.delete(AUDIT)
        for entry in log:
            pipeline.xadd(AUDIT, entry)
        if head is not None:
            pipeline.set(HEAD, head)
        await pipeline.execute()


async def intact(service: KeyService) -> bool:
    verdict = await service.audit.verify()
    assert verdict.intact == (verdict.problem is None)
    return verdict.intact and not verdict.unsealed


def head_of(entry: dict[Any, Any]) -> str:
    last = json.loads(entry["entry"])
    return json.dumps({"seq": json.loads(last["body"])["seq"], "hash": last["hash"]})


# --- what it says


async def test_an_empty_log_is_whole(service: KeyService) -> None:
    assert await service.audit.verify() == audit.Verdict(0, "", True)
    assert await service.audit.page(None, 10) == ([], None)


async def test_every_change_is_written_with_who_when_what_and_where_from(service: KeyService) -> None:
    act = Act("key_admin", "request-7", "192.0.2.7")
    grant = KeyGrant(name="partner", scopes=frozenset({"distill", "decrypt"}), image_key=ImageKeyGrant(scheme="sealed"))
    key = (await service.lifecycle.create(grant, act)).record
    day = RateLimit(name="day", limit=9, window_s=86_400)
    patch = KeyPatch(
        name="new", budget=BudgetGrant(limit=7, refill="daily"), rate_limits=(day,), scopes=frozenset({"decrypt"})
    )
    await service.lifecycle.update(key.id, patch, act)
    await service.lifecycle.top_up(key.id, 5, act)
    token = service.tokens.issue(key, None).token
    kid = (await service.image_keys.issue(key.id, ImageKeyGrant(scheme="sealed"), 60, act)).record.kid
    await service.image_keys.retire(key.id, kid, 0, act)
    await service.tokens.revoke(key, token, act)
    await service.lifecycle.rotate(key.id, 60, act)
    await service.lifecycle.disable(key.id, act)
    await service.lifecycle.enable(key.id, act)
    await service.lifecycle.revoke(key.id, act)
    await service.refused(key.id, "tiny", "missing-scope", Origin("request-7", "192.0.2.7"))
    entries = (await service.audit.page(None, 100))[0][::-1]
    assert [entry.action for entry in entries] == [
        *("key.create", "key.update", "key.top-up", "image-key.issue", "image-key.retire", "token.revoke"),
        *("key.rotate", "key.disable", "key.enable", "key.revoke", "refusal"),
    ]
    assert [entry.seq for entry in entries] == list(range(1, 12))
    assert {(entry.target, entry.request_id, entry.address) for entry in entries} == {
        (key.id, "request-7", "192.0.2.7")
    }
    assert {entry.actor for entry in entries[:-1]} == {"key_admin"}
    assert all(abs((entry.at - datetime.now(UTC)).total_seconds()) < 10 for entry in entries)
    details = {entry.action: entry.detail for entry in entries}
    assert details["key.create"]["name"] == "partner"
    assert details["key.update"] == {
        "name": ["partner", "new"],
        "scopes": [["decrypt", "distill", "predict"], ["decrypt", "predict"]],
        "budget": [{"limit": None, "refill": "none"}, {"limit": 7, "refill": "daily"}],
        "rate_limits": [[], [{"name": "day", "limit": 9, "window_s": 86_400}]],
    }
    assert (details["key.top-up"], details["key.rotate"]) == ({"answers": 5}, {"overlap_s": 60})
    assert (details["key.disable"], details["key.revoke"]) == (
        {"state": ["active", "disabled"]},
        {"state": ["active", "revoked"]},
    )
    assert details["image-key.retire"] == {"kid": kid, "overlap_s": 0}
    assert await intact(service)


async def test_what_was_refused_an_admin_is_not_written(service: KeyService) -> None:
    key = (await issue(service, None)).record
    with pytest.raises(ChangeRefused):
        await service.lifecycle.top_up(key.id, 1, ADMIN)
    assert (await service.audit.verify()).entries == 1


async def test_no_entry_holds_a_secret(service: KeyService, client: Redis) -> None:
    grant = KeyGrant(name="a", scopes=frozenset({"decrypt"}), image_key=ImageKeyGrant(scheme="sealed"))
    issued = await service.lifecycle.create(grant, Act("cli", idempotency_key="private"))
    rotated = await service.lifecycle.rotate(issued.record.id, 60, ADMIN)
    image_key = await service.image_keys.issue(issued.record.id, ImageKeyGrant(scheme="sealed"), 0, ADMIN)
    token = service.tokens.issue(rotated.record, None).token
    await service.tokens.revoke(rotated.record, token, ADMIN)
    assert issued.image_key is not None
    log = repr(await stored(client)) + repr(await service.audit.page(None, 100))
    secrets = [issued.api_key[8:40], rotated.api_key[8:40], token, token.rpartition(".")[2], "private"]
    vault = Vault(Keyring([MASTER]))
    secrets += [digest for key in (issued, rotated) for digest in vault.digests(key.api_key)]
    secrets += [to_text(secret) for secret in (issued.image_key.secret, image_key.secret)]
    assert issued.record.id in log
    assert [secret for secret in secrets if secret in log] == []


# --- pages


async def test_pages_hold_each_entry_once_newest_first(service: KeyService) -> None:
    await write(service, 7)
    for size in (1, 2, 3, 6, 7, 8):
        seen, cursor = await service.audit.page(None, size)
        while cursor is not None:
            found, cursor = await service.audit.page(cursor, size)
            assert 0 < len(found) <= size
            seen += found
        assert [entry.seq for entry in seen] == list(range(7, 0, -1))


async def test_a_page_of_one_key_holds_its_entries_alone(service: KeyService, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "PAGE", 2)  # or thousands of entries would have to be made
    keys = [(await issue(service)).record for _ in range(2)]
    for number in range(9):
        await service.lifecycle.top_up(keys[number % 2].id, 1, ADMIN)
    seen, cursor = await service.audit.page(None, 2, keys[0].id)
    while cursor is not None:
        found, cursor = await service.audit.page(cursor, 2, keys[0].id)
        seen += found
    assert [entry.seq for entry in seen] == [11, 9, 7, 5, 3, 1]
    assert await service.audit.page(None, 5, "key_nobody") == ([], None)
    assert (await service.audit.verify()).entries == 11, "over many pages"


async def test_a_search_that_takes_long_gives_what_it_has_and_a_cursor(
    service: KeyService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "PAGE", 2)
    monkeypatch.setattr(audit, "MOST_SEARCHED", 4)
    await write(service, 1)
    target = (await service.directory.page(None, 1))[0][0].id
    await write(service, 6)
    found, cursor = await service.audit.page(None, 5, target)
    assert (found, cursor is None) == ([], False)
    found, cursor = await service.audit.page(cursor, 5, target)
    assert ([entry.seq for entry in found], cursor) == ([1], None)


@pytest.mark.parametrize("cursor", ["", "-", "+", "1", "1-", "(1-1", "1-1 ", "²-1", "9" * 16 + "-1", "1-1\r\n"])
async def test_a_cursor_that_is_none_is_unknown(service: KeyService, cursor: str) -> None:
    await write(service, 2)
    with pytest.raises(UnknownKey):
        await service.audit.page(cursor, 5)


# --- what is found


async def test_a_log_that_nobody_touched_is_whole_and_says_its_head(service: KeyService, client: Redis) -> None:
    await write(service)
    verdict = await service.audit.verify()
    newest = (await service.audit.page(None, 1))[0][0]
    assert verdict == audit.Verdict(5, newest.hash, True)
    await rewrite(client, await stored(client))
    assert await service.audit.verify() == verdict, "the test's own way to write changes nothing"


async def test_a_log_is_whole_while_it_is_written(service: KeyService, client: Redis, clock: Clock) -> None:
    other = another_service(client, clock)
    key = (await issue(other)).record
    writing = asyncio.gather(*(other.lifecycle.top_up(key.id, 1, ADMIN) for _ in range(20)))
    verdicts = []
    while not writing.done():
        verdicts.append(await service.audit.verify())
    await writing
    assert {verdict.problem for verdict in verdicts} == {None}
    assert len({verdict.entries for verdict in verdicts}) > 1, "it was read while it grew"


async def test_a_byte_that_was_changed_is_found_if_it_says_anything(service: KeyService, client: Redis) -> None:
    """White space between the parts of an entry, which says nothing, is all that may be changed."""
    await write(service, 3)
    log = await stored(client)
    said = (await service.audit.page(None, 10))[0]
    chance = random.Random(7)  # noqa: S311 - the same bytes each time
    for number, entry in enumerate(log):
        for place in range(len(entry["entry"])):
            byte = chance.choice([chr(ord(entry["entry"][place]) ^ 1), "0", " ", "é", "\t", "\\"])
            changed = entry["entry"][:place] + byte + entry["entry"][place + 1 :]
            if changed == entry["entry"]:
                continue
            problem = found_in([*log[:number], {"entry": changed}, *log[number + 1 :]])
            if problem is None:
                assert audit._entry(changed) == said[::-1][number], changed
                assert entry["entry"][place].isspace()


def found_in(log: Log) -> str | None:
    """What `verify` finds in a log, without the way to the store and back."""
    check = audit._Check(Vault(Keyring([MASTER])))
    for entry in log:
        problem = check.problem(entry["entry"])
        if problem is not None:
            return problem
    return "unsealed" if check.unsealed else None


async def test_an_entry_with_any_of_its_fields_changed_is_found(service: KeyService, client: Redis) -> None:
    await write(service, 3)
    log = await stored(client)
    entry = json.loads(log[1]["entry"])
    body = json.loads(entry["body"])
    assert {*body, "hash", "master", "seal"} == {field.name for field in fields(audit.AuditEntry)}
    strange: list[object] = ["other", "", None, 7, [], {}, "\ud800", "é"]
    for name in body:
        for value in (*strange[:-2], f"{body[name]} "):
            changed = json.dumps(body | {name: value}, ensure_ascii=False, separators=(",", ":"))
            await rewrite(client, [log[0], {"entry": json.dumps(entry | {"body": changed})}, log[2]])
            assert not (await service.audit.verify()).intact
    for name in ("body", "hash", "seal", "master"):
        for value in strange:
            changed = json.dumps(entry | {name: value})
            await rewrite(client, [log[0], {"entry": changed}, log[2]])
            assert not await intact(service), (name, value)


REWRITTEN: dict[str, Callable[[Log], Log]] = {
    "the first removed": lambda log: log[1:],
    "one removed": lambda log: [*log[:2], *log[3:]],
    "the last removed": lambda log: log[:-1],
    "all removed": lambda _: [],
    "one added again": lambda log: [*log[:3], log[2], *log[3:]],
    "one added at the end": lambda log: [*log, log[-1]],
    "one without an entry": lambda log: [*log[:3], {"other": "field"}, *log[3:]],
    "one that is empty": lambda log: [*log, {"entry": ""}],
    "one that is no JSON": lambda log: [*log, {"entry": "{"}],
    "one that is no entry": lambda log: [*log, {"entry": "[]"}],
    "one that is very deep": lambda log: [*log, {"entry": "[" * 100_000}],
    "two exchanged": lambda log: [log[0], log[2], log[1], *log[3:]],
    "all turned round": lambda log: log[::-1],
}


@pytest.mark.parametrize("how", REWRITTEN)
async def test_a_log_with_entries_missing_added_or_moved_is_found(service: KeyService, client: Redis, how: str) -> None:
    await write(service)
    log = await stored(client)
    await rewrite(client, REWRITTEN[how](log))
    verdict = await service.audit.verify()
    assert not verdict.intact
    assert verdict.entries <= 5


async def test_an_entry_that_was_taken_out_of_the_stream_is_found(service: KeyService, client: Redis) -> None:
    await write(service)
    names: Any = await client.xrange(AUDIT)
    await client.xdel(AUDIT, names[2][0])
    verdict = await service.audit.verify()
    assert (verdict.intact, verdict.entries) == (False, 2)


@pytest.mark.parametrize("head", ["", "{}", "{", "[]", "7", '{"seq": 4, "hash": "0"}', '{"seq": 5, "hash": "0"}'])
async def test_a_head_that_was_changed_is_found(service: KeyService, client: Redis, head: str) -> None:
    await write(service)
    await client.set(HEAD, head)
    assert not (await service.audit.verify()).intact
    await client.delete(HEAD)
    assert not (await service.audit.verify()).intact


async def test_an_older_head_is_found(service: KeyService, client: Redis) -> None:
    await write(service)
    await client.set(HEAD, head_of((await stored(client))[-2]))
    assert not (await service.audit.verify()).intact


async def test_a_log_cut_off_together_with_its_head_is_found_by_who_has_kept_a_head(
    service: KeyService, client: Redis
) -> None:
    """It is a log that was true once: `verify` alone cannot tell."""
    await write(service)
    kept = await service.audit.verify()
    log = await stored(client)
    await rewrite(client, log[:3], head_of(log[2]))
    cut = await service.audit.verify()
    assert cut.intact
    assert cut.entries < kept.entries
    assert kept.head not in {entry.hash for entry in (await service.audit.page(None, 10))[0]}


def _recomputed(log: Log, vault: Vault, master: str | None = None) -> Log:
    """A log that says something else, with a good chain of hashes, sealed by `vault` in the name of `master`."""
    told, head = Log(), ""
    for entry in log:
        body = json.loads(json.loads(entry["entry"])["body"])
        act = Act("somebody else", body["request_id"], body["address"])
        written = audit.write(
            vault, head, now=0, action=body["action"], target=body["target"], act=act, detail=body["detail"]
        )
        stored_entry = json.loads(written.entry)
        told.append({"entry": json.dumps(stored_entry | ({"master": master} if master else {}))})
        head = written.head
    return told


async def test_a_chain_computed_anew_without_the_master_key_is_found(service: KeyService, client: Redis) -> None:
    await write(service)
    log = await stored(client)
    for master in (None, Vault(Keyring([MASTER])).newest):
        forged = _recomputed(log, STRANGER, master)
        await rewrite(client, forged, head_of(forged[-1]))
        verdict = await service.audit.verify()
        if master is None:
            assert (verdict.intact, verdict.unsealed) == (True, 5), "it says that no key at hand has sealed it"
        else:
            assert verdict.problem == "entry 1 was not written by this deployment"


# --- rotation of the master key


async def test_after_a_rotation_of_the_master_key_old_entries_verify_and_without_it_count_as_unsealed(
    service: KeyService, client: Redis, clock: Clock
) -> None:
    await write(service, 3)
    both, new = (another_service(client, clock, masters) for masters in ([NEXT_MASTER, MASTER], [NEXT_MASTER]))
    await write(both, 2)
    verdict = await both.audit.verify()
    assert (verdict.entries, verdict.intact, verdict.unsealed) == (5, True, 0)
    for one, unsealed in ((new, 3), (service, 2)):
        verdict = await one.audit.verify()
        assert (verdict.entries, verdict.intact, verdict.unsealed) == (5, True, unsealed)
    await write(new, 1)
    assert (await both.audit.verify()).intact
    log = await stored(client)
    changed = log[0]["entry"].replace("partner", "another").replace("key.create", "key.revoke")
    await rewrite(client, [{"entry": changed}, *log[1:]])
    assert not (await new.audit.verify()).intact, "the chain of hashes holds without the seals"


async def test_a_refusal_is_written_once_a_minute_for_all_servers(
    service: KeyService, client: Redis, clock: Clock
) -> None:
    issued = await issue(service, 0)
    for one in (service, another_service(client, clock)) * 3:
        with pytest.raises(QuotaExceeded):
            await one.admit(await one.authenticate(issued.api_key), Ask(1, 1, "tiny"))
    assert [entry.action for entry in (await service.audit.page(None, 10))[0]] == ["refusal", "key.create"]


async def test_a_damaged_entry_is_shown_as_such_and_hides_no_other(service: KeyService, client: Redis) -> None:
    for name in ("a", "b"):
        await service.lifecycle.create(KeyGrant(name=name), Act("cli"))
    for damage in ("", "{", "[]", '{"body": 5}'):
        await client.xadd("sdb:audit", {"entry": damage})
        page, _ = await service.audit.page(None, 10)
        assert [entry.action for entry in page if entry.action != "damaged"] == ["key.create"] * 2
        assert page[0].action == "damaged"
