"""`client.models`: what is hosted."""

from sdb_client.answers.models import ModelCard, ModelCards
from sdb_client.transport.calls import Kind, Resource, call
from sdb_client.transport.request import Request, path, read, reader


class Models(Resource[Kind]):
    """The models of the server."""

    @call
    def list(self) -> Request[tuple[ModelCard, ...]]:
        """All models that this caller may ask, with the tiers that it has of each."""
        return Request("GET", "/v1/models", lambda response: read(response.content, ModelCards).models)

    @call
    def get(self, name: str) -> Request[ModelCard]:
        """One model.

        Raises:
            UnknownModel: there is none of this name.
        """
        return Request("GET", path("v1", "models", name), reader(ModelCard))
