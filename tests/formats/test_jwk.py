"""Public keys: what is read, what it may be used for, and what is refused before any mathematics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from broker.errors import Malformed
from broker.formats import base64url, jwk
from tests.formats.forge import ed25519, p256, p384, rsa

# RFC 7638 §3.1
RFC_7638_N = (
    "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhM"
    "stn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5"
    "hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
)
RFC_7638 = {"kty": "RSA", "n": RFC_7638_N, "e": "AQAB", "alg": "RS256", "kid": "2011-04-29"}
# RFC 8037 appendix A.1 and A.2
RFC_8037_X = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
RFC_8037 = {"kty": "OKP", "crv": "Ed25519", "x": RFC_8037_X}


def members(key: jwk.VerifyingKey, **more: object) -> dict[str, Any]:
    """A JWK of the key with more members."""
    return {**jwk.to_members(key), **more}


def ec_members(**more: object) -> dict[str, Any]:
    """A JWK on P-256."""
    return members(p256().public_key(), **more)


def test_the_example_of_rfc_7638() -> None:
    """The RFC's RSA key has the RFC's thumbprint; its `alg` narrows what it may verify."""
    key = jwk.parse_public(RFC_7638)
    assert key.thumbprint == "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"
    assert (key.kid, key.algorithms) == ("2011-04-29", frozenset({"RS256"}))


def test_the_example_of_rfc_8037() -> None:
    """The RFC's Ed25519 key has the RFC's thumbprint."""
    assert jwk.parse_public(RFC_8037).thumbprint == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


@pytest.mark.parametrize(
    ("make", "algorithms"),
    [
        (lambda: p256().public_key(), {"ES256"}),
        (lambda: p384().public_key(), {"ES384"}),
        (lambda: ec.derive_private_key(521, ec.SECP521R1()).public_key(), {"ES512"}),
        (lambda: ed25519().public_key(), {"EdDSA"}),
        (lambda: rsa().public_key(), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
    ],
)
def test_each_kind_of_key_takes_its_own_algorithms(make: Callable[[], jwk.VerifyingKey], algorithms: set[str]) -> None:
    """A key read back from what is published is the same key, and a curve means one algorithm."""
    key = jwk.from_key(make(), kid="k")
    assert jwk.parse_public({**jwk.to_members(key), "kid": "k"}) == key
    assert key.algorithms == algorithms


@pytest.mark.parametrize("name", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_private_members_are_refused(name: str) -> None:
    """A private or secret key is never taken, not even for its public half."""
    with pytest.raises(Malformed, match="private"):
        jwk.parse_public(ec_members(**{name: "AA"}))


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"kty": "oct"}, {"kty": "RSA"}, {"kty": None}, {"kty": ["EC"]},
        ec_members(crv="P-192"), ec_members(crv="secp256k1"), ec_members(crv="P-384"), ec_members(crv=["P-256"]),
        ec_members(crv=None),
        ec_members(x="AA"), ec_members(x=None), ec_members(x="A" * 43), ec_members(x=ec_members()["y"]),
        ec_members(y="A" * 44),
        ec_members(x=ec_members()["x"] + "="), ec_members(x="A" * 100_000),
        ec_members(use="enc"), ec_members(use=1), ec_members(key_ops=["sign"]), ec_members(key_ops="verify"),
        ec_members(key_ops=[]),
        ec_members(alg="ES384"), ec_members(alg="RS256"), ec_members(alg="HS256"), ec_members(alg="none"),
        ec_members(alg=["ES256"]),
        ec_members(kid=""), ec_members(kid=1), ec_members(kid="a" * 257), ec_members(kid="a\nb"), ec_members(kid="ä"),
        {**RFC_8037, "crv": "Ed448"}, {**RFC_8037, "crv": "X25519"}, {**RFC_8037, "x": "AA"},
        {**RFC_8037, "x": "_" * 42 + "8"},
        {**RFC_7638, "e": "AA"}, {**RFC_7638, "e": "AQ"}, {**RFC_7638, "e": "BA"}, {**RFC_7638, "e": "AAEAAQ"},
        {**RFC_7638, "e": ""},
        {**RFC_7638, "e": "_" * 20}, {**RFC_7638, "n": "AA" + RFC_7638_N}, {**RFC_7638, "n": "A" * 100_000},
        {**RFC_7638, "n": 5},
        {**RFC_7638, "n": RFC_7638_N[:-2] + "gg"}, {**RFC_7638, "alg": "ES256"},
    ],
)  # fmt: skip
def test_what_is_no_usable_public_key_is_refused(wrong: dict[str, Any]) -> None:
    """Another kind, curve, size, use or algorithm; a point off the curve; a bad modulus or exponent."""
    with pytest.raises(Malformed):
        jwk.parse_public(wrong)


@pytest.mark.parametrize("bits", [1024, 2047, 4097, 8192])
def test_rsa_sizes_are_bounded(bits: int) -> None:
    """RSA below 2048 bits is weak and above 4096 a way to burn our processor; both are refused by length alone."""
    n = (1 << (bits - 1)) | 1
    with pytest.raises(Malformed, match=r"2048 to 4096|too long"):
        jwk.parse_public({"kty": "RSA", "e": "AQAB", "n": base64url.encode(n.to_bytes((bits + 7) // 8, "big"))})


@pytest.mark.parametrize("bits", [2048, 4096])
def test_rsa_sizes_at_the_bounds_are_taken(bits: int) -> None:
    """2048 and 4096 bits themselves are fine."""
    n = (1 << (bits - 1)) | 1
    key = jwk.parse_public({"kty": "RSA", "e": "AQAB", "n": base64url.encode(n.to_bytes(bits // 8, "big"))})
    assert "RS256" in key.algorithms


SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


@pytest.mark.parametrize("point", SMALL_ORDER)
@pytest.mark.parametrize("sign_bit", [0, 0x80])
def test_ed25519_points_of_small_order_are_refused(point: str, sign_bit: int) -> None:
    """All points of order 1, 2, 4 and 8, in every encoding."""
    raw = bytearray.fromhex(point)
    raw[31] |= sign_bit
    with pytest.raises(Malformed):
        jwk.parse_public({"kty": "OKP", "crv": "Ed25519", "x": base64url.encode(bytes(raw))})


def test_why_small_order_is_refused() -> None:
    """Under the neutral point the library takes one signature for any message; so such a key binds nothing."""
    neutral = bytes.fromhex(SMALL_ORDER[1])
    key = Ed25519PublicKey.from_public_bytes(neutral)
    for message in (b"one", b"another"):
        key.verify(neutral + bytes(32), message)
    with pytest.raises(InvalidSignature):
        ed25519().public_key().verify(neutral + bytes(32), b"one")


def test_a_set_skips_what_is_not_for_us() -> None:
    """Unknown kinds, curves, sizes and uses are skipped (RFC 7517 §5); the rest is read in order."""
    keys = jwk.parse_set(
        {
            "keys": [
                {"kty": "oct-next", "kid": "1"},
                ec_members(kid="2"),
                ec_members(kid="2", use="enc"),
                {"kty": "OKP", "crv": "X25519", "x": RFC_8037_X},
                {"kty": "RSA", "n": base64url.encode(b"\x81" + bytes(127)), "e": "AQAB", "kid": "2"},
                members(ed25519().public_key(), kid="3", alg="EdDSA", use="sig", x5c=["ignored"]),
            ],
            "more": 1,
        }
    )
    assert [key.kid for key in keys] == ["2", "3"]


@pytest.mark.parametrize(
    "wrong",
    [
        {}, {"keys": {}}, {"keys": "x"}, {"keys": [1]}, {"keys": [ec_members(d="AA")]},
        {"keys": [ec_members(x="A" * 43)]},
        {"keys": [ec_members(kid="1"), members(ed25519().public_key(), kid="1")]}, {"keys": [{"kty": "x"}] * 101},
    ],
)  # fmt: skip
def test_a_set_that_cannot_be_trusted_is_refused(wrong: dict[str, Any]) -> None:
    """No array, too many, a private or broken key, or one kid for two keys."""
    with pytest.raises(Malformed):
        jwk.parse_set(wrong)


def test_keys_without_a_kid_share_a_set() -> None:
    """Keys without a name are no conflict, up to the hundred that a set may hold."""
    assert len(jwk.parse_set({"keys": [ec_members()] * 100})) == 100
    assert len(jwk.parse_set({"keys": [ec_members(), members(ed25519().public_key())]})) == 2


def test_private_keys_sign_with_one_algorithm() -> None:
    """P-256 means ES256, Ed25519 means EdDSA, and P-384 signs nothing here."""
    assert (jwk.algorithm_of(p256()), jwk.algorithm_of(ed25519())) == ("ES256", "EdDSA")
    with pytest.raises(Malformed):
        jwk.algorithm_of(p384())


def test_other_curves_are_not_published() -> None:
    """A loaded key on a curve that JOSE does not name is refused."""
    with pytest.raises(Malformed):
        jwk.from_key(ec.generate_private_key(ec.SECP256K1()).public_key())
