"""What a page can be refused for, beyond what a request can, and how a refusal is headed.

Knows codes; the pages are in `routing`.
"""

from app.errors import STATUS, RequestError


class NotFound(RequestError):
    """There is no such page."""

    code = "not-found"


class ForgedForm(RequestError):
    """A form that was not made by this console for this session, or not sent by a page of it."""

    code = "forged-form"


class StaleForm(RequestError):
    """The form was made before somebody else changed the same thing, or was sent before."""

    code = "stale-form"


class SessionOver(RequestError):
    """There is no session, or it has ended."""

    code = "session-over"


PAGE_STATUS = STATUS | {
    "forged-form": (403, "The form was not sent from this console"),
    "stale-form": (409, "The form is out of date"),
}
