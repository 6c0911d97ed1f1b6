"""May a request be answered, by which rights, at what charge: judged by what is known of its caller, and by the store.

Knows callers, models by their manifest, and parameters; knows no image and no answer.
"""

import asyncio
from dataclasses import dataclass, replace

from app.errors import InvalidRequest
from app.schemas import Parameters
from keys.addresses import network_of
from keys.budget_store import Ask
from keys.errors import KeyChanged, MissingScope, StoreUnavailable
from keys.records import Admission, Caller, Idempotency, RateLimit, Seal, Standing
from keys.service import KeyService
from models.bundles import Manifest

ATTEMPTS = 10  # to be admitted, by a key that an admin changes at the same time


@dataclass(frozen=True)
class Rights:
    """What this request makes use of: undisturbed answers, the server's model key, the caller's image key."""

    keyed: bool
    unlocked: bool
    decrypted: bool

    @property
    def privileged(self) -> bool:
        """Whether its answers are charged."""
        return self.keyed or self.unlocked or self.decrypted


def _authorise(caller: Caller, manifest: Manifest, parameters: Parameters) -> Rights:
    if not caller.may("predict", manifest.name):
        raise MissingScope("the key is not for this model")
    keyed = caller.may("distill", manifest.name)
    if (parameters.views > 1 or parameters.mix) and not keyed:
        raise MissingScope("`views` and `mix` need the scope distill")
    decrypted = parameters.encryption in {"sealed", "pixel"}
    if decrypted and not caller.may("decrypt", manifest.name):
        raise MissingScope("encrypted images need the scope decrypt")
    transformed = parameters.encryption == "lock"
    if transformed and manifest.lock is None:
        raise InvalidRequest("`encryption=lock` is for locked models, and this model is not locked")
    if transformed and parameters.views > 1:
        raise InvalidRequest("`views` need the plain image: without `encryption=lock`")
    unlocked = manifest.lock is not None and not transformed and caller.may("unlock", manifest.name)
    return Rights(keyed, unlocked, decrypted)


@dataclass(frozen=True)
class Asked:
    """What a request asks of a model: so many answers, under a name if its caller gave it one."""

    manifest: Manifest
    parameters: Parameters
    images: int
    idempotency: Idempotency | None
    seals: tuple[Seal, ...]


@dataclass(frozen=True)
class Admitted:
    """A request that may be answered: by which rights, and what was charged for it (nothing to a stranger)."""

    caller: Caller
    rights: Rights
    admission: Admission | None
    standings: tuple[Standing, ...]


class admitted:  # noqa: N801 - used as `asyncio.timeout` is; a generator would take as long as all else here
    """Charge what is asked while the body runs, which settles it; if it fails, give it back.

    `strangers` limits each address of callers without a key.
    """

    def __init__(self, keys: KeyService, caller: Caller, asked: Asked, strangers: RateLimit | None) -> None:
        self._keys, self._request = keys, (caller, asked, strangers)
        self._admission: Admission | None = None

    async def __aenter__(self) -> Admitted:
        request = await _admit(self._keys, *self._request)
        self._admission = request.admission
        return request

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._admission is not None:
            # Also when the caller hung up: the release must not be cancelled with the request.
            await asyncio.shield(asyncio.ensure_future(_release(self._keys, self._admission)))


async def _admit(keys: KeyService, caller: Caller, asked: Asked, strangers: RateLimit | None) -> Admitted:
    """Judge the request by what is known of its caller, and again if the store knows better."""
    name, images = asked.manifest.name, asked.images
    for _ in range(ATTEMPTS):
        try:
            rights = _authorise(caller, asked.manifest, asked.parameters)
            if caller.key is None:
                return Admitted(caller, rights, None, await _strangers_window(keys, caller, images, strangers))
            charge = images if rights.privileged else 0
            ask = Ask(images, charge, name, asked.idempotency if charge else None, asked.seals)
            admission = await keys.admit(caller, ask)
            return Admitted(caller, rights, admission, admission.standings)
        except MissingScope as refusal:
            if not caller.recalled:
                await _note(keys, caller, name, refusal, images)
                raise
            caller = await _judged(keys, caller, name)
        except KeyChanged:
            caller = await keys.renewed(caller)
    raise StoreUnavailable("the key changes faster than it can be read")


async def _judged(keys: KeyService, caller: Caller, name: str) -> Caller:
    """The caller as the store knows it, before it is refused for what this process remembers."""
    try:
        await keys.admit(caller, Ask(0, 0, name))
    except KeyChanged:
        return await keys.renewed(caller)
    return replace(caller, recalled=False)


async def _note(keys: KeyService, caller: Caller, name: str, refusal: MissingScope, images: int) -> None:
    if caller.key is not None:
        await keys.refused(caller.key.id, name, refusal.code, caller.origin, images)


async def _strangers_window(
    keys: KeyService, caller: Caller, images: int, rate: RateLimit | None
) -> tuple[Standing, ...]:
    """What is left to the address of a caller without a key, where the operator limits that."""
    if rate is None:
        return ()
    try:
        return (await keys.pass_window(network_of(caller.origin.address), rate, images),)
    except StoreUnavailable:
        return ()  # public predictions go on without the store


async def _release(keys: KeyService, admission: Admission) -> None:
    try:
        await keys.release(admission)
    except StoreUnavailable:
        return  # the store gives an abandoned hold back by itself
