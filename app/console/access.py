"""Rights as types, for pages: who is logged in, and a form that this very session was shown.

`AdminVisit` and `HolderVisit` are for pages, `AdminForm` and `VisitorForm` for what forms send.
"""

import hmac
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request
from starlette.datastructures import FormData

from app.console import cookies
from app.console.errors import ForgedForm, SessionOver
from app.dependencies import OriginDep, ServicesDep, check_kind, right
from app.forms import form as read_form
from app.forms import text_field
from app.journal import current
from keys.records import Act
from keys.sessions import Session

FORM_ID = re.compile(r"[A-Za-z0-9_-]{22}", re.ASCII)


async def _visit(request: Request, services: ServicesDep) -> Session:
    """The session of the request's cookie."""
    session = await services.keys.sessions.find(cookies.read(request, cookies.SESSION))
    if session is None:
        raise SessionOver
    current().key_id = session.key.id
    return session


Visit = Annotated[Session, Depends(_visit)]


@right
async def _admin_visit(session: Visit, origin: OriginDep, services: ServicesDep) -> Session:
    await check_kind(session.key, "admin", origin, services, "this page is for admin keys")
    return session


@right
async def _holder_visit(session: Visit, origin: OriginDep, services: ServicesDep) -> Session:
    await check_kind(session.key, "client", origin, services, "this page is for client keys")
    return session


AdminVisit = Annotated[Session, Depends(_admin_visit)]
HolderVisit = Annotated[Session, Depends(_holder_visit)]


@dataclass(frozen=True)
class Form:
    """What a form of a session sent: its fields, and the change it asks for as the audit log will name it."""

    session: Session
    act: Act
    fields: FormData

    def text(self, name: str) -> str:
        """A field, without white space around it; empty if it was not sent."""
        return sent(self.fields, name)

    def texts(self, name: str) -> list[str]:
        """All values of a field."""
        return [_encodable(value) for value in self.fields.getlist(name) if isinstance(value, str)]


def sent(fields: FormData, name: str) -> str:
    """A field, without white space around it; empty if it was not sent."""
    return _encodable(text_field(fields, name) or "").strip()


def _encodable(text: str) -> str:
    """Text that a page can show: a form in UTF-7 may hold halves of characters."""
    return text.encode(errors="replace").decode()


def from_here(request: Request) -> None:
    """Refuse what another site's page sends (Fetch metadata, else Origin); browsers always say where a form was.

    Raises:
        ForgedForm: it came from elsewhere.
    """
    site, origin, host = (request.headers.get(name) for name in ("sec-fetch-site", "origin", "host"))
    here = site == "same-origin" if site else origin in {None, f"https://{host}", f"http://{host}"}
    if not here:
        raise ForgedForm("it was sent by a page of another site")


def repeats(text: str, secret: str) -> bool:
    """Whether a form repeats the secret it was made with; never if there is none."""
    return bool(secret) and hmac.compare_digest(text.encode(), secret.encode())


@right
async def _form(request: Request, session: Visit, origin: OriginDep) -> AsyncIterator[Form]:
    from_here(request)
    async with read_form(request, max_files=0) as fields:
        if not repeats(sent(fields, "csrf"), session.csrf):
            raise ForgedForm("it was made for another session; go back, load the page again and send it once more")
        form_id = sent(fields, "form_id")
        if not FORM_ID.fullmatch(form_id):
            raise ForgedForm("it does not say which form it is")
        yield Form(session, Act(session.key.id, origin.request_id, origin.address, form_id), fields)


VisitorForm = Annotated[Form, Depends(_form)]


def _admin_form(form: VisitorForm, _: AdminVisit) -> Form:
    return form


AdminForm = Annotated[Form, Depends(_admin_form)]
