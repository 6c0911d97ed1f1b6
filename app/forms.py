"""Forms of untrusted clients: read as a whole, or refused as a whole.

Starlette answers for what arrived before a form was cut off; here a form without its end is malformed.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from app.errors import InvalidRequest

MAX_FIELDS = 20


class _InMemory(MultiPartParser):
    """Starlette's, for bodies that are in memory anyway: it would write large parts to a disk, which may be full."""

    spool_max_size = sys.maxsize


@asynccontextmanager
async def form(request: Request, max_files: int) -> AsyncIterator[FormData]:
    """The parts of an urlencoded or multipart body; its files are closed at the end.

    Raises:
        InvalidRequest: it is neither, or malformed.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    multipart = kind == b"multipart/form-data"
    if multipart and b"--" + options.get(b"boundary", b"") + b"--" not in await request.body():
        raise InvalidRequest("the form has no end")
    limits = {"max_files": max_files, "max_fields": MAX_FIELDS}
    try:
        if multipart:
            parts = await _InMemory(request.headers, request.stream(), **limits).parse()
        else:
            parts = await request.form(**limits)
    except MultiPartException as error:
        raise InvalidRequest(error.message) from None
    except UnicodeError:
        raise InvalidRequest("the form's character set is not known") from None
    try:
        yield parts
    finally:
        await parts.close()


def text_field(fields: FormData, name: str) -> str | None:
    """The text under `name`, None where there is none.

    Raises:
        InvalidRequest: it is given twice (RFC 6749 §3.2), so that nobody reads the one and believes the other.
    """
    values = fields.getlist(name)
    if len(values) > 1:
        raise InvalidRequest(f"{name} is given twice")
    return values[0] if values and isinstance(values[0], str) else None
