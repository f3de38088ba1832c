"""Tokens put together by hand, honest and not. Nothing here goes through the code under test to sign."""

from __future__ import annotations

import base64
import json
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

NOW = 1_800_000_000

Key = ec.EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey


@cache
def p256(name: str = "honest") -> ec.EllipticCurvePrivateKey:
    """A P-256 key for each name."""
    return ec.derive_private_key(int.from_bytes(name.encode(), "big") + 2, ec.SECP256R1())


@cache
def p384() -> ec.EllipticCurvePrivateKey:
    """A key on the wrong curve."""
    return ec.derive_private_key(384384, ec.SECP384R1())


@cache
def ed25519(name: str = "honest") -> Ed25519PrivateKey:
    """An Ed25519 key for each name."""
    return Ed25519PrivateKey.from_private_bytes(name.encode().ljust(32, b"."))


@cache
def rsa(bits: int = 2048) -> RSAPrivateKey:
    """An RSA key for each size."""
    return generate_private_key(65537, bits)


def part(value: object) -> str:
    """One part of a token: bytes as they are, anything else as JSON."""
    data = value if isinstance(value, bytes) else json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def raw_signature(signing_input: str, key: Key) -> bytes:
    """The signature that the key makes, whatever the header says."""
    message = signing_input.encode()
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, RSAPrivateKey):
        return key.sign(message, padding.PKCS1v15(), SHA256())
    size = (key.curve.key_size + 7) // 8
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(SHA256() if size == 32 else SHA384())))
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def token(header: object, payload: object, key: Key) -> str:
    """A token with this header and payload, honestly signed by this key."""
    signing_input = f"{part(header)}.{part(payload)}"
    return f"{signing_input}.{part(raw_signature(signing_input, key))}"


def resigned(text: str, signature: bytes) -> str:
    """The token with another signature."""
    return text.rpartition(".")[0] + "." + part(signature)


def from_text(header: str, payload: str) -> str:
    """A token from JSON as it stands, honestly signed: for what a dict cannot say."""
    return token(header.encode(), payload.encode(), p256())
