"""Access tokens: the attack list, one attack per line, and what must go on working.

The attacks themselves are in tests/forgery.py.
"""

import base64
import hashlib
import json
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import InvalidCredential
from keys.material import Keyring, Vault, to_text
from keys.tokens import Claims, TokenMint
from tests.forgery import ATTACKS, HOUR, LIFETIME_S, REMOVED, Forger
from tests.keys.conftest import Clock

NEW, OLD = (hashlib.sha256(name).digest() for name in (b"new", b"old"))
FORGER = Forger(NEW, OLD)
MINT = TokenMint(Keyring([NEW, OLD]), LIFETIME_S, time.time)
RIGHTS = ("key_abc", 3, frozenset({"predict", "distill"}))


def rights(claims: Claims) -> tuple[str, int, frozenset[str]]:
    return claims.key_id, claims.epoch, claims.scopes


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_is_refused_with_the_one_text(attack: Callable[[Forger], str]) -> None:
    with pytest.raises(InvalidCredential) as refusal:
        MINT.verify(attack(FORGER))
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
        MINT.verify(FORGER.signed(json.dumps(head).encode(), json.dumps(body).encode()))


@given(st.sampled_from(["iss", "aud", "iat", "exp", "jti", "epoch", "nbf"]), JSON)
@settings(deadline=None, max_examples=300)
def test_a_strange_claim_is_refused_or_harmless(name: str, value: object) -> None:
    try:
        claims = MINT.verify(FORGER.claiming(**{name: value}))
    except InvalidCredential:
        return
    assert (claims.key_id, claims.scopes) == (RIGHTS[0], RIGHTS[2])


# --- what must go on working


def test_a_token_made_by_hand_as_the_server_makes_it_is_accepted() -> None:
    """Otherwise the attacks would be refused for another reason than theirs."""
    assert rights(MINT.verify(FORGER.signed())) == RIGHTS


def test_what_is_issued_verifies_to_the_same_claims() -> None:
    assert rights(MINT.verify(MINT.issue(*RIGHTS))) == RIGHTS


def test_an_issued_token_says_what_is_documented() -> None:
    head, body, _ = (base64.urlsafe_b64decode(part + "==") for part in MINT.issue(*RIGHTS).split("."))
    assert json.loads(head) == FORGER.header()
    said = json.loads(body)
    assert said == FORGER.payload(iat=said["iat"], exp=said["iat"] + LIFETIME_S, jti=said["jti"])
    assert abs(said["iat"] - time.time()) < 60


def test_what_is_issued_is_named_and_dated_as_the_token_says() -> None:
    token = MINT.issue(*RIGHTS)
    said = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
    claims = MINT.verify(token)
    assert (claims.jti, claims.issued_at, claims.expires_at) == (said["jti"], said["iat"], said["exp"])


def test_no_two_tokens_have_one_name() -> None:
    assert MINT.verify(MINT.issue(*RIGHTS)).jti != MINT.verify(MINT.issue(*RIGHTS)).jti


def test_a_token_of_an_older_key_verifies_after_rotation_and_new_ones_use_the_new_key() -> None:
    before = TokenMint(Keyring([OLD]), LIFETIME_S, time.time)
    after = TokenMint(Keyring([NEW, OLD]), LIFETIME_S, time.time)
    assert rights(after.verify(before.issue(*RIGHTS))) == RIGHTS
    with pytest.raises(InvalidCredential):
        before.verify(after.issue(*RIGHTS))


def test_a_token_dies_with_the_removal_of_its_key_from_the_ring() -> None:
    token = TokenMint(Keyring([REMOVED, NEW]), LIFETIME_S, time.time).issue(*RIGHTS)
    assert rights(TokenMint(Keyring([NEW, REMOVED]), LIFETIME_S, time.time).verify(token)) == RIGHTS
    with pytest.raises(InvalidCredential):
        MINT.verify(token)


def test_a_token_lives_for_its_lifetime_by_the_clock_passed_in() -> None:
    clock = Clock(time.time())
    mint = TokenMint(Keyring([NEW]), LIFETIME_S, clock)
    token = mint.issue(*RIGHTS)
    clock.now += LIFETIME_S - 2
    assert rights(mint.verify(token)) == RIGHTS
    clock.now += 4
    with pytest.raises(InvalidCredential):
        mint.verify(token)


@pytest.mark.parametrize("now", [1_000_000_000.0, 4_000_000_000.5])
def test_a_token_round_trips_whatever_the_clock_passed_in_says(now: float) -> None:
    mint = TokenMint(Keyring([NEW]), LIFETIME_S, Clock(now))
    assert rights(mint.verify(mint.issue(*RIGHTS))) == RIGHTS


def test_a_token_is_not_valid_before_its_nbf_by_the_clock_passed_in() -> None:
    clock = Clock(time.time() - HOUR)
    token = FORGER.claiming(iat=int(clock.now), nbf=int(clock.now) + 60)
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
