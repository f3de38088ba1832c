"""Signed tokens on the two hot routes: JWS compact serialisation, ES256 and EdDSA only.

`unverified` takes a token apart and `verify` is the only way from there to a payload that means something.
Held equal to PyJWT by property tests. Source: RFC 7515, RFC 7518 §3.4, RFC 8037 §3.1, RFC 8725.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cryptography.exceptions
import orjson
from cryptography.hazmat.primitives.asymmetric.ec import (
    ECDSA,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from broker.errors import InvalidSignature, Malformed
from broker.formats import base64url, canonical_json
from broker.formats.jwk import PrivateKey, PublicKey, algorithm_of, is_kid

# Each of these makes the header say how, or with whose key, to verify (RFC 8725 §3.10), or changes what is
# signed.
_REFUSED = frozenset({"crit", "jku", "x5u", "x5c", "zip", "b64"})
_ES256 = ECDSA(SHA256())
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token taken apart. Nothing in it may decide anything except which key to verify it with.

    Attributes:
        header: the JOSE header; `alg` is text other than "none", `kid` if present is a short printable text.
        payload: the bytes that were signed, if they were.
        signing_input: header and payload as they travelled.
        signature: raw bytes, as the algorithm has them.
    """

    header: Mapping[str, object]
    payload: bytes
    signing_input: bytes
    signature: bytes


def unverified(token: str, *, max_bytes: int = 16384, allow_jwk: bool = False) -> Unverified:
    """Takes a compact JWS apart, strictly. Fails closed.

    Args:
        token: three base64url parts with dots between.
        max_bytes: longest token that is looked at.
        allow_jwk: whether the header may carry a key; only a DPoP proof may (RFC 9449 §4.2).

    Raises:
        Malformed: another shape, `alg` "none" in any case or missing, a header that asks for more than a
            signature under a key we know (`crit`, `jku`, `x5u`, `x5c`, `zip`, `b64`, `jwk`), or a `kid` we
            would not look up.
    """
    if len(token) > max_bytes or not token.isascii():
        raise Malformed(f"A token is at most {max_bytes} ASCII characters.")
    signing_input, _, last = token.rpartition(".")
    first, _, middle = signing_input.partition(".")
    if not first or not middle or "." in middle:
        raise Malformed("A signed token has three parts with dots between.")
    header = canonical_json.parse(base64url.decode(first), max_bytes=max_bytes, max_depth=4)
    if not isinstance(header, dict):
        raise Malformed("A token's header must be a JSON object.")
    alg = header.get("alg")
    if not isinstance(alg, str) or alg.lower() == "none":
        raise Malformed("A token's header must name the algorithm it was signed with.")
    if not _REFUSED.isdisjoint(header) or ("jwk" in header and not allow_jwk):
        raise Malformed("A token's header must not carry keys, key addresses, compression or critical extensions.")
    if "kid" in header and not is_kid(header["kid"]):
        raise Malformed("A token's kid must be a short printable text.")
    return Unverified(header, base64url.decode(middle), signing_input.encode("ascii"), base64url.decode(last))


def verify(u: Unverified, key: PublicKey, *, algorithms: frozenset[str], typ: str) -> bytes:
    """Checks type, algorithm and signature under one key. Fails closed.

    Args:
        u: the token.
        key: the key that the caller chose for it.
        algorithms: what the caller takes; only ES256 and EdDSA can verify here.
        typ: the type the token must say, without "application/".

    Returns:
        The payload, now verified.

    Raises:
        InvalidSignature: another type, an algorithm that the caller or the key does not take, or a bad
            signature.
    """
    alg = u.header["alg"]
    if alg not in algorithms or alg not in key.algorithms or not has_type(u.header, typ):
        raise InvalidSignature("The token is of another type, or signed with an algorithm its key does not take.")
    public, signature = key.key, u.signature
    try:
        if alg == "ES256" and isinstance(public, EllipticCurvePublicKey):
            public.verify(_to_der(signature), u.signing_input, _ES256)
            return u.payload
        if alg == "EdDSA" and isinstance(public, Ed25519PublicKey):
            public.verify(signature, u.signing_input)
            return u.payload
    except cryptography.exceptions.InvalidSignature as error:
        raise InvalidSignature("The token's signature does not verify under its key.") from error
    raise InvalidSignature("Tokens are verified with ES256 or EdDSA here.")


def has_type(header: Mapping[str, object], typ: str) -> bool:
    """Whether a header says this type.

    Media types compare without case, and "application/" may be left out (RFC 7515 §4.1.9; RFC 9068 §4 says so
    again).
    """
    said = header.get("typ")
    if said == typ:
        return True
    return isinstance(said, str) and said.lower().removeprefix("application/") == typ.lower()


def claims(payload: bytes) -> dict[str, object]:
    """Reads a verified payload as a claims set.

    Raises:
        Malformed: not a JSON object, or one that names a member twice (RFC 7519 §4 lets us refuse it).
    """
    value = canonical_json.parse(payload)
    if not isinstance(value, dict):
        raise Malformed("A token's payload must be a JSON object.")
    return dict(value)


def sign(header: Mapping[str, object], payload: Mapping[str, object], key: PrivateKey) -> str:
    """Signs a claims set.

    Args:
        header: the whole header; its `alg` must be the key's.
        payload: JSON values.
        key: P-256 or Ed25519.

    Raises:
        Malformed: the header's `alg` is not the key's, or something JSON cannot say.
    """
    if header.get("alg") != algorithm_of(key):
        raise Malformed("The header's alg must be the one that the key signs with.")
    try:
        first, middle = orjson.dumps(header), orjson.dumps(payload)
    except TypeError as error:
        raise Malformed(f"The claims cannot be written as JSON: {error}.") from error
    signing_input = f"{base64url.encode(first)}.{base64url.encode(middle)}"
    if isinstance(key, EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(signing_input.encode("ascii"), _ES256))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
    else:
        signature = key.sign(signing_input.encode("ascii"))
    return f"{signing_input}.{base64url.encode(signature)}"


def _to_der(signature: bytes) -> bytes:
    """R || S of 32 bytes each (RFC 7518 §3.4) as DER; both must lie in [1, order - 1]."""
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if len(signature) != 64 or not 0 < r < _P256_ORDER or not 0 < s < _P256_ORDER:
        raise cryptography.exceptions.InvalidSignature
    return encode_dss_signature(r, s)
