"""Signed tokens of others: a platform's identity token, a client's assertion. Not our keys, not our clock.

The token is taken apart once, by `jws.unverified`, and PyJWT's algorithms verify exactly those bytes: RS, PS,
ES and EdDSA. Source: RFC 7519 §7.2, RFC 7523 §3, RFC 8725 §3; keys are chosen by issuer (the caller), kid and
algorithm.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import jwt.algorithms

from broker.errors import EvidenceRejected, Malformed, VerificationFailed
from broker.formats import claims as checks
from broker.formats import jws
from broker.formats.jwk import PublicKey
from broker.formats.jws import Unverified

ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
"""Every algorithm that evidence may be signed with; never a shared secret, never "none"."""

TYPES = frozenset({"jwt", "jose", "client-authentication+jwt"})
"""The types that evidence may say, if it says one: a proof or an access token is none (RFC 8725 §3.11)."""

_MAX_EVIDENCE_BYTES = 16384
_ALGORITHMS = {name: found for name, found in jwt.algorithms.get_default_algorithms().items() if name in ASYMMETRIC}


def verify(
    token: str,
    *,
    keys: Sequence[PublicKey],
    algorithms: frozenset[str],
    issuer: str,
    audience: str,
    now: float,
    leeway_s: float = 30,
    max_lifetime_s: int | None,
    types: frozenset[str] = TYPES,
) -> dict[str, object]:
    """Checks a token that somebody else signed. Fails closed.

    Args:
        token: as presented.
        keys: the keys of this issuer, and of nobody else.
        algorithms: what this issuer signs with; others than `ASYMMETRIC` are never taken.
        issuer: the exact `iss`.
        audience: must be among the token's `aud`.
        now: seconds since the epoch.
        leeway_s: how far the issuer's clock may be from ours.
        max_lifetime_s: the longest `exp - iat` that is taken, which makes `iat` required; None for no such
            bound.
        types: what `typ` may say, in lower case and without "application/"; a token without `typ` is taken.

    Returns:
        All claims; `iss`, `aud` and `exp` are present and checked.

    Raises:
        EvidenceRejected: any check failed.
    """
    try:
        u = _taken_apart(token)
        if "typ" in u.header and not any(jws.has_type(u.header, typ) for typ in types):
            raise Malformed("Its type says that it was made for something else.", reason="wrong_type")
        payload = jws.claims(_verified(u, _choose(u, keys, algorithms)))
        required = ("exp",) if max_lifetime_s is None else ("exp", "iat")
        checks.check_times(payload, now=now, leeway_s=leeway_s, require=required)
        if checks.text(payload, "iss") != issuer:
            raise Malformed("Its issuer is another one than its keys belong to.", reason="wrong_issuer")
        if audience not in checks.audiences(payload):
            raise Malformed(f'It must have the audience "{audience}".', reason="wrong_audience")
    except (Malformed, VerificationFailed) as error:
        raise EvidenceRejected(f"The evidence proves nothing here. {error.detail}", reason=error.reason) from error
    if max_lifetime_s is not None:
        lifetime_s = checks.time_of(payload, "exp") - checks.time_of(payload, "iat")
        if lifetime_s > max_lifetime_s:
            raise EvidenceRejected(
                f"The evidence lives {lifetime_s:.0f} s: at most {max_lifetime_s} s are taken here.",
                reason="lives_too_long",
            )
    return payload


def unverified_issuer(token: str) -> str:
    """Reads `iss` without any check, for one purpose: to choose whose keys to verify the token with.

    Raises:
        EvidenceRejected: not a signed token, or one without a readable issuer.
    """
    try:
        u = _taken_apart(token)
        return checks.text(jws.claims(u.payload), "iss")
    except Malformed as error:
        raise EvidenceRejected(f"The evidence cannot be read. {error.detail}", reason=error.reason) from error


@lru_cache(maxsize=64)
def _taken_apart(token: str) -> Unverified:
    """The token's parts, kept by its whole text: its issuer is asked for first, and then it is verified."""
    return jws.unverified(token, max_bytes=_MAX_EVIDENCE_BYTES)


def _choose(u: Unverified, keys: Sequence[PublicKey], algorithms: frozenset[str]) -> PublicKey:
    """The one key that fits kid and algorithm; where two fit, the token would be choosing."""
    alg = str(u.header["alg"])
    if alg not in algorithms or alg not in _ALGORITHMS:
        raise Malformed("It is signed with an algorithm that is not taken from this issuer.", reason="wrong_algorithm")
    fitting = [key for key in keys if alg in key.algorithms]
    if "kid" in u.header:
        fitting = [key for key in fitting if key.kid == u.header["kid"]]
    if len(fitting) != 1:
        raise Malformed(
            "It does not name exactly one known key of its issuer that takes its algorithm.",
            reason="unknown_key",
        )
    return fitting[0]


def _verified(u: Unverified, key: PublicKey) -> bytes:
    if not _ALGORITHMS[str(u.header["alg"])].verify(u.signing_input, key.key, u.signature):
        raise VerificationFailed("Its signature does not verify.", reason="invalid_signature")
    return u.payload
