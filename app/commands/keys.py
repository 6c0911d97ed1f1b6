"""`sdb keys`: issue and look after keys, directly in the store; works beside a running server and without one."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated, TypeVar

import typer
from pydantic import ValidationError

from app.commands.output import report
from app.errors import InvalidRequest, explain
from app.settings import Settings
from app.state import State, attach_keys, open_keys
from keys.embedded import StoreInUse
from keys.records import KeyGrant, KeyRecord
from keys.service import MAX_PAGE, KeyService

commands = typer.Typer(no_args_is_help=True, help="Issue, list, show and revoke keys.")
Result = TypeVar("Result")
Json = Annotated[bool, typer.Option("--json", help="print JSON")]


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
    admin: Annotated[bool, typer.Option("--admin", help="an admin key: for /admin, not for predictions")] = False,
    as_json: Json = False,
) -> None:
    """Issue a key. Its API key is printed once and can never be shown again."""
    fields: dict[str, object] = {"name": name, "budget": {"limit": budget}}
    fields |= {"expires_at": expires_at.replace(tzinfo=UTC)} if expires_at else {}
    fields |= {"scopes": scope} if scope else {}
    fields |= {"models": model} if model else {}
    try:
        grant = KeyGrant.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequest(explain(error.errors())) from None
    record, api_key = _run(lambda keys: keys.create(grant, "admin" if admin else "client"))
    report({**record.model_dump(mode="json"), "api_key": api_key}, as_json)


@commands.command("list")
def list_(as_json: Json = False) -> None:
    """All keys, newest first."""

    async def everything(keys: KeyService) -> list[KeyRecord]:
        found, cursor = await keys.page(None, MAX_PAGE)
        while cursor is not None:
            more, cursor = await keys.page(cursor, MAX_PAGE)
            found += more
        return found

    found = _run(everything)
    report([record.model_dump(mode="json") if as_json else _line(record) for record in found], as_json)


def _line(record: KeyRecord) -> dict[str, object]:
    """A key in one line of a terminal."""
    budget = record.budget
    left = "unlimited" if budget.limit is None else f"{budget.remaining} of {budget.limit}"
    rights = " ".join(record.scopes) or record.kind
    return {"id": record.id, "name": record.name, "rights": rights, "state": record.state, "left": left}


@commands.command()
def show(key_id: str, as_json: Json = False) -> None:
    """One key, without its secret."""
    report(_run(lambda keys: keys.show(key_id)).model_dump(mode="json"), as_json)


@commands.command()
def revoke(key_id: str, as_json: Json = False) -> None:
    """End a key at once and for good, and every token made from it."""
    report(_run(lambda keys: keys.revoke(key_id)).model_dump(mode="json"), as_json)
