"""What changes a key at one stroke. Each act has a page that says what will happen and asks, and a form that does it.

Knows how each act is asked for and done; the pages of keys are in `keys`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from fastapi.responses import RedirectResponse

from app.console.access import AdminForm, AdminVisit, Form
from app.console.drafts import IMAGE_KEYS, image_key_grant
from app.console.errors import NotFound
from app.console.rendering import render
from app.console.routing import PageRoute
from app.dependencies import ServicesDep
from app.errors import InvalidRequest
from app.pipeline import Services
from keys.errors import ChangeRefused
from keys.image_keys import DEFAULT_OVERLAP_S, MAX_OVERLAP_S, IssuedImageKey
from keys.lifecycle import KeyLifecycle
from keys.records import MAX_BUDGET, Act, IssuedKey, KeyRecord
from keys.service import KeyService
from keys.sessions import Session

HOUR_S = 3600
Outcome = IssuedKey | IssuedImageKey | None
Do = Callable[[KeyService, str, Form], Awaitable[Outcome]]

router = APIRouter(prefix="/console/keys/{key_id}", include_in_schema=False, route_class=PageRoute)


@dataclass(frozen=True)
class Number:
    """The one number that an act takes."""

    label: str
    least: int
    most: int
    first: int

    def read(self, form: Form) -> int:
        """What was typed.

        Raises:
            InvalidRequest: it is no whole number, or out of range.
        """
        text = form.text("number")
        if not (text.isascii() and text.isdecimal() and len(text) < 20 and self.least <= int(text) <= self.most):
            raise InvalidRequest(f"a whole number between {self.least:,} and {self.most:,} is needed")
        return int(text)


@dataclass(frozen=True)
class Action:
    """One act: how its page asks, what it takes (a number, the scheme of an image key), and what it does."""

    title: str
    warning: str
    button: str
    do: Do
    destroys: bool = False
    number: Number | None = None
    scheme: bool = False


OVERLAP = Number("Hours that the old one still works", 0, MAX_OVERLAP_S // HOUR_S, DEFAULT_OVERLAP_S // HOUR_S)
ANSWERS = Number("Answers", 1, MAX_BUDGET, 100)


def _simply(change: Callable[[KeyLifecycle, str, Act], Awaitable[KeyRecord]]) -> Do:
    """A change that takes nothing and gives no secret."""

    async def do(keys: KeyService, key_id: str, form: Form) -> Outcome:
        await change(keys.lifecycle, key_id, form.act)
        return None

    return do


async def _rotate(keys: KeyService, key_id: str, form: Form) -> Outcome:
    return await keys.lifecycle.rotate(key_id, OVERLAP.read(form) * HOUR_S, form.act)


async def _top_up(keys: KeyService, key_id: str, form: Form) -> Outcome:
    await keys.lifecycle.top_up(key_id, ANSWERS.read(form), form.act)
    return None


async def _image_key(keys: KeyService, key_id: str, form: Form) -> Outcome:
    overlap_s = OVERLAP.read(form) * HOUR_S
    return await keys.image_keys.issue(key_id, image_key_grant(form.text("scheme")), overlap_s, form.act)


ACTS: dict[str, Action] = {
    "rotate": Action(
        "Rotate",
        "The key gets a new API key, which is shown once. Id, budget and history stay. Access tokens die at once.",
        "Make a new API key",
        _rotate,
        number=OVERLAP,
    ),
    "top-up": Action(
        "Top up",
        "The key gets this many answers more, once, on top of its budget.",
        "Top up",
        _top_up,
        number=ANSWERS,
    ),
    "disable": Action(
        "Disable",
        "Every request with this key is refused from now on, until it is enabled again. Its access tokens die at once.",
        "Disable the key",
        _simply(KeyLifecycle.disable),
        destroys=True,
    ),
    "enable": Action(
        "Enable", "Requests with this key are answered again.", "Enable the key", _simply(KeyLifecycle.enable)
    ),
    "revoke": Action(
        "Revoke",
        "The key ends now and for good, and every access token made from it. This cannot be undone.",
        "Revoke the key for good",
        _simply(KeyLifecycle.revoke),
        destroys=True,
    ),
    "image-key": Action(
        "New image key",
        "The key gets a new key for encrypted images, shown once; the older ones of its kind retire.",
        "Make an image key",
        _image_key,
        number=OVERLAP,
        scheme=True,
    ),
}


def _named(act: str) -> Action:
    if act not in ACTS:
        raise NotFound("there is no such page")
    return ACTS[act]


Named = Annotated[Action, Depends(_named)]


@router.get("/{act}")
async def ask(key_id: str, act: str, named: Named, session: AdminVisit, services: ServicesDep) -> Response:
    """What would happen, and a button that does it."""
    return await _ask(session, services, key_id, act, named)


@router.post("/{act}")
async def do(key_id: str, act: str, named: Named, form: AdminForm, services: ServicesDep) -> Response:
    """Do it; a new secret is on the page that answers, and nowhere else."""
    try:
        outcome = await named.do(services.keys, key_id, form)
    except (InvalidRequest, ChangeRefused) as error:
        return await _ask(form.session, services, key_id, act, named, problem=str(error))
    if isinstance(outcome, IssuedKey):
        return render("issued.html", form.session, here="keys", issued=outcome, title="The key has a new API key")
    if isinstance(outcome, IssuedImageKey):
        return render("issued_image_key.html", form.session, here="keys", key_id=key_id, issued=outcome)
    return RedirectResponse(f"/console/keys/{key_id}?done={act}", 303)


async def _ask(
    session: Session, services: Services, key_id: str, act: str, named: Action, *, problem: str = ""
) -> Response:
    record = await services.keys.directory.show(key_id)
    return render(
        "act.html",
        session,
        status=400 if problem else 200,
        here="keys",
        key=record,
        act=named,
        name=act,
        problem=problem,
        image_key_kinds=IMAGE_KEYS,
    )
