"""API keys as text, digests, sealed boxes, secrets of the operator and the files that hold them."""

import hashlib
import hmac
import os
import re
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keys.errors import ConfigurationError, InvalidCredential
from keys.material import (
    BASE62,
    KeyClass,
    Keyring,
    Vault,
    check_api_key,
    fingerprint,
    from_text,
    load_or_create,
    new_api_key,
    parse_secret,
    replace_private,
    to_text,
    write_private,
)

OLD, NEW = (hashlib.sha256(name).digest() for name in (b"old", b"new"))
DOCUMENTED = r"sdb_(adm|cli)_[0-9A-Za-z]{38}"
KINDS: tuple[KeyClass, ...] = ("adm", "cli")
SEALED = Vault(Keyring([NEW])).seal(b"sixteen byte key", "image key 7")


def vault(*masters: bytes) -> Vault:
    return Vault(Keyring(masters))


# --- API keys


@pytest.mark.parametrize("kind", KINDS)
def test_an_api_key_has_the_documented_form_and_names_its_class(kind: KeyClass) -> None:
    key = new_api_key(kind)
    assert re.fullmatch(DOCUMENTED, key)
    assert key.startswith(f"sdb_{kind}_")
    assert check_api_key(key) == kind


def test_the_last_six_characters_are_the_crc32_of_the_rest_in_base62() -> None:
    key = new_api_key("cli")
    value = 0
    for character in key[-6:]:
        value = value * 62 + BASE62.index(character)
    assert value == zlib.crc32(key[:-6].encode())


def test_no_two_api_keys_are_equal() -> None:
    assert len({new_api_key("cli")[8:40] for _ in range(200)}) == 200


def test_each_change_of_a_single_character_is_refused() -> None:
    key = new_api_key("cli")
    for place, original in enumerate(key):
        for other in set(BASE62 + "_-. é") - {original}:
            with pytest.raises(InvalidCredential):
                check_api_key(key[:place] + other + key[place + 1 :])


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: "",
        lambda key: key[:-1],
        lambda key: key + "0",
        lambda key: key + "\n",
        lambda key: " " + key,
        lambda key: key.replace("sdb_", "SDB_"),
        lambda key: key.replace("cli", "adm"),
        lambda key: key[:20] + key[21] + key[20] + key[22:] if key[20] != key[21] else "",
        lambda key: key[:8] + "٣" * 32 + key[40:],
        lambda key: key[:8] + "\x00" * 32 + key[40:],
    ],
    ids=["empty", "shorter", "longer", "newline", "space", "case", "class", "swapped", "arabic", "nul"],
)
def test_a_damaged_api_key_is_refused(damage: Callable[[str], str]) -> None:
    with pytest.raises(InvalidCredential):
        check_api_key(damage(new_api_key("cli")))


@given(st.one_of(st.text(), st.from_regex(DOCUMENTED, fullmatch=True)))
@settings(deadline=None)
def test_text_that_was_not_made_as_an_api_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidCredential):
        check_api_key(text)


# --- digests


def test_digests_are_hmacs_under_a_key_derived_with_hkdf() -> None:
    extracted = hmac.new(bytes(32), NEW, hashlib.sha256).digest()
    derived = hmac.new(extracted, b"sdb/v1/api-key-hmac\x01", hashlib.sha256).digest()
    expected = hmac.new(derived, b"sdb_cli_x", hashlib.sha256).hexdigest()
    assert vault(NEW).digests("sdb_cli_x") == [expected], "every stored key would be orphaned"


def test_each_master_key_gives_another_digest_newest_first() -> None:
    key = new_api_key("cli")
    assert vault(NEW, OLD).digests(key) == vault(NEW).digests(key) + vault(OLD).digests(key)
    assert len(set(vault(NEW, OLD).digests(key))) == 2


def test_each_api_key_gives_another_digest() -> None:
    assert vault(NEW).digests(new_api_key("cli")) != vault(NEW).digests(new_api_key("cli"))


# --- sealed boxes


@given(st.binary(max_size=200), st.text(max_size=50))
@settings(deadline=None, max_examples=50)
def test_what_is_sealed_unseals_to_the_same_bytes(plain: bytes, context: str) -> None:
    box = vault(NEW)
    assert box.unseal(box.seal(plain, context), context) == plain


def test_a_sealed_box_hides_its_content_and_differs_each_time() -> None:
    again = vault(NEW).seal(b"sixteen byte key", "image key 7")
    assert b"sixteen byte key" not in again
    assert again != SEALED


@pytest.mark.parametrize("context", ["", "image key 8", "image key 7 "])
def test_a_box_does_not_open_in_another_context(context: str) -> None:
    with pytest.raises(ConfigurationError):
        vault(NEW).unseal(SEALED, context)


def test_a_box_does_not_open_under_another_master_key() -> None:
    with pytest.raises(ConfigurationError):
        vault(OLD).unseal(SEALED, "image key 7")


def test_a_box_that_claims_to_be_of_our_master_key_does_not_open() -> None:
    ours, theirs = vault(NEW).seal(b"", "c"), vault(OLD).seal(b"forged", "c")
    with pytest.raises(ConfigurationError):
        vault(NEW).unseal(ours[:8] + theirs[8:], "c")


@pytest.mark.parametrize("length", range(len(SEALED)))
def test_a_truncated_box_does_not_open(length: int) -> None:
    with pytest.raises(ConfigurationError):
        vault(NEW).unseal(SEALED[:length], "image key 7")


def test_a_box_with_any_bit_flipped_does_not_open() -> None:
    box = vault(NEW)
    for bit in range(len(SEALED) * 8):
        flipped = bytearray(SEALED)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ConfigurationError):
            box.unseal(bytes(flipped), "image key 7")


def test_after_rotation_old_boxes_open_and_new_ones_need_the_new_key() -> None:
    rotated = vault(NEW, OLD)
    assert rotated.unseal(vault(OLD).seal(b"before", "c"), "c") == b"before"
    sealed = rotated.seal(b"after", "c")
    assert vault(NEW).unseal(sealed, "c") == b"after"
    with pytest.raises(ConfigurationError):
        vault(OLD).unseal(sealed, "c")


def test_a_box_is_sealed_again_once_for_the_newest_master_key() -> None:
    rotated, old = vault(NEW, OLD), vault(OLD).seal(b"before", "c")
    again = rotated.reseal(old, "c")
    assert again is not None
    assert vault(NEW).unseal(again, "c") == b"before"
    assert rotated.reseal(again, "c") is None
    for sealed, context in ((old, "d"), (vault(b"x" * 32).seal(b"", "c"), "c"), (b"", "c")):
        with pytest.raises(ConfigurationError):
            rotated.reseal(sealed, context)


def test_the_newest_master_key_has_a_public_name() -> None:
    assert vault(NEW).newest == vault(NEW, OLD).newest != vault(OLD, NEW).newest
    assert vault(NEW).newest not in NEW.hex()


# --- signatures


def test_a_signature_is_an_hmac_under_a_key_of_its_own() -> None:
    extracted = hmac.new(bytes(32), NEW, hashlib.sha256).digest()
    derived = hmac.new(extracted, b"sdb/v1/sign\x01", hashlib.sha256).digest()
    expected = hmac.new(derived, b"audit/text", hashlib.sha256).hexdigest()
    assert vault(NEW).sign("audit", "text") == (vault(NEW).newest, expected), "every audit log would be unsealed"


def test_what_was_signed_is_known_as_long_as_its_master_key_is_given() -> None:
    master, signature = vault(OLD).sign("audit", "text")
    for known in (vault(OLD), vault(NEW, OLD), vault(OLD, NEW)):
        assert known.signed("audit", "text", master, signature) is True
    assert vault(NEW).signed("audit", "text", master, signature) is None
    assert vault(NEW, OLD).sign("audit", "text") == vault(NEW).sign("audit", "text")


def test_a_signature_is_of_its_text_its_purpose_and_its_master_key_alone() -> None:
    both = vault(NEW, OLD)
    master, signature = both.sign("audit", "text")
    for purpose, text, other in (
        ("audit", "text ", signature),
        ("audits", "text", signature),
        ("", "audit/text", signature),
        ("audit", "text", signature.upper()),
        ("audit", "text", signature[:-1]),
        ("audit", "text", ""),
        ("audit", "text", vault(OLD).sign("audit", "text")[1]),
        ("audit", "text", both.digests("audit/text")[0]),
    ):
        assert both.signed(purpose, text, master, other) is False
    assert both.signed("audit", "text", vault(OLD).newest, signature) is False
    for name in ("", master[:-1], f"{master} "):
        assert both.signed("audit", "text", name, signature) is None


@given(st.text(max_size=50), st.text(max_size=70))
@settings(deadline=None, max_examples=50)
def test_arbitrary_text_is_no_signature(text: str, signature: str) -> None:
    assert vault(NEW).signed("audit", text, vault(NEW).newest, signature) is False


# --- secrets of the operator


@given(st.binary(max_size=100), st.sampled_from(["", "=", "==", "\n"]))
@settings(deadline=None, max_examples=50)
def test_bytes_are_read_back_from_their_text(secret: bytes, end: str) -> None:
    assert from_text(to_text(secret) + end) == secret


@pytest.mark.parametrize("text", ["a", "é", "ab cd", "a,b"])
def test_what_is_not_base64url_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        from_text(text)


@given(st.lists(st.integers(0, 255), min_size=32, max_size=32, unique=True).map(bytes), st.sampled_from(["", "="]))
@settings(deadline=None, max_examples=50)
def test_a_secret_is_read_with_and_without_padding(secret: bytes, padding: str) -> None:
    assert parse_secret(f" {to_text(secret)}{padding}\n", "SDB_MASTER_KEY") == secret


UNUSABLE = {
    "empty": "",
    "short": to_text(NEW[:31]),
    "long": to_text(NEW + b"x"),
    "cut": to_text(NEW)[:-1],
    "not base64": "correct horse battery staple correct horse!",
    "not ASCII": "é" * 43,
    "hexadecimal": NEW.hex(),
    "all zero": to_text(bytes(32)),
    "all one": to_text(b"\xff" * 32),
    "four bytes repeated": to_text(b"\xde\xad\xbe\xef" * 8),
    "eight letters repeated": to_text(b"changeme" * 4),
    "eight other letters repeated": to_text(b"abcdefgh" * 4),
    "sixteen letters repeated": to_text(b"0123456789abcdef" * 2),
}


@pytest.mark.parametrize("text", UNUSABLE.values(), ids=UNUSABLE.keys())
def test_an_unusable_secret_is_refused_by_name_and_never_shown(text: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        parse_secret(text, "SDB_MASTER_KEY")
    assert "SDB_MASTER_KEY" in str(refusal.value)
    assert refusal.value.__cause__ is None
    assert refusal.value.__suppress_context__ or refusal.value.__context__ is None
    assert not text or text not in str(refusal.value)


@pytest.mark.parametrize("separator", [",", "\n", " ", ", ", "\r\n", ",\n\n,"])
def test_a_ring_is_read_from_a_list_in_its_order(separator: str) -> None:
    text = separator.join((to_text(NEW), to_text(OLD)))
    assert list(Keyring.parse(f"\n{text}{separator}", "SDB_JWT_KEYS")) == [NEW, OLD]


@pytest.mark.parametrize("text", ["", " \n", ",", f"{to_text(NEW)},short"])
def test_a_ring_without_keys_or_with_a_bad_one_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        Keyring.parse(text, "SDB_JWT_KEYS")
    assert to_text(NEW) not in str(refusal.value)


def test_an_empty_ring_is_refused() -> None:
    with pytest.raises(ConfigurationError):
        Keyring([])


def test_a_fingerprint_names_a_secret_with_sixteen_digits_that_are_not_its_own() -> None:
    assert re.fullmatch(r"[0-9a-f]{16}", fingerprint(NEW))
    assert fingerprint(NEW) == fingerprint(bytes(NEW)) != fingerprint(OLD)
    assert fingerprint(NEW) not in NEW.hex()


# --- files


def test_a_private_file_has_mode_0600_whatever_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        write_private(tmp_path / "new" / "master.key", b"secret")
    finally:
        os.umask(umask)
    assert (tmp_path / "new" / "master.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "new" / "master.key").read_bytes() == b"secret"


def test_a_private_file_is_never_overwritten_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write_private(tmp_path / "master.key", b"first")
    with pytest.raises(FileExistsError):
        write_private(tmp_path / "master.key", b"second")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"first"]


def test_a_replaced_file_is_private_too_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "tiny.sealed"
    write_private(path, b"first")
    path.chmod(0o644)
    replace_private(path, b"second")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"second"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_ring_is_made_once_and_loaded_ever_after(tmp_path: Path) -> None:
    path = tmp_path / "jwt.key"
    made = list(Keyring.load_or_create(path))
    assert list(Keyring.load_or_create(path)) == made
    assert path.stat().st_mode & 0o777 == 0o600
    assert parse_secret(path.read_text(), "the file") == made[0]


def test_two_new_rings_differ(tmp_path: Path) -> None:
    assert list(Keyring.load_or_create(tmp_path / "a")) != list(Keyring.load_or_create(tmp_path / "b"))


def test_an_empty_key_file_is_refused_rather_than_filled(tmp_path: Path) -> None:
    (tmp_path / "jwt.key").touch()
    with pytest.raises(ConfigurationError):
        Keyring.load_or_create(tmp_path / "jwt.key")
    assert (tmp_path / "jwt.key").read_text() == ""


def test_of_many_makers_at_once_one_wins_for_all(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as makers:
        found = list(makers.map(load_or_create, [tmp_path / "key"] * 16))
    assert len(set(found)) == 1
    assert parse_secret((tmp_path / "key").read_text(), "the file") == found[0]


def test_a_file_that_holds_no_text_is_refused_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "master_key").write_bytes(NEW)
    for read in (load_or_create, Keyring.load_or_create):
        with pytest.raises(ConfigurationError, match="master_key is not base64url"):
            read(tmp_path / "master_key")


def test_what_is_derived_is_stable_separate_and_of_the_newest_master_key() -> None:
    derived = vault(NEW).derive("deployment")
    assert derived == vault(NEW, OLD).derive("deployment"), "an old key that still opens things changes nothing"
    assert len({derived, vault(NEW).derive("other"), vault(OLD, NEW).derive("deployment")}) == 3
    assert len(derived) == 32
