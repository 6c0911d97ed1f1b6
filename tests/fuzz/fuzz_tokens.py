"""Fuzzes access tokens: text as it comes, and headers and claims of any kind that are signed well."""

import base64
import hashlib
import hmac

from keys.errors import InvalidCredential
from keys.material import Keyring
from keys.tokens import TokenMint
from tests.forgery import Forger

SECRET, OLDER = (hashlib.sha256(name).digest() for name in (b"newest", b"older"))
MINT = TokenMint(Keyring([SECRET, OLDER]), 900, lambda: 1_790_000_100.0)
FORGER = Forger(SECRET, OLDER)
TIMES = {"iat": 1_790_000_000, "exp": 1_790_000_900}
SEEDS = [
    b"\0" + FORGER.claiming(**TIMES).encode(),
    b"\0" + FORGER.signed(FORGER.header(alg="none"), FORGER.payload(**TIMES)).encode(),
    b"\1" + FORGER.unsigned(body=FORGER.payload(**TIMES)).replace(".", "\n").encode(),
    *(
        b"\2" + head + b"\n" + body
        for head in (b'{"alg":"HS256","typ":"at+jwt","kid":"%s"}' % FORGER.kid.encode(), b'{"alg":"none"}', b"[]")
        for body in (
            b'{"iss":"safe-distillation-box","aud":["sdb"],"sub":"k","scope":"distill","iat":1790000000,'
            b'"exp":1790000900,"jti":"j","epoch":3}',
            b"[[[[[[[[[[",
            b'{"exp":1e999,"nbf":-1,"epoch":NaN}',
        )
    ),
]


def feed(data: bytes) -> None:
    """The first byte says whether a text is judged, or two segments, or what they hold, each of them signed."""
    token = _token(data[0] % 3 if data else 0, data[1:])
    try:
        claims = MINT.verify(token)
    except InvalidCredential:
        return
    signed, _, signature = token.rpartition(".")
    assert hmac.compare_digest(signature, _signature(signed)), "what passes was signed with the key"
    assert claims.issued_at <= 1_790_000_101
    assert claims.expires_at > 1_790_000_100


def _token(how: int, content: bytes) -> str:
    if how == 0:
        return content.decode("latin-1")
    parts = content.split(b"\n", 1)
    texts = [part.decode("latin-1") if how == 1 else _segment(part) for part in parts]
    signed = ".".join(texts)
    return f"{signed}.{_signature(signed)}"


def _signature(signed: str) -> str:
    return _segment(hmac.digest(SECRET, signed.encode(), hashlib.sha256))


def _segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
