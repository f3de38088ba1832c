"""Signed tokens that are nearly right, and the plainest check of what a token may be taken for."""

from __future__ import annotations

import base64
import json
from typing import Any

import cryptography.exceptions
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from hypothesis import strategies as st

from broker.formats import jwk
from tests.formats.forge import NOW, Key, ed25519, p256, p384, part, raw_signature, rsa
from tests.formats.verifiers import Verifier
from tests.fuzz.mutations import altered, damaged, spelled
from tests.fuzz.outcome import SECRET

KEYS: list[Key] = [p256(), p256(), p256(), p256(), p256("attacker"), ed25519(), ed25519("attacker"), p384(), rsa()]
"""Who may have signed: mostly the honest key."""

_WORDS = (
    "ES256 ES384 ES512 EdDSA RS256 PS256 HS256 none None JWT at+jwt dpop+jwt key-1 p384 ed i s a j POST GET "
    "https://b.example/token https://B.example:443/token?x#y"
)
WORDS = st.sampled_from(_WORDS.split())
TIMES = st.sampled_from(
    [NOW - 10**6, NOW - 61, NOW - 60, NOW - 1, NOW, NOW + 1, NOW + 5, NOW + 6, NOW + 300, NOW + 10**9]
)
PUBLIC_KEYS = st.sampled_from(
    [jwk.to_members(key.public_key()) for key in (p256("attacker"), ed25519(), p384(), rsa())]
)


@st.composite
def tokens(draw: st.DrawFn, verifier: Verifier) -> str:
    """A token of a verifier with a header, payload, spelling, signer and signature that may each be altered."""
    odd = WORDS | TIMES | PUBLIC_KEYS
    header = draw(altered(verifier.header, most=2, odd=odd))
    payload = draw(altered({**verifier.payload, "x": SECRET}, most=3, odd=odd))
    first, middle = [
        draw(spelled(value)) if draw(st.booleans()) else json.dumps(value).encode() for value in (header, payload)
    ]
    signing_input = f"{part(first)}.{part(middle)}"
    signature = raw_signature(signing_input, draw(st.sampled_from(KEYS)))
    if draw(st.integers(0, 4)) == 0:
        signature = draw(damaged(signature))
    text = f"{signing_input}.{part(signature)}"
    if draw(st.integers(0, 4)) == 0:
        text = draw(damaged(text.encode(), most=2)).decode("latin-1")
    return text


def signed_by(text: str, key: Any) -> bool:
    """Whether the P-256 key signed the first two parts of a text, as RFC 7515 §5.2 says and nothing more."""
    signing_input, _, last = text.rpartition(".")
    signature = base64.urlsafe_b64decode(last + "=" * (-len(last) % 4))
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    try:
        key.public_key().verify(encode_dss_signature(r, s), signing_input.encode(), ECDSA(SHA256()))
    except cryptography.exceptions.InvalidSignature:
        return False
    return len(signature) == 64


def read(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and payload of a token as any JSON library reads them."""
    first, middle, _ = text.split(".")
    header, payload = [json.loads(base64.urlsafe_b64decode(item + "=" * (-len(item) % 4))) for item in (first, middle)]
    return header, payload
