"""The console's cookies: the session's, and the one that ties a login form to the browser it was made for.

Knows flags and names; knows no session.
"""

import secrets

from fastapi import Request, Response

PATH = "/console"
SESSION, LOGIN = "sdb_session", "sdb_login"


def read(request: Request, cookie: str) -> str:
    """The value of a cookie, empty if there is none."""
    return request.cookies.get(_name(request, cookie), "")


def give(request: Request, response: Response, cookie: str, value: str) -> None:
    """Set a cookie that no script and no other site can use; it goes when the browser is closed."""
    secure = _secure(request)
    response.set_cookie(_name(request, cookie), value, path=PATH, secure=secure, httponly=True, samesite="strict")


def take(request: Request, response: Response, cookie: str) -> None:
    """Delete a cookie."""
    secure = _secure(request)
    response.delete_cookie(_name(request, cookie), path=PATH, secure=secure, httponly=True, samesite="strict")


def ticket() -> str:
    """A new value for the login cookie, which the login form repeats."""
    return secrets.token_urlsafe(32)


def _secure(request: Request) -> bool:
    return bool(request.scope["scheme"] == "https")


def _name(request: Request, cookie: str) -> str:
    """A browser accepts a name with this prefix only from a secure origin, so that no plain page can plant one."""
    return f"__Secure-{cookie}" if _secure(request) else cookie
