"""Sealed images: what is sealed opens with its key for its model, and nothing else opens."""

import os
import time
from typing import Any

import cbor2
import pytest
from cbor2 import CBORTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sdb_client.cbor import CborError, Reader
from sdb_client.sealed import Header, Unsealable, peek, seal, unseal

SECRET, OTHER_SECRET = bytes(range(32)), bytes(range(1, 33))
IV = bytes(range(12))
KID, MODEL = "img_demo", "cifar10"
NOON = 1_790_000_000
Labels = dict[Any, Any]


def by_hand(protected: Labels | bytes, unprotected: Labels | bytes, iv: bytes = IV, tag: int = 16) -> bytes:
    """A message of RFC 9052 §5.3 with any headers, without the code under test."""
    encoded = protected if isinstance(protected, bytes) else cbor2.dumps(protected)
    structure = cbor2.dumps(["Encrypt0", encoded, MODEL.encode()])
    ciphertext = AESGCM(SECRET).encrypt(iv, b"image", structure)
    outer = unprotected if isinstance(unprotected, bytes) else cbor2.dumps(unprotected)
    return cbor2.dumps(CBORTag(tag, 0))[:-1] + b"\x83" + cbor2.dumps(encoded) + outer + cbor2.dumps(ciphertext)


def opened(message: bytes) -> bytes:
    return unseal(message, SECRET, kid=KID, model=MODEL)


def is_refused(message: bytes) -> bool:
    """Whether it does not open; a refusal has one text and no cause that would say more."""
    try:
        opened(message)
    except Unsealable as refusal:
        return str(refusal) == "the sealed image does not open" and refusal.__cause__ is None
    return False


ALG: Labels = {1: 3}
NAMED: Labels = ALG | {4: KID.encode()}
TIMED: Labels = NAMED | {15: {6: NOON}}

# --- what a message is

# Headers and Enc_structure spelled out from RFC 9052 §3, §5.2, §5.3, ciphertexts from AES-GCM alone.
VECTORS = {
    "as seal makes it": (
        "d0 83 55 a3 0103 0448696d675f64656d6f 0fa1061a6ab13b80 a1 054c000102030405060708090a0b"
        "55 2e6fb77ca06909b302224248b06ade4a71793241ad",
        TIMED,
        {5: IV},
        Header(KID, IV, NOON),
    ),
    "without a time": (
        "d0 83 4d a2 0103 0448696d675f64656d6f a1 054c000102030405060708090a0b"
        "55 2e6fb77ca03fde99e8d76d87ebc86f62417474e15a",
        NAMED,
        {5: IV},
        Header(KID, IV, None),
    ),
    "kid unprotected": (
        "d0 83 43 a1 0103 a2 0448696d675f64656d6f 054c000102030405060708090a0b"
        "55 2e6fb77ca0f2bb18501c7429c16f28e46e38ead0f3",
        ALG,
        {4: KID.encode(), 5: IV},
        Header(KID, IV, None),
    ),
}


@pytest.mark.parametrize(("vector", "protected", "unprotected", "header"), VECTORS.values(), ids=VECTORS.keys())
def test_the_pinned_messages_open(vector: str, protected: Labels, unprotected: Labels, header: Header) -> None:
    message = bytes.fromhex(vector)
    assert message == by_hand(protected, unprotected)
    assert peek(message) == header
    assert opened(message) == b"image"


def test_a_sealed_image_is_cose_encrypt0_as_the_standard_has_it() -> None:
    message = cbor2.loads(seal(b"image", SECRET, kid=KID, model=MODEL, now=NOON + 0.9))
    protected, unprotected, ciphertext = message.value
    assert (message.tag, set(unprotected), len(unprotected[5])) == (16, {5}, 12)
    assert cbor2.loads(protected) == TIMED
    structure = cbor2.dumps(["Encrypt0", protected, MODEL.encode()])
    assert AESGCM(SECRET).decrypt(unprotected[5], ciphertext, structure) == b"image"


@given(st.binary(max_size=300), st.text(max_size=20), st.text("abcXYZ019_-", min_size=1, max_size=64))
@settings(deadline=None, max_examples=50)
def test_what_is_sealed_opens_to_the_same_bytes(image: bytes, model: str, kid: str) -> None:
    message = seal(image, SECRET, kid=kid, model=model)
    assert unseal(message, SECRET, kid=kid, model=model) == image
    assert peek(message).kid == kid


def test_no_two_messages_share_an_iv() -> None:
    assert len({peek(seal(b"", SECRET, kid=KID, model=MODEL)).iv for _ in range(500)}) == 500


def test_a_message_says_when_it_was_sealed() -> None:
    issued_at = peek(seal(b"", SECRET, kid=KID, model=MODEL)).issued_at
    assert issued_at is not None
    assert time.time() - 5 < issued_at <= time.time()


def test_a_photo_opens_in_a_millisecond_and_costs_few_bytes() -> None:
    photo = os.urandom(150_000)
    message = seal(photo, SECRET, kid=KID, model=MODEL)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        assert opened(message) == photo
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3
    assert len(message) - len(photo) < 80


@pytest.mark.parametrize(
    ("secret", "kid"), [(b"", KID), (SECRET[:16], KID), (SECRET + b"x", KID), (SECRET, ""), (SECRET, "é" * 3)]
)
def test_a_secret_or_kid_that_cannot_be_one_is_a_mistake_of_the_caller(secret: bytes, kid: str) -> None:
    with pytest.raises(ValueError, match=r"image secret|kid"):
        seal(b"image", secret, kid=kid, model=MODEL)


# --- what does not open


def test_only_its_secret_its_kid_and_its_model_open_a_message() -> None:
    message = seal(b"image", SECRET, kid=KID, model=MODEL)
    for secret, kid, model in ((OTHER_SECRET, KID, MODEL), (SECRET, "img_other", MODEL), (SECRET, KID, "other")):
        with pytest.raises(Unsealable):
            unseal(message, secret, kid=kid, model=model)
    assert opened(message) == b"image"


def test_no_byte_can_be_changed_to_any_other() -> None:
    message = seal(b"image", SECRET, kid=KID, model=MODEL)
    opening = []
    for place in range(len(message)):
        for flip in range(1, 256):
            changed = bytearray(message)
            changed[place] ^= flip
            if not is_refused(bytes(changed)):
                opening.append((place, flip))
    assert opening == []


def test_nothing_can_be_cut_off_or_put_behind() -> None:
    message = seal(b"image", SECRET, kid=KID, model=MODEL)
    assert all(is_refused(message[:length]) for length in range(len(message)))
    assert all(is_refused(message[start:]) for start in range(1, len(message)))
    assert all(is_refused(message + more) for more in (b"\x00", b"\xf6", message))


def test_parts_of_two_messages_do_not_make_a_third() -> None:
    one, two = (cbor2.loads(seal(b"image", SECRET, kid=KID, model=MODEL, now=NOON + n)).value for n in (1, 2))
    for mixed in ([one[0], one[1], two[2]], [one[0], two[1], one[2]], [two[0], one[1], one[2]]):
        assert is_refused(cbor2.dumps(CBORTag(16, mixed)))


GOOD: Labels = {5: IV}
ODD_HEADERS: dict[str, tuple[Labels | bytes, Labels | bytes]] = {
    "no alg": ({4: KID.encode()}, GOOD),
    "alg unprotected": ({4: KID.encode()}, GOOD | ALG),
    "AES-128": ({1: 1, 4: KID.encode()}, GOOD),
    "ChaCha20": ({1: 24, 4: KID.encode()}, GOOD),
    "alg by name": ({1: "A256GCM", 4: KID.encode()}, GOOD),
    "alg as a float": ({1: 3.0, 4: KID.encode()}, GOOD),
    "alg under a float": ({1.0: 3, 4: KID.encode()}, GOOD),
    "alg twice": (b"\xa3\x01\x03\x01\x03\x04\x48img_demo", GOOD),
    "no kid": (ALG, GOOD),
    "kid twice": (NAMED, GOOD | {4: KID.encode()}),
    "kid as text": (ALG | {4: KID}, GOOD),
    "kid not ASCII": (ALG | {4: "é".encode()}, GOOD),
    "empty kid": (ALG | {4: b""}, GOOD),
    "no IV": (NAMED, {}),
    "partial IV": (NAMED, {6: IV}),
    "partial IV beside": (NAMED, GOOD | {6: b"\x01"}),
    "crit": (NAMED | {2: [4]}, GOOD),
    "crit of nothing": (NAMED | {2: 15}, GOOD),
    "time unprotected": (NAMED, GOOD | {15: {6: NOON}}),
    "time as text": (NAMED | {15: {6: "noon"}}, GOOD),
    "time as bytes": (NAMED | {15: {6: b"noon"}}, GOOD),
    "time that is no number": (NAMED | {15: {6: float("nan")}}, GOOD),
    "time without end": (NAMED | {15: {6: float("inf")}}, GOOD),
    "time as a tagged date": (NAMED | {15: {6: CBORTag(1, NOON)}}, GOOD),
    "claims that are none": (NAMED | {15: NOON}, GOOD),
    "claims in claims": (NAMED | {15: {6: NOON, 7: {1: {2: 3}}}}, GOOD),
    "a list": (NAMED | {33: [1]}, GOOD),
    "a tag": (NAMED | {33: CBORTag(35, "(a+)+$")}, GOOD),
    "a big number": (NAMED | {33: 2**64}, GOOD),
    "null": (NAMED | {33: None}, GOOD),
    "a label of bytes": (b"\xa3\x01\x03\x04\x48img_demo\x41x\x00", GOOD),
    "text that is not UTF-8": (b"\xa3\x01\x03\x04\x48img_demo\x61\xff\x00", GOOD),
    "more after the header": (cbor2.dumps(NAMED) + b"\x00", GOOD),
    "header of indefinite length": (b"\xbf\x01\x03\x04\x48img_demo\xff", GOOD),
    "no protected header": (b"", GOOD | NAMED),
    "a protected list": (cbor2.dumps([1, 3]), GOOD | NAMED),
    "unprotected list": (NAMED, cbor2.dumps([5, IV])),
    "many labels": (NAMED | {100 + n: n for n in range(20)}, GOOD),
    "a long string": (NAMED, GOOD | {3: "x" * 2000}),
    "a long header": (NAMED | {100: "x" * 600, 101: "x" * 600}, GOOD),
}


@pytest.mark.parametrize(("protected", "unprotected"), ODD_HEADERS.values(), ids=ODD_HEADERS.keys())
def test_a_header_that_is_not_quite_one_is_refused_although_the_key_is_right(
    protected: Labels | bytes, unprotected: Labels | bytes
) -> None:
    message = by_hand(protected, unprotected)
    assert is_refused(message)
    with pytest.raises(Unsealable):
        peek(message)


@pytest.mark.parametrize("length", [0, 8, 11, 13, 16])
def test_an_iv_has_96_bits(length: int) -> None:
    iv = bytes(range(1, length + 1))
    assert is_refused(by_hand(NAMED, {5: iv}, iv.ljust(12, b"\x01")))


KINDS: dict[str, tuple[Labels, Labels, float | None]] = {
    "IV protected": (NAMED | {5: IV}, {}, None),
    "content type": (NAMED | {3: "image/png"}, GOOD, None),
    "content type unprotected": (NAMED, GOOD | {3: "image/png"}, None),
    "unknown labels": (NAMED | {"app": "camera 7", -70000: b"x"}, GOOD | {"n": 1}, None),
    "empty claims": (NAMED | {15: {}}, GOOD, None),
    "other claims": (NAMED | {15: {1: "camera 7", 6: NOON, 7: b"id"}}, GOOD, NOON),
    "fractions of a second": (NAMED | {15: {6: NOON + 0.25}}, GOOD, NOON + 0.25),
    "before 1970": (NAMED | {15: {6: -1}}, GOOD, -1),
}


@pytest.mark.parametrize(("protected", "unprotected", "issued_at"), KINDS.values(), ids=KINDS.keys())
def test_a_stranger_who_knows_the_standard_is_understood(
    protected: Labels, unprotected: Labels, issued_at: float | None
) -> None:
    message = by_hand(protected, unprotected)
    assert peek(message) == Header(KID, IV, issued_at)
    assert opened(message) == b"image"


def test_an_untagged_or_otherwise_tagged_message_is_refused() -> None:
    good = by_hand(NAMED, GOOD)
    assert opened(good) == b"image"
    assert is_refused(good[1:])
    for tag in (15, 17, 61, 96, 55799):
        assert is_refused(by_hand(NAMED, GOOD, tag=tag)), tag
    assert is_refused(cbor2.dumps(CBORTag(16, [cbor2.dumps(NAMED), GOOD, None]))), "detached"
    assert is_refused(cbor2.dumps(CBORTag(16, [cbor2.dumps(NAMED), GOOD, b"", b""])))


LIES = {
    "a long header": b"\xd0\x83\x5b" + b"\xff" * 8,
    "many labels": b"\xd0\x83\x40\xbb" + b"\xff" * 8,
    "a long label": b"\xd0\x83\x40\xa1\x04\x5b" + b"\x7f" * 8,
    "maps in maps": b"\xd0\x83\x40" + b"\xa1\x01" * 100_000,
    "lists in lists": b"\xd0\x83\x40" + b"\x81" * 5_000_000,
    "tags on tags": b"\xd0" * 5_000_000,
    "many pairs": b"\xd0\x83\x40\xb9\xff\xff" + b"\x00" * 5_000_000,
}


@pytest.mark.parametrize("message", LIES.values(), ids=LIES.keys())
def test_lengths_that_lie_and_nesting_cost_nothing(message: bytes) -> None:
    start = time.thread_time()
    with pytest.raises(Unsealable):
        peek(message)
    assert time.thread_time() - start < 0.05


@given(st.binary(max_size=120), st.binary(max_size=60))
@settings(deadline=None, max_examples=300)
@example(b"", b"")
def test_whatever_the_bytes_are_the_refusal_is_the_same(noise: bytes, header: bytes) -> None:
    assert is_refused(noise)
    assert is_refused(b"\xd0\x83" + noise)
    assert is_refused(by_hand(header, GOOD))


# --- the reader


SCALARS = st.one_of(
    st.integers(-(2**64), 2**64 - 1),
    st.floats(allow_nan=False),
    st.binary(max_size=40),
    st.text(max_size=40),
)
LABELS = st.one_of(st.integers(-(2**64), 2**64 - 1), st.text(max_size=10))


@given(st.dictionaries(LABELS, st.one_of(SCALARS, st.dictionaries(LABELS, SCALARS, max_size=4)), max_size=10))
@settings(deadline=None, max_examples=100)
def test_the_reader_reads_what_a_header_may_hold(headers: dict[int | str, object]) -> None:
    for canonical in (False, True):
        reader = Reader(cbor2.dumps(headers, canonical=canonical))
        assert reader.map() == headers
        reader.end()


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=30).map(lambda tail: b"\xa2" + tail)))
@settings(deadline=None, max_examples=500)
def test_what_the_reader_reads_is_what_cbor2_reads(noise: bytes) -> None:
    try:
        found = Reader(noise).map()
    except CborError:
        return
    assert repr(found) == repr(cbor2.loads(noise))
