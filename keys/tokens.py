"""Access tokens (RFC 9068 JWTs, HS256): the only file that uses python-jose.

Knows signatures and claims; whether the key behind a token is still good is the service's question.

python-jose 3.5.0 has published, unfixed holes (CVE-2026-85394: a DER public key taken as an HMAC secret;
CVE-2026-120459: an empty HMAC key; `crit` ignored; RecursionError on nested headers) and lenient defaults. Hence:
one algorithm, bound to the key by a Key object; secrets of 32 bytes; every claim required; and the header is parsed
here first, where only exactly `alg`, `typ` and a known `kid` pass. Its JWE is never used. tests/forgery.py holds one
attack per line.
"""

import base64
import json
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from jose import jwk, jwt
from jose.exceptions import JOSEError

from keys.errors import InvalidCredential
from keys.material import Keyring, fingerprint

ALGORITHM, TYPE = "HS256", "at+jwt"
ISSUER, AUDIENCE = "safe-distillation-box", "sdb"
MAX_TOKEN = 4096
TOKEN = re.compile(r"([\w-]{1,512})\.[\w-]+\.[\w-]{43}", re.ASCII)  # base64url, the last part of 32 bytes
CLOCK_SKEW_S = 1  # between replicas that share a store
# Times are judged below, by the clock that was passed in; requiring `exp` there would switch the library's own back on.
OPTIONS = {f"require_{claim}": True for claim in ("aud", "iat", "iss", "jti", "sub")}
OPTIONS |= {f"verify_{claim}": False for claim in ("exp", "nbf", "iat")}


@dataclass(frozen=True)
class Claims:
    """What a verified token says: which key it was made for, at which of its epochs, with which scopes.

    `jti` is the token's own id; the times are seconds since 1970.
    """

    key_id: str
    epoch: int
    scopes: frozenset[str]
    jti: str
    issued_at: float
    expires_at: float


class TokenMint:
    """Signs with the newest key of the ring, verifies with any of them."""

    def __init__(self, ring: Keyring, lifetime_s: int, clock: Callable[[], float]) -> None:
        self.lifetime_s, self._clock = lifetime_s, clock
        self._keys = {fingerprint(secret): jwk.construct(secret, ALGORITHM) for secret in ring}

    def issue(self, key_id: str, epoch: int, scopes: frozenset[str]) -> str:
        """A token of its own for a key at one of its epochs, for `lifetime_s` seconds."""
        now = int(self._clock())
        kid, key = next(iter(self._keys.items()))
        payload = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": key_id,
            "scope": " ".join(sorted(scopes)),
            "iat": now,
            "exp": now + self.lifetime_s,
            "jti": secrets.token_urlsafe(16),
            "epoch": epoch,
        }
        token: str = jwt.encode(payload, key, ALGORITHM, headers={"typ": TYPE, "kid": kid})
        return token

    def verify(self, token: str) -> Claims:
        """The claims of a token that this server signed and that has not expired.

        Raises:
            InvalidCredential: anything at all is wrong with it.
        """
        try:
            key = self._keys[_kid(token)]
            payload = jwt.decode(token, key, algorithms=[ALGORITHM], audience=AUDIENCE, issuer=ISSUER, options=OPTIONS)
            times = payload["iat"], payload["exp"], payload.get("nbf", 0), payload["epoch"]
            if not all(type(number) is int for number in times):
                raise InvalidCredential
            issued, expires, not_before, epoch = times
            now = self._clock()
            if not (issued <= now + CLOCK_SKEW_S and not_before <= now + CLOCK_SKEW_S and now < expires):
                raise InvalidCredential
            scopes = frozenset(str(payload["scope"]).split())
            return Claims(str(payload["sub"]), epoch, scopes, str(payload["jti"]), issued, expires)
        except (JOSEError, RecursionError, ArithmeticError, ValueError, KeyError, TypeError) as error:
            raise InvalidCredential from error


def _kid(token: str) -> str:
    """The `kid` of a token whose header is exactly ours; nothing else reaches the library.

    Raises:
        ValueError, RecursionError, InvalidCredential: it is not.
    """
    match = TOKEN.fullmatch(token) if len(token) <= MAX_TOKEN else None
    if match is None:
        raise InvalidCredential
    header = match[1]
    fields = json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))
    if not isinstance(fields, dict) or set(fields) != {"alg", "typ", "kid"}:
        raise InvalidCredential
    if fields["alg"] != ALGORITHM or fields["typ"] != TYPE or not isinstance(fields["kid"], str):
        raise InvalidCredential
    return fields["kid"]
