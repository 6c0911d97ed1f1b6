"""The marks that may be in leaked answers: of every key that was ever issued, under every generation of the secret."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.commands.service import every_key
from keys.errors import ConfigurationError
from keys.generations import Generation
from keys.records import KeyRecord
from keys.service import KeyService
from models.evaluation.tracing import Finding, IssuedMark
from models.tracing.mark import Mark


@dataclass(frozen=True)
class Issued:
    """Client keys, revoked ones too, and what their marks are derived from; `closed` generations do not open."""

    keys: Sequence[KeyRecord]
    generations: Sequence[Generation] = field(repr=False)
    closed: Sequence[int]

    @classmethod
    async def read(cls, service: KeyService, wanted: Sequence[str]) -> "Issued":
        """What the store has of the `wanted` keys, or of all if none is named.

        Raises:
            UnknownKey: one of them was never issued.
            ConfigurationError: no mark can be derived.
        """
        keys = [await service.directory.show(key_id) for key_id in dict.fromkeys(wanted)] or await every_key(service)
        generations, closed = await service.tracing.generations()
        clients = [key for key in keys if key.kind == "client"]
        if not generations or not clients:
            raise ConfigurationError(
                f"no tracing secret opens with SDB_MASTER_KEY ({len(closed)} are stored)"
                if clients
                else "no client key was ever issued"
            )
        return cls(clients, generations, closed)

    def marks(self, model: str, classes: int) -> list[IssuedMark]:
        """Every mark that answers of a model may bear."""
        return [
            IssuedMark(key.id, key.name, generation.number, Mark.derive(secret, key.id, classes))
            for generation, secret in ((generation, generation.of(model)) for generation in self.generations)
            for key in self.keys
        ]


async def since(service: KeyService, model: str, findings: Sequence[Finding]) -> dict[str, str]:
    """For the marks of some findings, by label, since when the log says that answers bear them."""
    moments = {one.label: await service.tracing.begun(one.key_id, model, one.generation) for one in findings}
    return {label: f"{moment:%Y-%m-%d %H:%M} UTC" for label, moment in moments.items() if moment is not None}
