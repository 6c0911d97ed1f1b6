"""`sdb keys`: issue and look after keys, directly in the store; works beside a running server and without one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError

from app.commands.output import report
from app.errors import InvalidRequest, explain
from app.settings import Settings
from app.state import State, attach_keys, open_keys
from keys.embedded import StoreInUse
from keys.errors import ConfigurationError
from keys.image_keys import DEFAULT_OVERLAP_S, MAX_OVERLAP_S, ImageKeyGrant, IssuedImageKey
from keys.material import to_text
from keys.records import KeyGrant, KeyRecord
from keys.service import MAX_PAGE, KeyService

commands = typer.Typer(no_args_is_help=True, help="Issue and look after keys and their image keys.")
Result = TypeVar("Result")
Document = dict[str, object]
Grant = TypeVar("Grant", KeyGrant, ImageKeyGrant)
Json = Annotated[bool, typer.Option("--json", help="print JSON")]
OverlapS = Annotated[int, typer.Option(min=0, max=MAX_OVERLAP_S, help="seconds that it still opens images")]
SCHEME = "sealed, or pixel:TRANSFORM:BLOCK like pixel:shf:4"


@asynccontextmanager
async def key_service(settings: Settings) -> AsyncIterator[KeyService]:
    """The service over the store of `settings`; an embedded store that no server runs is run for so long."""
    state = State(settings)
    async with AsyncExitStack() as stack:
        try:
            service = await open_keys(settings, state, stack, wait_s=0)
        except StoreInUse:  # a server runs it; its socket is ours to use
            service = attach_keys(settings, state, stack)
        yield service


def _run(work: Callable[[KeyService], Awaitable[Result]]) -> Result:
    async def main() -> Result:
        async with key_service(Settings.from_environment()) as service:
            return await work(service)

    return asyncio.run(main())


@commands.command()
def create(  # noqa: PLR0917 - typer reads options from parameters
    name: Annotated[str, typer.Option(help="whose key it is")],
    scope: Annotated[
        list[str] | None, typer.Option(help="predict, distill, decrypt, unlock; repeat for several")
    ] = None,
    model: Annotated[list[str] | None, typer.Option(help="only this model; repeat for several")] = None,
    budget: Annotated[int | None, typer.Option(min=0, help="privileged answers; unlimited when left out")] = None,
    expires_at: Annotated[datetime | None, typer.Option(help="UTC")] = None,
    image_key: Annotated[str | None, typer.Option(help=f"with an image key: {SCHEME}")] = None,
    admin: Annotated[bool, typer.Option("--admin", help="an admin key: for /admin, not for predictions")] = False,
    as_json: Json = False,
) -> None:
    """Issue a key. Its API key and the secret of its image key are printed once and can never be shown again."""
    fields: Document = {"name": name, "budget": {"limit": budget}}
    fields |= {"expires_at": expires_at.replace(tzinfo=UTC)} if expires_at else {}
    fields |= {"scopes": scope} if scope else {}
    fields |= {"models": model} if model else {}
    fields |= {"image_key": _scheme(image_key)} if image_key else {}
    grant = _granted(KeyGrant, fields)
    key = _run(lambda keys: keys.create(grant, "admin" if admin else "client"))
    document = {**key.record.model_dump(mode="json"), "api_key": key.api_key, "image_key": None}
    report(document | ({"image_key": _issued(key.image_key)} if key.image_key else {}), as_json)


def _scheme(text: str) -> Document:
    """What `SCHEME` describes, as a grant has it."""
    scheme, *parts = text.split(":")
    return {"scheme": scheme, **dict(zip(("transform", "block", "more"), map(_number, parts), strict=False))}


def _number(text: str) -> int | str:
    return int(text) if text.isdecimal() else text


def _granted(kind: type[Grant], fields: Document) -> Grant:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequest(explain(error.errors())) from None


def _issued(image_key: IssuedImageKey) -> Document:
    return {**image_key.record.model_dump(mode="json"), "secret": to_text(image_key.secret)}


async def _shown(keys: KeyService, records: Sequence[KeyRecord]) -> list[Document]:
    """Keys as the REST API shows them, each with its newest active image key."""
    image_keys = await keys.image_keys.newest([record.id for record in records])
    return [
        {
            **record.model_dump(mode="json"),
            "image_key": None if image_key is None else image_key.model_dump(mode="json"),
        }
        for record, image_key in zip(records, image_keys, strict=True)
    ]


@commands.command("list")
def list_(as_json: Json = False) -> None:
    """All keys, newest first."""

    async def everything(keys: KeyService) -> list[Document]:
        records, cursor = await keys.page(None, MAX_PAGE)
        while cursor is not None:
            more, cursor = await keys.page(cursor, MAX_PAGE)
            records += more
        return await _shown(keys, records) if as_json else [_line(record) for record in records]

    report(_run(everything), as_json)


def _line(record: KeyRecord) -> Document:
    """A key in one line of a terminal."""
    budget = record.budget
    left = "unlimited" if budget.limit is None else f"{budget.remaining} of {budget.limit}"
    rights = " ".join(record.scopes) or record.kind
    return {"id": record.id, "name": record.name, "rights": rights, "state": record.state, "left": left}


@commands.command()
def show(key_id: str, as_json: Json = False) -> None:
    """One key, without its secrets."""
    _report_one(lambda keys: keys.show(key_id), as_json)


@commands.command()
def revoke(key_id: str, as_json: Json = False) -> None:
    """End a key at once and for good, and every token made from it."""
    _report_one(lambda keys: keys.revoke(key_id), as_json)


def _report_one(work: Callable[[KeyService], Awaitable[KeyRecord]], as_json: bool) -> None:
    async def shown(keys: KeyService) -> list[Document]:
        return await _shown(keys, [await work(keys)])

    report(_run(shown)[0], as_json)


@commands.command()
def image_keys(key_id: str, as_json: Json = False) -> None:
    """The image keys of a key, newest first, the retired ones too; never a secret."""
    found = _run(lambda keys: keys.image_keys.of(key_id))
    report([image_key.model_dump(mode="json") for image_key in found], as_json)


@commands.command()
def new_image_key(
    key_id: str,
    scheme: Annotated[str, typer.Argument(help=SCHEME)],
    overlap_s: OverlapS = DEFAULT_OVERLAP_S,
    as_json: Json = False,
) -> None:
    """Issue an image key; active ones of its scheme retire. Its secret is printed once and can never be shown again."""
    grant = _granted(ImageKeyGrant, _scheme(scheme))
    report(_issued(_run(lambda keys: keys.image_keys.issue(key_id, grant, overlap_s))), as_json)


@commands.command()
def retire_image_key(key_id: str, kid: str, overlap_s: OverlapS = 0, as_json: Json = False) -> None:
    """Let an image key end."""
    report(_run(lambda keys: keys.image_keys.retire(key_id, kid, overlap_s)).model_dump(mode="json"), as_json)


@commands.command()
def rewrap(as_json: Json = False) -> None:
    """Seal every stored secret under the newest master key, after SDB_MASTER_KEY was given a new first one.

    May be stopped and run again. The old master key may be dropped when every server and every `sdb` has run with the
    new one first, a rewrap after that finds nothing `unreadable`, and no key that is still needed is `waiting`: a
    waiting API key was not presented since the rotation, and is lost with the old master key.
    """
    models = State(Settings.from_environment()).rewrap()
    image_keys, waiting = _run(lambda keys: keys.rewrap())
    report({"model_secrets": asdict(models), "image_keys": asdict(image_keys), "waiting": waiting}, as_json)
    if models.unreadable or image_keys.unreadable:
        raise ConfigurationError("some secrets do not open with SDB_MASTER_KEY; keep the master key that sealed them")
