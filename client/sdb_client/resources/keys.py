"""`client.keys`: issue, change and end keys, for admins."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any, Literal, TypedDict, Unpack

import httpx

from sdb_client.answers.keys import Key, KeyPage, Ledger, LedgerLine, NewKey, RotatedKey, Usage, UsageBucket
from sdb_client.resources.changes import change
from sdb_client.resources.image_keys import ImageKeyGrant, ImageKeysOfKeys
from sdb_client.transport.calls import Kind, Page, Paged, Resource, call, paged
from sdb_client.transport.request import Request, given, path, read, reader


class BudgetGrant(TypedDict, total=False):
    """`limit`: privileged answers in images, None is unlimited; `refill`: "none", "daily" or "monthly"."""

    limit: int | None
    refill: Literal["none", "daily", "monthly"]


class RateLimitGrant(TypedDict):
    """At most `limit` images in any `window_s` seconds, under a name of its own."""

    name: str
    limit: int
    window_s: int


class Changes(TypedDict, total=False):
    """What may be changed of a key: what is left out stays, what is given is given anew as a whole."""

    name: str
    scopes: Iterable[str]
    models: Iterable[str]
    expires_at: datetime | str | None
    budget: BudgetGrant
    rate_limits: Sequence[RateLimitGrant]
    metadata: Mapping[str, str]
    mark: float


class Keys(Resource[Kind]):
    """The keys of the server. Each change takes an `idempotency_key`; without one the client makes up its own."""

    @property
    def image_keys(self) -> ImageKeysOfKeys[Kind]:
        """The image keys of each key."""
        return ImageKeysOfKeys(self._client)

    @call
    def create(
        self,
        name: str,
        *,
        scopes: Iterable[str] = ("predict",),
        models: Iterable[str] = ("*",),
        expires_at: datetime | str | None = None,
        budget: BudgetGrant | None = None,
        rate_limits: Sequence[RateLimitGrant] = (),
        metadata: Mapping[str, str] | None = None,
        mark: float | None = None,
        image_key: ImageKeyGrant | None = None,
        idempotency_key: str | None = None,
    ) -> Request[NewKey]:
        """A new client key. Its API key and the secret of its image key are in this answer and nowhere else."""
        document = given(
            name=name,
            scopes=sorted(scopes),
            models=list(models),
            expires_at=expires_at,
            budget=budget,
            rate_limits=rate_limits,
            metadata=metadata,
            mark=mark,
            image_key=image_key,
        )
        return change(reader(NewKey), "keys", document=document, idempotency_key=idempotency_key)

    @paged
    def list(self, *, search: str = "", limit: int = 50) -> Paged[Key]:
        """All keys, newest first, or those with `search` in a name, an id or a metadata value; `limit` per request."""

        def page(cursor: str | None) -> Request[Page[Key]]:
            query = given(search=search, limit=limit, cursor=cursor)
            return Request("GET", "/admin/v1/keys", lambda response: _page(response.content), query=query)

        return Paged(page)

    @call
    def get(self, key_id: str) -> Request[Key]:
        """One key, with its newest active image key.

        Raises:
            UnknownKey: there is none of this id; every other call here raises it too.
        """
        return Request("GET", path("admin", "v1", "keys", key_id), _tagged)

    @call
    def update(
        self,
        key_id: str,
        *,
        if_match: str | None = None,
        idempotency_key: str | None = None,
        **changes: Unpack[Changes],
    ) -> Request[Key]:
        """Change what a key may do; its next request is judged by it. `expires_at=None` is never.

        Raises:
            PreconditionFailed: `if_match` is the `etag` of the key as it was read, and it has been changed since.
        """
        document: dict[str, Any] = dict(changes)
        for several in {"scopes", "models"} & document.keys():
            document[several] = list(document[several])
        return change(
            _tagged,
            "keys",
            key_id,
            document=document,
            if_match=if_match,
            idempotency_key=idempotency_key,
            method="PATCH",
        )

    @call
    def rotate(self, key_id: str, *, overlap_s: int = 0, idempotency_key: str | None = None) -> Request[RotatedKey]:
        """A new API key for the same key, in this answer and nowhere else; the old one works `overlap_s` seconds on."""
        document = {"overlap_s": overlap_s}
        return change(reader(RotatedKey), "keys", key_id, "rotate", document=document, idempotency_key=idempotency_key)

    @call
    def revoke(self, key_id: str, *, idempotency_key: str | None = None) -> Request[Key]:
        """End a key and its tokens at once and for good."""
        return change(reader(Key), "keys", key_id, "revoke", idempotency_key=idempotency_key)

    @call
    def disable(self, key_id: str, *, idempotency_key: str | None = None) -> Request[Key]:
        """Refuse a key and its tokens at once, until it is enabled."""
        return change(reader(Key), "keys", key_id, "disable", idempotency_key=idempotency_key)

    @call
    def enable(self, key_id: str, *, idempotency_key: str | None = None) -> Request[Key]:
        """Accept a disabled key again."""
        return change(reader(Key), "keys", key_id, "enable", idempotency_key=idempotency_key)

    @call
    def top_up(self, key_id: str, answers: int, *, idempotency_key: str | None = None) -> Request[Key]:
        """Give a key so many more answers, once, beside the limit of its budget."""
        document = {"answers": answers}
        return change(reader(Key), "keys", key_id, "top-up", document=document, idempotency_key=idempotency_key)

    @call
    def usage(self, key_id: str, *, bucket: Literal["hour", "day"] = "day") -> Request[tuple[UsageBucket, ...]]:
        """Images by hour or day (UTC), model and outcome, oldest first."""
        where = path("admin", "v1", "keys", key_id, "usage")
        return Request("GET", where, lambda response: read(response.content, Usage).usage, query={"bucket": bucket})

    @call
    def ledger(self, key_id: str, *, limit: int = 100) -> Request[tuple[LedgerLine, ...]]:
        """The last changes of a key's budget, oldest first: charges, what was given back, refills and top-ups."""
        where = path("admin", "v1", "keys", key_id, "ledger")
        return Request("GET", where, lambda response: read(response.content, Ledger).ledger, query={"limit": limit})


def _tagged(response: httpx.Response) -> Key:
    return replace(read(response.content, Key), etag=response.headers.get("ETag"))


def _page(document: bytes) -> Page[Key]:
    found = read(document, KeyPage)
    return Page(found.keys, found.next)
