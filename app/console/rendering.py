"""Templates to pages: one way to render, and what every page carries against being framed, sniffed or scripted.

Knows Jinja2 and headers; knows no key, no store and no form.
"""

import secrets
from functools import cache
from pathlib import Path

from fastapi import Response
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.console import assets, formats
from keys.material import to_text
from keys.sessions import Session

TEMPLATES = Path(__file__).parent / "templates"
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "form-action 'self'",
        "frame-ancestors 'none'",
        "base-uri 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cache-Control": "no-store",  # a secret may be on the page, and the back button must not show it after a log-out
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "X-Frame-Options": "DENY",
}


def render(template: str, session: Session | None, *, status: int = 200, here: str = "", **context: object) -> Response:
    """The page of `template`; `session` is the visitor's, for menu and forms; `here` is its name in the menu."""
    text = _environment().get_template(template).render(session=session, here=here, **context)
    return HTMLResponse(text, status, HEADERS)


def form_id() -> str:
    """A name for one form on one page: sending the form twice is one act."""
    return secrets.token_urlsafe(16)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "moment": formats.moment,
        "number": formats.number,
        "since": formats.since,
        "base64url": to_text,
    }
    environment.globals |= {"asset": assets.address, "form_id": form_id, "now": formats.now}
    return environment
