"""Forged access tokens: every attack that a server with HMAC-signed tokens has to expect, one line each.

The tokens are made by hand, so that a test never trusts the library it tests.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keys.material import fingerprint

REMOVED, FOREIGN = (hashlib.sha256(name).digest() for name in (b"removed", b"foreign"))
LIFETIME_S = 900
HOUR = 3600
Fields = dict[str, Any]


def segment(content: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


@dataclass(frozen=True)
class Forger:
    """Makes tokens as a server does that signs with `secret` and still knows `older`; each change is one fault.

    What is not changed is right, so that an attack is refused for its own reason: the subject is a real key.
    """

    secret: bytes
    older: bytes
    subject: str = "key_abc"
    epoch: int = 3

    @property
    def kid(self) -> str:
        """The name of the signing key."""
        return fingerprint(self.secret)

    def header(self, **changes: object) -> Fields:
        """The header as the server makes it."""
        return {"alg": "HS256", "typ": "at+jwt", "kid": self.kid, **changes}

    def payload(self, **changes: object) -> Fields:
        """The claims as the server makes them."""
        now = int(time.time())
        return {
            "iss": "safe-distillation-box",
            "aud": "sdb",
            "sub": self.subject,
            "scope": "distill predict",
            "iat": now,
            "exp": now + LIFETIME_S,
            "jti": "jti",
            "epoch": self.epoch,
            **changes,
        }

    def unsigned(self, head: Fields | bytes | None = None, body: Fields | bytes | None = None) -> str:
        """The first two segments; what is not given is as the server makes it."""
        parts = (self.header() if head is None else head, self.payload() if body is None else body)
        return ".".join(segment(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in parts)

    def signed(
        self,
        head: Fields | bytes | None = None,
        body: Fields | bytes | None = None,
        secret: bytes | None = None,
        digest: str = "sha256",
    ) -> str:
        """A token with the HMAC of `secret`, by default the server's."""
        text = self.unsigned(head, body)
        key = self.secret if secret is None else secret
        return f"{text}.{segment(hmac.new(key, text.encode(), digest).digest())}"

    def claiming(self, **changes: object) -> str:
        """A token well signed, with other claims."""
        return self.signed(body=self.payload(**changes))

    def heading(self, **changes: object) -> str:
        """A token well signed, with another header."""
        return self.signed(self.header(**changes))

    def rsa_signed(self, head: Fields) -> str:
        """A token signed with RSA-SHA-256."""
        text = self.unsigned(head)
        return f"{text}.{segment(rsa().sign(text.encode(), PKCS1v15(), SHA256()))}"


def without(fields: Fields, name: str) -> Fields:
    return {key: value for key, value in fields.items() if key != name}


@cache
def rsa() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def public_key(encoding: Encoding, form: PublicFormat) -> bytes:
    return rsa().public_key().public_bytes(encoding, form)


def with_body_of(other: str, token: str) -> str:
    """`token` with the claims of `other` and its own signature."""
    head, _, signature = token.split(".")
    return f"{head}.{other.split('.')[1]}.{signature}"


# f: what a forger with the server's secrets makes, so that each line has its own fault and no other.
ATTACKS: dict[str, Callable[[Forger], str]] = {
    # the algorithm
    "alg none, no signature": lambda f: f.unsigned(f.header(alg="none")) + ".",
    "alg none, signed": lambda f: f.heading(alg="none"),
    "alg None": lambda f: f.unsigned(f.header(alg="None")) + ".",
    "alg null": lambda f: f.heading(alg=None),
    "alg a list": lambda f: f.heading(alg=["HS256"]),
    "alg missing": lambda f: f.signed(without(f.header(), "alg")),
    "alg HS512, signed with it": lambda f: f.signed(f.header(alg="HS512"), digest="sha512"),
    "alg HS384, signed with it": lambda f: f.signed(f.header(alg="HS384"), digest="sha384"),
    "alg HS256, signed with SHA-512": lambda f: f.signed(digest="sha512"),
    "alg hs256": lambda f: f.heading(alg="hs256"),
    "alg RS256, HMAC": lambda f: f.heading(alg="RS256"),
    "alg RS256, signed with it": lambda f: f.rsa_signed(f.header(alg="RS256")),
    "alg dir (JWE)": lambda f: f.heading(alg="dir", enc="A256GCM"),
    # the secret
    "DER public key": lambda f: f.signed(secret=public_key(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    "DER PKCS1 public key": lambda f: f.signed(secret=public_key(Encoding.DER, PublicFormat.PKCS1)),
    "PEM public key": lambda f: f.signed(secret=public_key(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
    "PEM public key, stripped": lambda f: f.signed(
        secret=public_key(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).strip()
    ),
    "OpenSSH public key": lambda f: f.signed(secret=public_key(Encoding.OpenSSH, PublicFormat.OpenSSH)),
    "empty secret": lambda f: f.signed(secret=b""),
    "zero secret": lambda f: f.signed(secret=bytes(32)),
    "kid as the secret": lambda f: f.signed(secret=f.kid.encode()),
    "another server's secret": lambda f: f.signed(secret=FOREIGN),
    "another server's secret and kid": lambda f: f.signed(f.header(kid=fingerprint(FOREIGN)), secret=FOREIGN),
    "another key of the ring than kid says": lambda f: f.signed(secret=f.older),
    "key removed from the ring": lambda f: f.signed(f.header(kid=fingerprint(REMOVED)), secret=REMOVED),
    "no signature": lambda f: f.unsigned() + ".",
    "half a signature": lambda f: f.signed()[:-20],
    # the header
    "crit": lambda f: f.heading(crit=["exp"]),
    "crit of an unknown extension": lambda f: f.heading(crit=["x"], x=1),
    "b64 false": lambda f: f.heading(b64=False),
    "jku": lambda f: f.heading(jku="https://evil.example/jwks.json"),
    "jwk": lambda f: f.signed(f.header(jwk={"kty": "oct", "k": segment(FOREIGN)}), secret=FOREIGN),
    "x5u": lambda f: f.heading(x5u="https://evil.example/cert.pem"),
    "x5t": lambda f: f.heading(x5t=segment(FOREIGN)),
    "zip": lambda f: f.heading(zip="DEF"),
    "cty of a nested token": lambda f: f.heading(cty="JWT"),
    "x5c": lambda f: f.heading(x5c=[segment(b"cert")]),
    "typ JWT": lambda f: f.heading(typ="JWT"),
    "typ of an ID token": lambda f: f.heading(typ="id+jwt"),
    "typ in capitals": lambda f: f.heading(typ="AT+JWT"),
    "typ missing": lambda f: f.signed(without(f.header(), "typ")),
    "typ null": lambda f: f.heading(typ=None),
    "kid unknown": lambda f: f.heading(kid="0" * 16),
    "kid missing": lambda f: f.signed(without(f.header(), "kid")),
    "kid empty": lambda f: f.heading(kid=""),
    "kid a number": lambda f: f.heading(kid=7),
    "kid a list": lambda f: f.heading(kid=[f.kid]),
    "kid a path": lambda f: f.heading(kid="../../../dev/null"),
    "header nested 1,000 deep": lambda f: f.signed(b"[" * 1000),
    "header nested 380 deep": lambda f: f.signed(b"[" * 380),
    "kid nested 1,000 deep": lambda f: f.signed(b'{"alg":"HS256","typ":"at+jwt","kid":' + b"[" * 1000),
    "header a list": lambda f: f.signed(b'["alg","typ","kid"]'),
    "header a number": lambda f: f.signed(b"1"),
    "header a number of 380 digits": lambda f: f.signed(b"1" * 380),
    "header not JSON": lambda f: f.signed(b"{"),
    "header not UTF-8": lambda f: f.signed(b"\xff\xfe\xfd"),
    "header empty": lambda f: f.signed(b""),
    "header not base64": lambda f: "a" + f.signed(),
    # the claims
    "no aud": lambda f: f.signed(body=without(f.payload(), "aud")),
    "no exp": lambda f: f.signed(body=without(f.payload(), "exp")),
    "no iss": lambda f: f.signed(body=without(f.payload(), "iss")),
    "no iat": lambda f: f.signed(body=without(f.payload(), "iat")),
    "no sub": lambda f: f.signed(body=without(f.payload(), "sub")),
    "no jti": lambda f: f.signed(body=without(f.payload(), "jti")),
    "no scope": lambda f: f.signed(body=without(f.payload(), "scope")),
    "no epoch": lambda f: f.signed(body=without(f.payload(), "epoch")),
    "wrong aud": lambda f: f.claiming(aud="other"),
    "wrong aud in a list": lambda f: f.claiming(aud=["other", "SDB"]),
    "aud null": lambda f: f.claiming(aud=None),
    "aud an empty list": lambda f: f.claiming(aud=[]),
    "wrong iss": lambda f: f.claiming(iss="https://evil.example"),
    "iss in a list": lambda f: f.claiming(iss=["safe-distillation-box"]),
    "iss null": lambda f: f.claiming(iss=None),
    "iss empty": lambda f: f.claiming(iss=""),
    "sub a number": lambda f: f.claiming(sub=7),
    "expired": lambda f: f.claiming(iat=int(time.time()) - HOUR, exp=int(time.time()) - 10),
    "expired this second": lambda f: f.claiming(exp=int(time.time())),
    "exp zero": lambda f: f.claiming(exp=0),
    "exp true": lambda f: f.claiming(exp=True),
    "exp null": lambda f: f.claiming(exp=None),
    "exp not a number": lambda f: f.claiming(exp="never"),
    "exp infinite": lambda f: f.claiming(exp=float("inf")),
    "issued in the future": lambda f: f.claiming(iat=int(time.time()) + HOUR, exp=int(time.time()) + 2 * HOUR),
    "iat not a number": lambda f: f.claiming(iat="now"),
    "iat infinite": lambda f: f.claiming(iat=float("inf")),
    "nbf in the future": lambda f: f.claiming(nbf=int(time.time()) + HOUR),
    "nbf not a number": lambda f: f.claiming(nbf="now"),
    "epoch true": lambda f: f.claiming(epoch=True),
    "jti a number": lambda f: f.claiming(jti=7),
    "epoch not a number": lambda f: f.claiming(epoch="first"),
    "epoch infinite": lambda f: f.claiming(epoch=float("inf")),
    "claims a list": lambda f: f.signed(body=b"[]"),
    "claims not JSON": lambda f: f.signed(body=b"{"),
    "claims not UTF-8": lambda f: f.signed(body=b"\xff\xfe"),
    "claims empty": lambda f: f.signed(body=b""),
    "claims nested 2,500 deep": lambda f: f.signed(body=b"[" * 2500),
    "claims tampered with": lambda f: with_body_of(f.claiming(scope="distill predict unlock"), f.signed()),
    # the form
    "empty": lambda _: "",
    "dots": lambda _: "..",
    "one segment": lambda f: f.signed().replace(".", ""),
    "two segments": lambda f: f.signed().rpartition(".")[0],
    "four segments": lambda f: f.signed() + ".e30",
    "five segments (JWE)": lambda f: f.signed() + ".e30.e30",
    "not ASCII": lambda f: f.signed() + "é",
    "a line break in the signature": lambda f: f.signed()[:-5] + "\n" + f.signed()[-5:],
    "punctuation after the signature": lambda f: f.signed() + "!",
    "padding after the signature": lambda f: f.signed() + "=",
    "full-width dots": lambda f: f.signed().replace(".", "\uff0e"),
    "a lone surrogate": lambda f: f.signed() + "\ud800",
    "NUL": lambda f: "\x00" + f.signed(),
    "1 MB, signed": lambda f: f.claiming(padding="x" * 1_000_000),
    "1 MB of dots": lambda _: "." * 1_000_000,
    "header of 1 MB": lambda _: "A" * 1_000_000 + "..",
}
