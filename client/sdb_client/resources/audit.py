"""`client.audit`: who changed what, for admins."""

from sdb_client.answers.audit import AuditEntry, AuditPage, Verdict
from sdb_client.transport.calls import Kind, Page, Paged, Resource, call, paged
from sdb_client.transport.request import Request, given, read, reader


class Audit(Resource[Kind]):
    """The audit log of the server."""

    @paged
    def list(self, *, target: str | None = None, limit: int = 50) -> Paged[AuditEntry]:
        """All entries, newest first, or those about the key with the id `target`; `limit` of them per request."""

        def page(cursor: str | None) -> Request[Page[AuditEntry]]:
            query = given(target=target, limit=limit, cursor=cursor)
            return Request("GET", "/admin/v1/audit", lambda response: _page(response.content), query=query)

        return Paged(page)

    @call
    def verify(self) -> Request[Verdict]:
        """Have the server recompute the chain of hashes and the seals; compare `head` with one kept elsewhere."""
        return Request("GET", "/admin/v1/audit/verify", reader(Verdict))


def _page(document: bytes) -> Page[AuditEntry]:
    found = read(document, AuditPage)
    return Page(found.entries, found.next)
