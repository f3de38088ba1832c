"""Evidence by a registered key: a JWT that an agent, client or operator signs itself (private_key_jwt, RFC 7523 §3).

`iss` and `sub` are the principal's id, `aud` is this server's issuer identifier and nothing else, `exp` is at most an
hour away, and `jti` is used once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from broker.errors import EvidenceRejected
from broker.formats import evidence_jwt
from broker.formats.claims import audiences
from broker.formats.jwk import PublicKey
from broker.identity.attesters.attester import Attested, Attester
from broker.policy.request import Entity

_ALGORITHMS = frozenset({"ES256", "ES384", "EdDSA", "RS256", "PS256"})


def verify(
    token: str, attester: Attester, *, principal_id: str, keys: Sequence[PublicKey], audience: str, now: float
) -> Attested:
    """Checks an assertion that the holder of a registered key signed.

    Args:
        token: the assertion.
        attester: the attester of kind "key".
        principal_id: whom the unverified issuer names; its registered `keys` are the only ones tried.
        audience: the one `aud` that is accepted.
        now: seconds since the epoch.

    Raises:
        EvidenceRejected: it proves nothing.
    """
    key, claims = _signed_by(token, attester, principal_id=principal_id, keys=keys, audience=audience, now=now)
    if audiences(claims) != (audience,):
        raise EvidenceRejected(f'`aud` of the assertion must be "{audience}" alone.', reason="wrong_audience")
    if claims.get("sub") != principal_id:
        raise EvidenceRejected("`iss` and `sub` of the assertion must both be the client's id (RFC 7523 §3).")
    jti = claims.get("jti")
    if not isinstance(jti, str) or not 0 < len(jti) <= 256:
        raise EvidenceRejected("The assertion needs a `jti` of 1 to 256 characters; it is used once.")
    digest = hashlib.sha256(token.encode()).hexdigest()
    # The assertion's own id is what may not come again; the same id in other bytes is a replay too.
    replay_key = "assertion:" + hashlib.sha256(f"{principal_id}\x00{jti}".encode()).hexdigest()
    expires_at = claims["exp"]
    assert isinstance(expires_at, int | float)
    return Attested(
        attester=attester.name,
        kind="key",
        subject=principal_id,
        principal=Entity(("KeyEvidence", digest), {"agent": principal_id, "thumbprint": key.thumbprint}),
        lists=Entity(("ListClaims", digest), {}),
        digest=digest,
        replay_key=replay_key,
        expires_at=float(expires_at),
        one_use=True,
        claimed_agent=principal_id,
    )


def _signed_by(
    token: str, attester: Attester, *, principal_id: str, keys: Sequence[PublicKey], audience: str, now: float
) -> tuple[PublicKey, dict[str, object]]:
    """The registered key that signed the assertion, and what it says.

    One principal may have several keys (an operator with two machines) and most have no name, so each is tried.
    """
    refusal: EvidenceRejected | None = None
    for key in keys:
        try:
            claims = evidence_jwt.verify(
                token,
                keys=(key,),
                algorithms=_ALGORITHMS,
                issuer=principal_id,
                audience=audience,
                now=now,
                max_lifetime_s=attester.max_lifetime_s,
            )
        except EvidenceRejected as error:
            if error.reason not in ("unknown_key", "invalid_signature"):
                raise
            if refusal is None or error.reason == "invalid_signature":
                refusal = error
        else:
            return key, claims
    raise refusal or EvidenceRejected("No key is registered for this client. Register its public key first.")
