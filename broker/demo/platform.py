"""A stand-in for a platform that runs workloads and signs identity tokens for them.

It speaks as much OpenID Connect as a broker needs to verify its tokens, over real HTTP on loopback, and signs
with a key that is made when it starts. Source: OpenID Connect Discovery 1.0 §4.
"""

from __future__ import annotations

from collections.abc import Mapping

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)

from broker.clock import Clock
from broker.demo.server import LoopbackServer
from broker.entropy import Entropy, new_id
from broker.formats import jwk, jws

METADATA_PATH = "/.well-known/openid-configuration"
KEYS_PATH = "/jwks"


class StandInPlatform(LoopbackServer):
    """A small OpenID issuer.

    Args:
        clock: what its tokens' times come from.
        entropy: what its tokens' and keys' names come from.

    Attributes:
        fetches: how often each path was asked for.
    """

    def __init__(self, *, clock: Clock, entropy: Entropy) -> None:
        super().__init__([web.get(METADATA_PATH, self._metadata), web.get(KEYS_PATH, self._published)])
        self._clock = clock
        self._entropy = entropy
        self._keys: list[tuple[str, EllipticCurvePrivateKey]] = []
        self.fetches = {METADATA_PATH: 0, KEYS_PATH: 0}
        self.rotate()

    @property
    def issuer(self) -> str:
        """The `iss` of its tokens."""
        return self.origin

    def identity_token(
        self,
        subject: str,
        audience: str,
        claims: Mapping[str, object] | None = None,
        *,
        lifetime_s: int = 300,
    ) -> str:
        """Signs an identity token (ES256) as a platform would for a workload that asks.

        Args:
            subject: the workload, in the platform's own words.
            audience: whom the token is for; the broker's issuer identifier.
            claims: more claims; they win over `sub`, `aud` and the rest, so that a test can break each.
            lifetime_s: seconds until it ends.
        """
        kid, key = self._keys[-1]
        now = int(self._clock.now())
        payload = {
            "iss": self.issuer,
            "sub": subject,
            "aud": audience,
            "iat": now,
            "nbf": now,
            "exp": now + lifetime_s,
            "jti": new_id(self._entropy),
            **(claims or {}),
        }
        return jws.sign({"alg": "ES256", "kid": kid, "typ": "JWT"}, payload, key)

    def rotate(self) -> None:
        """Signs with a new key from now on; the one before it stays published."""
        self._keys = [*self._keys[-1:], (new_id(self._entropy), generate_private_key(SECP256R1()))]

    async def _metadata(self, request: web.Request) -> web.Response:
        self.fetches[METADATA_PATH] += 1
        return web.json_response(
            {
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}{KEYS_PATH}",
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            }
        )

    async def _published(self, request: web.Request) -> web.Response:
        self.fetches[KEYS_PATH] += 1
        keys = [
            {**jwk.to_members(key.public_key()), "kid": kid, "use": "sig", "alg": "ES256"} for kid, key in self._keys
        ]
        return web.json_response({"keys": keys}, headers={"Cache-Control": "max-age=300"})
