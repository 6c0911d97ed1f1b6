"""Pages of keys: the list, a new one, one with its usage and its form.

What changes a key at one stroke (rotate, revoke, …) is in `acts`.
"""

import re
from typing import Annotated

from fastapi import APIRouter, Query, Response
from fastapi.responses import RedirectResponse

from app.console import chart, formats
from app.console.access import AdminForm, AdminVisit, Form
from app.console.drafts import IMAGE_KEYS, BadDraft, Draft
from app.console.errors import StaleForm
from app.console.rendering import render
from app.console.routing import PageRoute
from app.dependencies import ServicesDep
from app.pipeline import Services
from keys.errors import ChangeRefused, RevisionMismatch
from keys.records import Bucket, KeyRecord
from keys.sessions import Session

PAGE = 20
REVISION, NO_REVISION = re.compile(r"\d{1,15}", re.ASCII), -1
SCOPES = {
    "distill": "sees soft labels that a student may learn from",
    "decrypt": "may send encrypted images",
    "unlock": "gets right answers from locked models",
}

router = APIRouter(prefix="/console", include_in_schema=False, route_class=PageRoute)


@router.get("")
@router.get("/")
async def keys(
    session: AdminVisit,
    services: ServicesDep,
    search: Annotated[str, Query(max_length=200)] = "",
    cursor: Annotated[str | None, Query(max_length=64)] = None,
) -> Response:
    """All keys, newest first, or those that match a search."""
    records, following = await services.keys.directory.page(cursor, PAGE, search.strip())
    return render(
        "keys.html", session, here="keys", keys=records, following=following, search=search, first=cursor is None
    )


@router.get("/keys/new")
async def new_key(session: AdminVisit, services: ServicesDep) -> Response:
    """The form of a new key."""
    return _new_key(session, services, Draft(), {})


@router.post("/keys/new")
async def create(form: AdminForm, services: ServicesDep) -> Response:
    """Issue a client key; the page that answers is the only one that shows its secrets."""
    draft = Draft.read(form)
    try:
        issued = await services.keys.lifecycle.create(draft.grant(), form.act)
    except BadDraft as error:
        return _new_key(form.session, services, draft, error.problems)
    except ChangeRefused as error:
        return _new_key(form.session, services, draft, {"name": str(error)})
    return render("issued.html", form.session, here="keys", issued=issued, title="The key is made")


def _new_key(session: Session, services: Services, draft: Draft, problems: dict[str, str]) -> Response:
    return render(
        "new_key.html",
        session,
        status=400 if problems else 200,
        here="keys",
        problems=problems,
        **_choices(services, draft),
    )


def _choices(services: Services, draft: Draft) -> dict[str, object]:
    """What the fields of a key's form offer, and what they hold."""
    hosted = [model.manifest.name for model in services.models]
    return {"draft": draft, "scopes": SCOPES, "hosted": hosted, "image_key_kinds": IMAGE_KEYS}


@router.get("/keys/{key_id}")
async def key(
    key_id: str, session: AdminVisit, services: ServicesDep, bucket: Bucket = "day", done: str = ""
) -> Response:
    """One key: what it may do, what is left, what it was used for, and what can be done with it."""
    record = await services.keys.directory.show(key_id)
    return await _key(session, services, record, Draft.of(record), problems={}, bucket=bucket, done=done)


@router.post("/keys/{key_id}")
async def change(key_id: str, form: AdminForm, services: ServicesDep) -> Response:
    """Change what the form of the key says differently."""
    record, draft = await services.keys.directory.show(key_id), Draft.read(form)
    try:
        patch = draft.patch(record)
        if patch.given:
            await services.keys.lifecycle.update(key_id, patch, form.act, _revision(form))
    except RevisionMismatch:
        raise StaleForm(
            "the key was changed since this form was made; load its page again, and change it there"
        ) from None
    except BadDraft as error:
        return await _key(form.session, services, record, draft, problems=error.problems)
    except ChangeRefused as error:
        return await _key(form.session, services, record, draft, problems={"name": str(error)})
    return RedirectResponse(f"/console/keys/{record.id}?done=change", 303)


def _revision(form: Form) -> int:
    """The revision that the form was made of; one that no key has if it does not say."""
    text = form.text("revision")
    return int(text) if REVISION.fullmatch(text) else NO_REVISION


async def _key(
    session: Session,
    services: Services,
    record: KeyRecord,
    draft: Draft,
    *,
    problems: dict[str, str],
    bucket: Bucket = "day",
    done: str = "",
) -> Response:
    usage = await services.keys.directory.usage(record.id, bucket)
    return render(
        "key.html",
        session,
        status=400 if problems else 200,
        here="keys",
        key=record,
        image_keys=await services.keys.image_keys.of(record.id) if record.kind == "client" else [],
        chart=chart.draw(usage, bucket, formats.now()),
        problems=problems,
        done=done,
        **_choices(services, draft),
    )
