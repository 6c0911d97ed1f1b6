"""Access tokens: the attack list, one attack per line, and what must go on working.

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

import pytest
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import InvalidCredential
from keys.material import Keyring, Vault, fingerprint, to_text
from keys.tokens import Claims, TokenMint

NEW, OLD, REMOVED, FOREIGN = (hashlib.sha256(name).digest() for name in (b"new", b"old", b"removed", b"foreign"))
LIFETIME_S = 900
MINT = TokenMint(Keyring([NEW, OLD]), LIFETIME_S, time.time)
CLAIMS = Claims("key_abc", 3, frozenset({"predict", "distill"}))
HOUR = 3600
Fields = dict[str, Any]


@dataclass
class Clock:
    """A clock that stands until it is set."""

    now: float

    def __call__(self) -> float:
        return self.now


def segment(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def header(**changes: object) -> Fields:
    return {"alg": "HS256", "typ": "at+jwt", "kid": fingerprint(NEW), **changes}


def payload(**changes: object) -> Fields:
    now = int(time.time())
    return {
        "iss": "safe-distillation-box",
        "aud": "sdb",
        "sub": "key_abc",
        "scope": "distill predict",
        "iat": now,
        "exp": now + LIFETIME_S,
        "jti": "jti",
        "epoch": 3,
        **changes,
    }


def without(fields: Fields, name: str) -> Fields:
    return {key: value for key, value in fields.items() if key != name}


def unsigned(head: Fields | bytes | None = None, body: Fields | bytes | None = None) -> str:
    """The first two segments; what is not given is as the server makes it."""
    parts = (header() if head is None else head, payload() if body is None else body)
    return ".".join(segment(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in parts)


def signed(
    head: Fields | bytes | None = None,
    body: Fields | bytes | None = None,
    secret: bytes = NEW,
    digest: str = "sha256",
) -> str:
    """A token with the HMAC of `secret`, by default the server's newest signing key."""
    text = unsigned(head, body)
    return f"{text}.{segment(hmac.new(secret, text.encode(), digest).digest())}"


def claiming(**changes: object) -> str:
    return signed(body=payload(**changes))


def heading(**changes: object) -> str:
    return signed(header(**changes))


@cache
def rsa() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def public_key(encoding: Encoding, form: PublicFormat) -> bytes:
    return rsa().public_key().public_bytes(encoding, form)


def rsa_signed(head: Fields) -> str:
    text = unsigned(head)
    return f"{text}.{segment(rsa().sign(text.encode(), PKCS1v15(), SHA256()))}"


def with_body_of(other: str, token: str) -> str:
    """`token` with the claims of `other` and its own signature."""
    head, _, signature = token.split(".")
    return f"{head}.{other.split('.')[1]}.{signature}"


ATTACKS: dict[str, Callable[[], str]] = {
    # the algorithm
    "alg none, no signature": lambda: unsigned(header(alg="none")) + ".",
    "alg none, signed": lambda: heading(alg="none"),
    "alg None": lambda: unsigned(header(alg="None")) + ".",
    "alg null": lambda: heading(alg=None),
    "alg a list": lambda: heading(alg=["HS256"]),
    "alg missing": lambda: signed(without(header(), "alg")),
    "alg HS512, signed with it": lambda: signed(header(alg="HS512"), digest="sha512"),
    "alg HS384, signed with it": lambda: signed(header(alg="HS384"), digest="sha384"),
    "alg HS256, signed with SHA-512": lambda: signed(digest="sha512"),
    "alg RS256, HMAC": lambda: heading(alg="RS256"),
    "alg RS256, signed with it": lambda: rsa_signed(header(alg="RS256")),
    "alg dir (JWE)": lambda: heading(alg="dir", enc="A256GCM"),
    # the secret
    "DER public key": lambda: signed(secret=public_key(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    "DER PKCS1 public key": lambda: signed(secret=public_key(Encoding.DER, PublicFormat.PKCS1)),
    "PEM public key": lambda: signed(secret=public_key(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)),
    "OpenSSH public key": lambda: signed(secret=public_key(Encoding.OpenSSH, PublicFormat.OpenSSH)),
    "empty secret": lambda: signed(secret=b""),
    "zero secret": lambda: signed(secret=bytes(32)),
    "kid as the secret": lambda: signed(secret=fingerprint(NEW).encode()),
    "another server's secret": lambda: signed(secret=FOREIGN),
    "another server's secret and kid": lambda: signed(header(kid=fingerprint(FOREIGN)), secret=FOREIGN),
    "another key of the ring than kid says": lambda: signed(secret=OLD),
    "key removed from the ring": lambda: signed(header(kid=fingerprint(REMOVED)), secret=REMOVED),
    "no signature": lambda: unsigned() + ".",
    "half a signature": lambda: signed()[:-20],
    # the header
    "crit": lambda: heading(crit=["exp"]),
    "crit of an unknown extension": lambda: heading(crit=["x"], x=1),
    "b64 false": lambda: heading(b64=False),
    "jku": lambda: heading(jku="https://evil.example/jwks.json"),
    "jwk": lambda: signed(header(jwk={"kty": "oct", "k": segment(FOREIGN)}), secret=FOREIGN),
    "x5u": lambda: heading(x5u="https://evil.example/cert.pem"),
    "x5c": lambda: heading(x5c=[segment(b"cert")]),
    "typ JWT": lambda: heading(typ="JWT"),
    "typ missing": lambda: signed(without(header(), "typ")),
    "typ null": lambda: heading(typ=None),
    "kid unknown": lambda: heading(kid="0" * 16),
    "kid missing": lambda: signed(without(header(), "kid")),
    "kid empty": lambda: heading(kid=""),
    "kid a number": lambda: heading(kid=7),
    "kid a list": lambda: heading(kid=[fingerprint(NEW)]),
    "kid a path": lambda: heading(kid="../../../dev/null"),
    "header nested 1,000 deep": lambda: signed(b"[" * 1000),
    "header nested 380 deep": lambda: signed(b"[" * 380),
    "kid nested 1,000 deep": lambda: signed(b'{"alg":"HS256","typ":"at+jwt","kid":' + b"[" * 1000),
    "header a list": lambda: signed(b'["alg","typ","kid"]'),
    "header a number": lambda: signed(b"1"),
    "header a number of 380 digits": lambda: signed(b"1" * 380),
    "header not JSON": lambda: signed(b"{"),
    "header not UTF-8": lambda: signed(b"\xff\xfe\xfd"),
    "header empty": lambda: signed(b""),
    "header not base64": lambda: "a" + signed(),
    # the claims
    "no aud": lambda: signed(body=without(payload(), "aud")),
    "no exp": lambda: signed(body=without(payload(), "exp")),
    "no iss": lambda: signed(body=without(payload(), "iss")),
    "no iat": lambda: signed(body=without(payload(), "iat")),
    "no sub": lambda: signed(body=without(payload(), "sub")),
    "no jti": lambda: signed(body=without(payload(), "jti")),
    "no scope": lambda: signed(body=without(payload(), "scope")),
    "no epoch": lambda: signed(body=without(payload(), "epoch")),
    "wrong aud": lambda: claiming(aud="other"),
    "wrong aud in a list": lambda: claiming(aud=["other", "SDB"]),
    "aud null": lambda: claiming(aud=None),
    "wrong iss": lambda: claiming(iss="https://evil.example"),
    "iss in a list": lambda: claiming(iss=["safe-distillation-box"]),
    "iss null": lambda: claiming(iss=None),
    "sub a number": lambda: claiming(sub=7),
    "expired": lambda: claiming(iat=int(time.time()) - HOUR, exp=int(time.time()) - 10),
    "exp null": lambda: claiming(exp=None),
    "exp not a number": lambda: claiming(exp="never"),
    "exp infinite": lambda: claiming(exp=float("inf")),
    "issued in the future": lambda: claiming(iat=int(time.time()) + HOUR, exp=int(time.time()) + 2 * HOUR),
    "iat not a number": lambda: claiming(iat="now"),
    "iat infinite": lambda: claiming(iat=float("inf")),
    "nbf in the future": lambda: claiming(nbf=int(time.time()) + HOUR),
    "nbf not a number": lambda: claiming(nbf="now"),
    "epoch not a number": lambda: claiming(epoch="first"),
    "epoch infinite": lambda: claiming(epoch=float("inf")),
    "claims a list": lambda: signed(body=b"[]"),
    "claims not JSON": lambda: signed(body=b"{"),
    "claims not UTF-8": lambda: signed(body=b"\xff\xfe"),
    "claims empty": lambda: signed(body=b""),
    "claims nested 2,500 deep": lambda: signed(body=b"[" * 2500),
    "claims tampered with": lambda: with_body_of(claiming(scope="distill predict unlock"), signed()),
    # the form
    "empty": lambda: "",
    "dots": lambda: "..",
    "one segment": lambda: signed().replace(".", ""),
    "two segments": lambda: signed().rpartition(".")[0],
    "four segments": lambda: signed() + ".e30",
    "five segments (JWE)": lambda: signed() + ".e30.e30",
    "not ASCII": lambda: signed() + "é",
    "full-width dots": lambda: signed().replace(".", "\uff0e"),
    "a lone surrogate": lambda: signed() + "\ud800",
    "NUL": lambda: "\x00" + signed(),
    "1 MB, signed": lambda: claiming(padding="x" * 1_000_000),
    "1 MB of dots": lambda: "." * 1_000_000,
    "header of 1 MB": lambda: "A" * 1_000_000 + "..",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused_with_the_one_text(attack: Callable[[], str]) -> None:
    with pytest.raises(InvalidCredential) as refusal:
        MINT.verify(attack())
    assert str(refusal.value) == str(InvalidCredential())


@given(st.text())
@settings(deadline=None)
def test_arbitrary_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidCredential):
        MINT.verify(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, JSON)
@settings(deadline=None)
def test_arbitrary_headers_and_claims_are_refused_even_when_signed(head: object, body: object) -> None:
    with pytest.raises(InvalidCredential):
        MINT.verify(signed(json.dumps(head).encode(), json.dumps(body).encode()))


@given(st.sampled_from(["iss", "aud", "iat", "exp", "jti", "epoch", "nbf"]), JSON)
@settings(deadline=None, max_examples=300)
def test_a_strange_claim_is_refused_or_harmless(name: str, value: object) -> None:
    try:
        claims = MINT.verify(claiming(**{name: value}))
    except InvalidCredential:
        return
    assert (claims.key_id, claims.scopes) == (CLAIMS.key_id, CLAIMS.scopes)


# --- what must go on working


def test_a_token_made_by_hand_as_the_server_makes_it_is_accepted() -> None:
    """Otherwise the attacks would be refused for another reason than theirs."""
    assert MINT.verify(signed()) == CLAIMS


def test_what_is_issued_verifies_to_the_same_claims() -> None:
    assert MINT.verify(MINT.issue(CLAIMS)) == CLAIMS


def test_an_issued_token_says_what_is_documented() -> None:
    head, body, _ = (base64.urlsafe_b64decode(part + "==") for part in MINT.issue(CLAIMS).split("."))
    assert json.loads(head) == header()
    said = json.loads(body)
    assert said == payload(iat=said["iat"], exp=said["iat"] + LIFETIME_S, jti=said["jti"])
    assert abs(said["iat"] - time.time()) < 60


def test_no_two_tokens_are_equal() -> None:
    assert MINT.issue(CLAIMS) != MINT.issue(CLAIMS)


def test_a_token_of_an_older_key_verifies_after_rotation_and_new_ones_use_the_new_key() -> None:
    before = TokenMint(Keyring([OLD]), LIFETIME_S, time.time)
    after = TokenMint(Keyring([NEW, OLD]), LIFETIME_S, time.time)
    assert after.verify(before.issue(CLAIMS)) == CLAIMS
    with pytest.raises(InvalidCredential):
        before.verify(after.issue(CLAIMS))


def test_a_token_dies_with_the_removal_of_its_key_from_the_ring() -> None:
    token = TokenMint(Keyring([REMOVED, NEW]), LIFETIME_S, time.time).issue(CLAIMS)
    assert TokenMint(Keyring([NEW, REMOVED]), LIFETIME_S, time.time).verify(token) == CLAIMS
    with pytest.raises(InvalidCredential):
        MINT.verify(token)


def test_a_token_lives_for_its_lifetime_by_the_clock_passed_in() -> None:
    clock = Clock(time.time())
    mint = TokenMint(Keyring([NEW]), LIFETIME_S, clock)
    token = mint.issue(CLAIMS)
    clock.now += LIFETIME_S - 2
    assert mint.verify(token) == CLAIMS
    clock.now += 4
    with pytest.raises(InvalidCredential):
        mint.verify(token)


@pytest.mark.parametrize("now", [1_000_000_000.0, 4_000_000_000.5])
def test_a_token_round_trips_whatever_the_clock_passed_in_says(now: float) -> None:
    mint = TokenMint(Keyring([NEW]), LIFETIME_S, Clock(now))
    assert mint.verify(mint.issue(CLAIMS)) == CLAIMS


def test_a_token_is_not_valid_before_its_nbf_by_the_clock_passed_in() -> None:
    clock = Clock(time.time() - HOUR)
    token = claiming(iat=int(clock.now), nbf=int(clock.now) + 60)
    mint = TokenMint(Keyring([NEW]), LIFETIME_S, clock)
    with pytest.raises(InvalidCredential):
        mint.verify(token)


@pytest.mark.parametrize(
    "subject", [MINT, Keyring([NEW, OLD]), Vault(Keyring([NEW, OLD]))], ids=["mint", "ring", "vault"]
)
def test_no_holder_of_secrets_shows_them(subject: object) -> None:
    shown = f"{subject!r} {subject!s} {[subject]}"
    derived = [*vars(subject)["_hmac_keys"], *vars(subject)["_seal_keys"]] if isinstance(subject, Vault) else []
    for secret in (NEW, OLD, *derived):
        for form in (secret.hex(), to_text(secret), repr(secret)[2:-1], str(list(secret)), str(int.from_bytes(secret))):
            assert form not in shown
