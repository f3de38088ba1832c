"""What a token may be good for, and how it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from broker.entropy import Entropy, new_id
from broker.errors import InvalidTarget
from broker.formats import access_token
from broker.formats.access_token import AccessClaims
from broker.identity.directory import Principal
from broker.keys import KeyRing
from broker.policy.request import Entity, Uid


@dataclass(frozen=True, slots=True)
class Audience:
    """A resource that tokens are made for: a part of the gateway, or the operators' API."""

    uri: str
    kind: str

    @property
    def uid(self) -> Uid:
        """Its name in policies."""
        return ("Audience", self.uri)

    def entity(self) -> Entity:
        """What policies can ask about it."""
        return Entity(self.uid, {"kind": self.kind})


@dataclass(frozen=True, slots=True)
class TokenRules:
    """What the configuration says of tokens. Times in seconds."""

    issuer: str
    lifetime_s: int
    dpop_window_s: int
    require_dpop_nonce: bool
    audiences: Mapping[str, Audience] = field(default_factory=dict)
    default_audience: str = ""

    @property
    def token_endpoint(self) -> str:
        """The absolute URL of the token endpoint."""
        return self.issuer + "/token"

    def audience(self, requested: tuple[str, ...]) -> Audience:
        """The one resource that a token is asked for.

        Raises:
            InvalidTarget: unknown, or more than one (RFC 8707 §2).
        """
        if len(requested) > 1:
            raise InvalidTarget("Ask for one resource at a time: a token is good for one.")
        uri = requested[0] if requested else self.default_audience
        found = self.audiences.get(uri)
        if found is None:
            raise InvalidTarget(f"This resource is not offered. Use one of {', '.join(sorted(self.audiences))}.")
        return found


@dataclass(frozen=True, slots=True)
class Minted:
    """A signed token, held back until its record is durable."""

    token: str
    claims: AccessClaims


def mint(
    rules: TokenRules,
    keys: KeyRing,
    principal: Principal,
    audience: Audience,
    *,
    jkt: str | None,
    instance: str | None,
    now: float,
    entropy: Entropy,
) -> Minted:
    """Makes an access token (RFC 9068 §2.2). Nobody may see it before its record is durable."""
    issued_at = int(now)
    claims = AccessClaims(
        issuer=rules.issuer,
        subject=principal.id,
        audience=(audience.uri,),
        client_id=principal.id,
        jti=new_id(entropy),
        issued_at=issued_at,
        expires_at=issued_at + rules.lifetime_s,
        jkt=jkt,
        instance=instance,
    )
    key = keys.current
    return Minted(access_token.mint(claims, key=key.private, kid=key.kid), claims)
