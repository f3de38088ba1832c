"""Public keys as JSON Web Keys.

A `PublicKey` carries the algorithms it may be used with, so that a token's header never widens them.
Source: RFC 7517, RFC 7518 §6, RFC 8037 §2, RFC 7638 (thumbprint), RFC 8725 §3.1 and §3.4.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    SECP521R1,
    EllipticCurve,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from broker.errors import Malformed
from broker.formats import base64url
from broker.formats.canonical_json import canonical

VerifyingKey: TypeAlias = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey
PrivateKey: TypeAlias = EllipticCurvePrivateKey | Ed25519PrivateKey

_PRIVATE = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_CURVES: Mapping[str, tuple[EllipticCurve, int, str]] = {
    "P-256": (SECP256R1(), 32, "ES256"),
    "P-384": (SECP384R1(), 48, "ES384"),
    "P-521": (SECP521R1(), 66, "ES512"),
}
_CURVE_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_RSA_BITS = range(2048, 4096 + 1)
_MAX_SET = 100
_MAX_KID = 256
# The y coordinates of edwards25519's points of order 1, 2, 4 and 8. Under such a key one signature fits any
# message.
_P25519 = 2**255 - 19
_ORDER_8 = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
_SMALL_ORDER = frozenset({0, 1, _P25519 - 1, _ORDER_8, _P25519 - _ORDER_8})


class _Unsupported(Malformed):
    """A key that may be fine for others and is none for us; a set skips it (RFC 7517 §5)."""


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A key that verifies signatures.

    Attributes:
        key: the loaded key.
        algorithms: the JWS algorithms it may verify; never empty.
        thumbprint: RFC 7638 with SHA-256, 43 characters of base64url. Names the key wherever it is bound to
            something.
        kid: the name its publisher gave it. Only ever compared.
    """

    key: VerifyingKey
    algorithms: frozenset[str]
    thumbprint: str
    kid: str | None = None


def parse_public(members: Mapping[str, object]) -> PublicKey:
    """Reads one public key; every size is checked before any mathematics.

    Args:
        members: a JSON object: EC on P-256, P-384 or P-521; OKP Ed25519; RSA of 2048 to 4096 bits. Unknown
            members are ignored (RFC 7517 §4).

    Raises:
        Malformed: not such a key, a private or secret one, or one whose `use`, `key_ops` or `alg` rules out
            verifying signatures with it.
    """
    if any(name in members for name in _PRIVATE):
        raise Malformed("The JWK holds private members: publish the public key only, and replace this key.")
    kid = members.get("kid")
    if kid is not None and not is_kid(kid):
        raise Malformed(f"A JWK's kid must be printable ASCII of 1 to {_MAX_KID} characters.")
    if members.get("use", "sig") != "sig":
        raise _Unsupported('The JWK is not for signatures: its "use" must be "sig".')
    operations = members.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        raise _Unsupported('The JWK is not for verifying: its "key_ops" must hold "verify".')
    kty = members.get("kty")
    if kty == "EC":
        key, algorithms = _elliptic(members)
    elif kty == "OKP":
        key, algorithms = _edwards(members)
    elif kty == "RSA":
        key, algorithms = _rsa(members)
    else:
        raise _Unsupported("The JWK's kty must be EC, OKP or RSA.")
    alg = members.get("alg")
    if alg is not None:
        if not isinstance(alg, str) or alg not in algorithms:
            raise _Unsupported("The JWK's alg does not fit its key type and curve, or is not supported.")
        algorithms = frozenset({alg})
    return PublicKey(key, algorithms, _thumbprint(key), str(kid) if kid is not None else None)


def parse_set(members: Mapping[str, object]) -> tuple[PublicKey, ...]:
    """Reads a JWK Set (RFC 7517 §5): keys of unknown kinds, sizes or uses are skipped.

    Raises:
        Malformed: no `keys` array, more than 100 keys, a key that breaks its own format, a private key, or a
            `kid` that two usable keys share (it would be open which one a token means).
    """
    listed = members.get("keys")
    if not isinstance(listed, list) or len(listed) > _MAX_SET:
        raise Malformed(f'A JWK Set is an object with an array "keys" of at most {_MAX_SET} keys.')
    keys: list[PublicKey] = []
    for item in listed:
        if not isinstance(item, Mapping):
            raise Malformed("Every entry of a JWK Set must be an object.")
        try:
            keys.append(parse_public(item))
        except _Unsupported:
            continue
    kids = [key.kid for key in keys if key.kid is not None]
    if len(set(kids)) != len(kids):
        raise Malformed("The JWK Set uses one kid for two keys: give each key a kid of its own.")
    return tuple(keys)


def from_key(key: VerifyingKey, *, kid: str | None = None) -> PublicKey:
    """The `PublicKey` of a loaded key, under the same rules as `parse_public`."""
    members = to_members(key)
    return parse_public(members if kid is None else {**members, "kid": kid})


def to_members(key: PublicKey | VerifyingKey) -> dict[str, str]:
    """The required members of a key and no others (RFC 7638 §3.2), for publishing or embedding."""
    if isinstance(key, PublicKey):
        key = key.key
    if isinstance(key, EllipticCurvePublicKey):
        point = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        half = len(point) // 2
        name = _CURVE_NAMES.get(key.curve.name)
        if name is None:
            raise Malformed("An EC key must be on P-256, P-384 or P-521.")
        x, y = base64url.encode(point[1 : half + 1]), base64url.encode(point[half + 1 :])
        return {"crv": name, "kty": "EC", "x": x, "y": y}
    if isinstance(key, Ed25519PublicKey):
        return {"crv": "Ed25519", "kty": "OKP", "x": base64url.encode(key.public_bytes_raw())}
    numbers = key.public_numbers()
    return {"e": _encode_number(numbers.e), "kty": "RSA", "n": _encode_number(numbers.n)}


def algorithm_of(private: PrivateKey) -> str:
    """The one algorithm that a private key signs with: "ES256" or "EdDSA".

    Raises:
        Malformed: an EC key on another curve than P-256.
    """
    if isinstance(private, Ed25519PrivateKey):
        return "EdDSA"
    if isinstance(private.curve, SECP256R1):
        return "ES256"
    raise Malformed("A signing key must be Ed25519 or EC on P-256.")


def is_kid(value: object) -> bool:
    """Whether a value may stand as a key's name: printable ASCII, 1 to 256 characters. Only ever compared."""
    return isinstance(value, str) and 0 < len(value) <= _MAX_KID and value.isascii() and value.isprintable()


def _elliptic(members: Mapping[str, object]) -> tuple[VerifyingKey, frozenset[str]]:
    crv = members.get("crv")
    known = _CURVES.get(crv) if isinstance(crv, str) else None
    if known is None:
        raise _Unsupported("An EC key must be on P-256, P-384 or P-521.")
    curve, size, algorithm = known
    # RFC 7518 §6.2.1.2: the coordinate has the full size of the curve's field, leading zeros included.
    point = b"\x04" + _octets(members, "x", size) + _octets(members, "y", size)
    try:
        return EllipticCurvePublicKey.from_encoded_point(curve, point), frozenset({algorithm})
    except ValueError as error:
        raise Malformed("The EC key is not a point on its curve.") from error


def _edwards(members: Mapping[str, object]) -> tuple[VerifyingKey, frozenset[str]]:
    if members.get("crv") != "Ed25519":
        raise _Unsupported("An OKP key must be Ed25519.")
    point = _octets(members, "x", 32)
    y = int.from_bytes(point, "little") & (2**255 - 1)
    if y >= _P25519 or y in _SMALL_ORDER:
        raise Malformed("The Ed25519 key is a point of small order: it would accept forged signatures.")
    try:
        return Ed25519PublicKey.from_public_bytes(point), frozenset({"EdDSA"})
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Malformed("The Ed25519 key cannot be read.") from error


def _rsa(members: Mapping[str, object]) -> tuple[VerifyingKey, frozenset[str]]:
    modulus, exponent = _number(members, "n", 700), _number(members, "e", 11)
    if modulus.bit_length() not in _RSA_BITS:
        raise _Unsupported("An RSA key must have 2048 to 4096 bits.")
    if modulus % 2 == 0 or exponent % 2 == 0 or exponent < 3:
        raise Malformed("The RSA key has an even modulus or a bad exponent.")
    try:
        return RSAPublicNumbers(exponent, modulus).public_key(), _RSA_ALGORITHMS
    except ValueError as error:
        raise Malformed("The RSA key cannot be read.") from error


def _octets(members: Mapping[str, object], name: str, size: int) -> bytes:
    text = members.get(name)
    if not isinstance(text, str) or len(text) != (size * 8 + 5) // 6:
        raise Malformed(f'The JWK\'s "{name}" must be {size} bytes in base64url.')
    return base64url.decode(text)


def _number(members: Mapping[str, object], name: str, max_chars: int) -> int:
    """A Base64urlUInt (RFC 7518 §2): big-endian, no leading zero byte."""
    text = members.get(name)
    if not isinstance(text, str) or not text:
        raise Malformed(f'The JWK\'s "{name}" must be a number in base64url.')
    if len(text) > max_chars:
        raise _Unsupported(f'The JWK\'s "{name}" is too long.')
    octets = base64url.decode(text)
    if octets[0] == 0:
        raise Malformed(f'The JWK\'s "{name}" must not begin with a zero byte.')
    return int.from_bytes(octets, "big")


def _encode_number(value: int) -> str:
    return base64url.encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _thumbprint(key: VerifyingKey) -> str:
    return base64url.encode(hashlib.sha256(canonical(to_members(key))).digest())
