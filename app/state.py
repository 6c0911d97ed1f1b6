"""The state folder and its secrets: what the server makes for itself on first start, and finds again.

Knows where secrets lie; the cryptography is in `keys.material`.
"""

import asyncio
import logging
import secrets
import time
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path

from app.settings import Settings
from keys.connection import Seen, connect, unseen
from keys.embedded import EmbeddedStore
from keys.errors import ConfigurationError, StoreUnavailable
from keys.material import (
    SECRET_BYTES,
    Keyring,
    Vault,
    load_or_create,
    new_api_key,
    parse_secret,
    replace_private,
    write_private,
)
from keys.records import Act, KeyGrant
from keys.rewrap import Tally
from keys.service import KeyService
from keys.store import KeyStore
from keys.tokens import TokenMint

DEMO_SECRET = "demo.key"  # noqa: S105 - a file's name
LOOKED_FOR_EVERY_S = 0.5  # a store that was away at the start
FIRST_START = """the first admin key is written to {path} (mode 0600); issue a client key with

  curl -s {url}/admin/v1/keys -H "Authorization: Bearer $(cat {path})" \\
    -H 'Content-Type: application/json' \\
    -d '{{"name": "partner", "scopes": ["predict", "distill"], "budget": {{"limit": 1000}}}}'
"""

log = logging.getLogger("sdb")


class State:
    """Opens `settings.state_dir`, making it (mode 0700) and the missing master and signing keys (mode 0600)."""

    def __init__(self, settings: Settings) -> None:
        self.folder = settings.state_dir
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.vault = Vault(self._ring(settings.master_key.get_secret_value(), "master_key"))
            self.token_keys = self._ring(settings.token_keys.get_secret_value(), "token_keys")
            if token := settings.metrics_token.get_secret_value():
                parse_secret(token, "SDB_METRICS_TOKEN")
        except OSError as error:
            raise ConfigurationError(f"the state folder cannot be used: {error}") from error

    def _ring(self, given: str, name: str) -> Keyring:
        if given:
            return Keyring.parse(given, f"SDB_{name.upper()}")
        return Keyring.load_or_create(self.folder / name)

    @property
    def _model_secrets(self) -> Path:
        return self.folder / "model-secrets"

    def _sealed(self, model: str) -> Path:
        return self._model_secrets / f"{model}.sealed"

    @property
    def deployment(self) -> bytes:
        """What sets this deployment's false peaks apart; the same on every replica that shares the master key."""
        return self.vault.derive("deployment")

    @property
    def admin_key(self) -> Path:
        """Where the first admin's API key is written."""
        return self.folder / "admin.key"

    async def first_admin(self, keys: KeyService) -> bool:
        """Make the first admin key if the store never had one; whether it was made.

        The file is written before the store learns of the key: a crash in between leaves a file that opens nothing,
        which the next start replaces, and never a key that nobody has. Servers that start together on a new store ask
        for one and the same change: it is made once, and all of them are told its key.
        """
        if await keys.has_admin():
            return False
        api_key = new_api_key("adm")
        self._write_admin(api_key)
        act = Act("server", idempotency_key="first admin")
        made = await keys.lifecycle.register(KeyGrant(name="first admin"), act, "admin", api_key)
        if made.api_key != api_key:
            self._write_admin(made.api_key)
        return True

    def _write_admin(self, api_key: str) -> None:
        try:
            replace_private(self.admin_key, (api_key + "\n").encode())
        except OSError as error:
            raise ConfigurationError(f"{self.admin_key} cannot be written: {error.strerror}") from error

    def model_secret(self, model: str, bundle: Path) -> tuple[bytes, bool]:
        """The secret (32 bytes) of a model, and whether it is a public one that came with a demo bundle.

        Raises:
            ConfigurationError: there is none, it cannot be read, or the master key does not open it.
        """
        sealed, demo = self._sealed(model), bundle / DEMO_SECRET
        try:
            if sealed.exists():
                return self.vault.unseal(sealed.read_bytes(), _context(model)), False
            if demo.exists():
                return parse_secret(demo.read_text(), str(demo)), True
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"the secret of model {model} cannot be read: {error}") from error
        raise ConfigurationError(f"no secret for model {model}: {sealed} is missing; bring it from where it was made")

    def new_model_secret(self, model: str) -> bytes:
        """Make a secret for a model that has none, and keep it sealed by the master key; an existing one stays.

        A training that was interrupted must find the same secret again.
        """
        sealed = self._sealed(model)
        if not sealed.exists():
            secret = secrets.token_bytes(SECRET_BYTES)
            write_private(sealed, self.vault.seal(secret, _context(model)))
        return self.vault.unseal(sealed.read_bytes(), _context(model))

    def rewrap(self) -> Tally:
        """Seal every model secret under the newest master key; a file is replaced as a whole."""
        tally = Tally()
        for path in sorted(self._model_secrets.glob("*.sealed")):
            sealed = tally.reseal(self.vault, path.read_bytes(), _context(path.stem))
            if sealed is not None:
                replace_private(path, sealed)
                tally.resealed += 1
        return tally


async def open_keys(
    settings: Settings, state: State, stack: AsyncExitStack, *, wait_s: float, seen: Seen = unseen
) -> KeyService:
    """The key service over the store of `settings`, until `stack` ends; `seen` is told of every round trip to it.

    Raises:
        StoreInUse: the embedded store has an owner that does not leave within `wait_s`.
        ConfigurationError: the store cannot be used.
    """
    url = await asyncio.to_thread(open_store, settings, stack, wait_s=wait_s)
    return _service(settings, state, stack, url, seen)


def open_store(settings: Settings, stack: ExitStack | AsyncExitStack, *, wait_s: float) -> str:
    """The URL of the store of `settings`; the embedded one runs until `stack` ends.

    Raises:
        StoreInUse: the embedded store has an owner that does not leave within `wait_s`.
        ConfigurationError: the store cannot be used.
    """
    url = settings.redis_url.get_secret_value()
    if not url and settings.redis_replicas:
        raise ConfigurationError("SDB_REDIS_REPLICAS needs SDB_REDIS_URL: the embedded store has no replicas")
    if url:
        return url
    return stack.enter_context(EmbeddedStore(settings.state_dir / "store", wait_s)).url


def attach_keys(settings: Settings, state: State, stack: AsyncExitStack) -> KeyService:
    """The key service over the embedded store that another process of this machine runs."""
    return _service(settings, state, stack, EmbeddedStore(settings.state_dir / "store").url, unseen)


def _service(settings: Settings, state: State, stack: AsyncExitStack, url: str, seen: Seen) -> KeyService:
    store = KeyStore(connect(url, seen), settings.redis_replicas)
    mint = TokenMint(state.token_keys, settings.token_lifetime_s, time.time)
    service = KeyService(store, state.vault, mint, time.time)
    stack.push_async_callback(service.close)
    return service


async def make_first_admin(settings: Settings, state: State, service: KeyService) -> bool:
    """Give a new store its admin and say where the key is; False where the store is away."""
    try:
        await _make_first_admin(settings, state, service)
    except StoreUnavailable as error:
        log.warning("%s: public predictions go on, whatever needs a key is refused", error)
        return False
    return True


async def _make_first_admin(settings: Settings, state: State, service: KeyService) -> None:
    if await state.first_admin(service):
        log.info(FIRST_START.format(path=state.admin_key, url=f"http://{settings.url_host}:{settings.port}"))
    await service.ready()  # from here on, another store is told from this one


async def make_first_admin_later(settings: Settings, state: State, service: KeyService) -> None:
    """The same for a store that was away, as soon as it is there."""
    while True:
        await asyncio.sleep(LOOKED_FOR_EVERY_S)
        try:
            await _make_first_admin(settings, state, service)
        except StoreUnavailable:
            continue
        except ConfigurationError as error:
            log.error("%s", error)  # as at a start, which it would have ended
        return


def new_demo_secret(bundle: Path) -> bytes:
    """Make a public secret beside the bundle, or read the one that is there."""
    return load_or_create(bundle / DEMO_SECRET)


def _context(model: str) -> str:
    return f"model-secret/{model}"
