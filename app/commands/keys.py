"""`sdb keys`: issue and look after keys; what `/admin/v1/keys` does, for whoever may read the state folder."""

import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated

import typer

from app.commands import grants, image_keys, sealed_secrets
from app.commands.output import Json, report
from app.commands.service import ACT, every_key, run
from app.commands.tables import card, ledger_line, line, usage_lines
from app.errors import validated
from app.key_schemas import Key, Ledger, NewKey, Rotation, Usage, shown, shown_rotated
from keys.directory import MAX_LEDGER
from keys.image_keys import MAX_OVERLAP_S
from keys.records import MAX_BUDGET, Bucket, Budget, KeyGrant, KeyPatch, KeyRecord, Refill
from keys.service import KeyService

commands = typer.Typer(no_args_is_help=True, help="Issue and look after keys and their image keys.")
Scopes = Annotated[list[str] | None, typer.Option("--scope", help="predict, distill, decrypt, unlock; repeat for more")]
ModelNames = Annotated[list[str] | None, typer.Option("--model", help="only this model; repeat for more")]
ExpiresAt = Annotated[str | None, typer.Option(help="UTC, like 2027-01-31 or 2027-01-31T12:00:00; or never")]
Limit = Annotated[str | None, typer.Option("--budget", help="privileged answers, or unlimited")]
Refilled = Annotated[Refill | None, typer.Option(help="when the budget is given anew (UTC)")]
RateLimits = Annotated[
    list[str] | None, typer.Option("--rate-limit", help="NAME:IMAGES/WINDOW like burst:60/1m; repeat for more; or none")
]
Metadata = Annotated[list[str] | None, typer.Option(help="NAME=VALUE; repeat for more; or none")]
Mark = Annotated[
    float | None, typer.Option(min=0, max=1, help="strength of the mark by which a leak is traced; 0 is off")
]


@commands.command()
def create(  # noqa: PLR0917 - typer reads options from parameters
    name: Annotated[str, typer.Option(help="whose key it is")],
    scope: Scopes = None,
    model: ModelNames = None,
    budget: Limit = None,
    refill: Refilled = None,
    rate_limit: RateLimits = None,
    expires_at: ExpiresAt = None,
    metadata: Metadata = None,
    mark: Mark = None,
    image_key: Annotated[str | None, typer.Option(help=f"with an image key: {image_keys.SCHEME}")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="an admin key: for /admin, not for predictions")] = False,
    as_json: Json = False,
) -> None:
    """Issue a key. Its API key and the secret of its image key are printed once and can never be shown again."""
    fields = grants.key_fields(
        name=name, scope=scope, model=model, expires_at=expires_at, rate_limit=rate_limit, metadata=metadata, mark=mark
    )
    fields["budget"] = {"limit": None if budget is None else grants.answers(budget), "refill": refill or "none"}
    fields |= {"image_key": grants.image_key(image_key)} if image_key else {}
    grant = validated(KeyGrant, fields)
    _report_one(NewKey.of(run(lambda keys: keys.lifecycle.create(grant, ACT, "admin" if admin else "client"))), as_json)


@commands.command("list")
def list_(
    search: Annotated[str, typer.Option(help="part of a name, an id or a metadata value")] = "", as_json: Json = False
) -> None:
    """All keys, newest first."""

    async def everything(keys: KeyService) -> Sequence[Key]:
        return await shown(keys, await every_key(keys, search))

    found, now = run(everything), datetime.now(UTC)
    report([key.model_dump(mode="json") if as_json else line(key, now) for key in found], as_json)
    if not (found or search):  # a server has its first admin at least: this is not the store that was meant
        sys.stderr.write("sdb: no server has used this store; SDB_STATE_DIR or SDB_REDIS_URL names that of one\n")


@commands.command()
def show(key_id: str, as_json: Json = False) -> None:
    """One key, without its secrets."""
    _shown(lambda keys: keys.directory.show(key_id), as_json)


@commands.command()
def update(  # noqa: PLR0917 - typer reads options from parameters
    key_id: str,
    name: Annotated[str | None, typer.Option(help="whose key it is")] = None,
    scope: Scopes = None,
    model: ModelNames = None,
    budget: Limit = None,
    refill: Refilled = None,
    rate_limit: RateLimits = None,
    expires_at: ExpiresAt = None,
    metadata: Metadata = None,
    mark: Mark = None,
    as_json: Json = False,
) -> None:
    """Change what a key may do, from its next request on; what is not named stays. A list is given anew as a whole."""
    fields = grants.key_fields(
        name=name, scope=scope, model=model, expires_at=expires_at, rate_limit=rate_limit, metadata=metadata, mark=mark
    )

    async def changed(keys: KeyService) -> KeyRecord:
        expected = None
        if budget is not None or refill is not None:
            record = await keys.directory.show(key_id)
            fields["budget"], expected = _budget(record.budget, budget, refill), record.revision
        return await keys.lifecycle.update(key_id, validated(KeyPatch, fields), ACT, expected)

    _shown(changed, as_json)


def _budget(before: Budget, limit: str | None, refill: Refill | None) -> grants.Fields:
    """The budget with one half or both given anew: a budget is changed as a whole."""
    wanted = before.limit if limit is None else grants.answers(limit)
    kept = before.refill if wanted is not None else "none"
    return {"limit": wanted, "refill": refill or kept}


@commands.command()
def rotate(
    key_id: str,
    overlap_s: Annotated[
        int, typer.Option(min=0, max=MAX_OVERLAP_S, help="seconds that the API key before is still accepted")
    ] = Rotation().overlap_s,
    as_json: Json = False,
) -> None:
    """Give a key a new API key; id, budget and history stay. It is printed once and can never be shown again."""

    async def rotated(keys: KeyService) -> Key:
        return await shown_rotated(keys, await keys.lifecycle.rotate(key_id, overlap_s, ACT))

    _report_one(run(rotated), as_json)


@commands.command()
def revoke(key_id: str, as_json: Json = False) -> None:
    """End a key at once and for good, and every token made from it."""
    _shown(lambda keys: keys.lifecycle.revoke(key_id, ACT), as_json)


@commands.command()
def disable(key_id: str, as_json: Json = False) -> None:
    """Refuse a key and its tokens at once, until it is enabled."""
    _shown(lambda keys: keys.lifecycle.disable(key_id, ACT), as_json)


@commands.command()
def enable(key_id: str, as_json: Json = False) -> None:
    """Accept a disabled key again; one that is revoked stays revoked."""
    _shown(lambda keys: keys.lifecycle.enable(key_id, ACT), as_json)


@commands.command("top-up")
def top_up(
    key_id: str,
    answers: Annotated[int, typer.Argument(min=1, max=MAX_BUDGET, help="given once, on top of the budget's limit")],
    as_json: Json = False,
) -> None:
    """Give a key more answers, once; a refill neither takes them away nor gives them again."""
    _shown(lambda keys: keys.lifecycle.top_up(key_id, answers, ACT), as_json)


@commands.command()
def usage(
    key_id: str,
    bucket: Annotated[Bucket, typer.Option(help="hours of 14 days, or days of 400 (UTC)")] = "day",
    as_json: Json = False,
) -> None:
    """Images by hour or day, model and outcome, oldest first; what was refused is counted too."""
    counts = run(lambda keys: keys.directory.usage(key_id, bucket))
    report(Usage(bucket=bucket, usage=counts).model_dump(mode="json") if as_json else usage_lines(counts), as_json)


@commands.command()
def ledger(
    key_id: str,
    number: Annotated[int, typer.Option("-n", min=1, max=MAX_LEDGER, help="how many lines")] = 20,
    as_json: Json = False,
) -> None:
    """The last changes of a key's budget, the newest at the end; a charge counts up, what is given back counts down."""
    lines = run(lambda keys: keys.directory.ledger(key_id, number))
    report(Ledger(ledger=lines).model_dump(mode="json") if as_json else [ledger_line(line) for line in lines], as_json)


def _shown(work: Callable[[KeyService], Awaitable[KeyRecord]], as_json: bool) -> None:
    async def found(keys: KeyService) -> Key:
        (key,) = await shown(keys, [await work(keys)])
        return key

    _report_one(run(found), as_json)


def _report_one(key: Key, as_json: bool) -> None:
    if as_json:
        report(key.model_dump(mode="json"), as_json)
    else:
        report(card(key, datetime.now(UTC)), as_json)


commands.add_typer(image_keys.commands)
commands.add_typer(sealed_secrets.commands)
