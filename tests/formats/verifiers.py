"""The three verifiers of signed tokens, each with a token that it takes, for attacks to start from.

`/token` takes evidence and proofs, the gateway takes access tokens and proofs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from broker.errors import BrokerError, EvidenceRejected, InvalidDpopProof, InvalidToken
from broker.formats import access_token, dpop, evidence_jwt, jwk
from tests.formats.forge import NOW, Key, ed25519, p256, p384, token

PUBLIC = jwk.from_key(p256().public_key(), kid="key-1")
JWK = jwk.to_members(p256().public_key())
# The P-384 and Ed25519 keys are honest too: known to the verifier, under the names that an attack would call.
KEYS = {
    "key-1": PUBLIC,
    "p384": jwk.from_key(p384().public_key(), kid="p384"),
    "ed": jwk.from_key(ed25519().public_key(), kid="ed"),
}


@dataclass(frozen=True)
class Verifier:
    """One of the three, with a header and payload that it takes from the honest key."""

    name: str
    header: dict[str, Any]
    payload: dict[str, Any]
    verify: Callable[[str], object]
    refusal: type[BrokerError]

    def token(self, header: object = None, payload: object = None, key: Key | None = None) -> str:
        """A token with another header, payload or signer."""
        return token(
            self.header if header is None else header, self.payload if payload is None else payload, key or p256()
        )

    def with_header(self, key: Key | None = None, **changed: object) -> str:
        """A token with other header members."""
        return self.token({**self.header, **changed}, key=key)


VERIFIERS = [
    Verifier(
        "access_token",
        {"alg": "ES256", "kid": "key-1", "typ": "at+jwt"},
        {"iss": "i", "sub": "s", "aud": "a", "client_id": "c", "jti": "j", "iat": NOW, "exp": NOW + 300},
        lambda text: access_token.verify(text, keys=KEYS, issuer="i", audience="a", now=NOW),
        InvalidToken,
    ),
    Verifier(
        "dpop",
        {"alg": "ES256", "typ": "dpop+jwt", "jwk": JWK},
        {"jti": "j", "htm": "POST", "htu": "https://b.example/token", "iat": NOW},
        lambda text: dpop.verify(text, method="POST", url="https://b.example/token", now=NOW, access_token=None),
        InvalidDpopProof,
    ),
    Verifier(
        "evidence",
        {"alg": "ES256", "kid": "key-1", "typ": "JWT"},
        {"iss": "i", "sub": "s", "aud": "a", "iat": NOW, "exp": NOW + 300},
        lambda text: evidence_jwt.verify(
            text, keys=list(KEYS.values()), algorithms=evidence_jwt.ASYMMETRIC, issuer="i", audience="a", now=NOW,
            max_lifetime_s=3600
        ),
        EvidenceRejected,
    ),
]  # fmt: skip
