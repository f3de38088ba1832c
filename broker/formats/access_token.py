"""The access tokens this broker issues: JWT profile, bound to a key, read by the same code that writes them.

Source: RFC 9068 (§2.2 claims, §4 checks), RFC 9449 §6.1 (`cnf.jkt`), RFC 8693 §4.1 (`act`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from broker.errors import InvalidToken, Malformed, VerificationFailed
from broker.formats import claims as checks
from broker.formats import jws
from broker.formats.jwk import PrivateKey, PublicKey, algorithm_of

TYP = "at+jwt"
ALGORITHMS = frozenset({"ES256", "EdDSA"})


@dataclass(frozen=True, slots=True)
class AccessClaims:
    """What an access token says.

    Attributes:
        issuer: this broker's issuer identifier.
        subject: for whom the call is made.
        audience: the resources it is good for; at least one.
        client_id: who asked for it.
        jti: its own id.
        issued_at: seconds since the epoch.
        expires_at: seconds since the epoch; dead at that second.
        jkt: RFC 7638 thumbprint of the key it is bound to; None only where a policy allows a bearer token.
        scope: names with spaces between; empty if none.
        instance: the running copy of the agent, if known.
        actor: the `act` claim: who acts now, and inside it who acted before; inner ones never authorise.
    """

    issuer: str
    subject: str
    audience: tuple[str, ...]
    client_id: str
    jti: str
    issued_at: int
    expires_at: int
    jkt: str | None = None
    scope: str = ""
    instance: str | None = None
    actor: Mapping[str, object] | None = None


def mint(claims: AccessClaims, *, key: PrivateKey, kid: str) -> str:
    """Signs an access token.

    Args:
        claims: what it says; the caller has decided that it may.
        key: P-256 or Ed25519.
        kid: the key's published name.

    Raises:
        Malformed: no audience, an end that is not after the beginning, or something JSON cannot say.
    """
    if not claims.audience or claims.expires_at <= claims.issued_at:
        raise Malformed("An access token needs an audience, and an end after its beginning.")
    payload: dict[str, object] = {
        "iss": claims.issuer,
        "sub": claims.subject,
        "aud": claims.audience[0] if len(claims.audience) == 1 else claims.audience,
        "client_id": claims.client_id,
        "jti": claims.jti,
        "iat": claims.issued_at,
        "exp": claims.expires_at,
    }
    if claims.jkt is not None:
        payload["cnf"] = {"jkt": claims.jkt}
    if claims.scope:
        payload["scope"] = claims.scope
    if claims.instance is not None:
        payload["instance"] = claims.instance
    if claims.actor is not None:
        payload["act"] = claims.actor
    return jws.sign({"alg": algorithm_of(key), "kid": kid, "typ": TYP}, payload, key)


def verify(token: str, *, keys: Mapping[str, PublicKey], issuer: str, audience: str, now: float) -> AccessClaims:
    """Checks an access token of this broker (RFC 9068 §4). Fails closed.

    No leeway: the clock that wrote it is the clock that reads it.

    Args:
        token: as presented.
        keys: this broker's own keys by kid; nothing in the token can add one.
        issuer: this broker's issuer identifier, compared exactly.
        audience: the resource that was called; must be among the token's.
        now: seconds since the epoch.

    Raises:
        InvalidToken: any check failed.
    """
    try:
        u = jws.unverified(token)
        kid = u.header.get("kid")
        key = keys.get(kid) if isinstance(kid, str) else None
        if key is None:
            raise Malformed("It names no key of this broker.", reason="unknown_key")
        payload = jws.claims(jws.verify(u, key, algorithms=ALGORITHMS, typ=TYP))
        checks.check_times(payload, now=now, leeway_s=0, require=("exp", "iat"))
        found = _read(payload)
    except (Malformed, VerificationFailed) as error:
        raise InvalidToken(
            f"The access token is not valid here: get a new one. {error.detail}", reason=error.reason
        ) from error
    if found.issuer != issuer or audience not in found.audience:
        raise InvalidToken("The access token is for another issuer or resource.", reason="wrong_audience")
    return found


def _read(payload: Mapping[str, object]) -> AccessClaims:
    actor = payload.get("act")
    if actor is not None and not isinstance(actor, Mapping):
        raise Malformed('"act" must be an object.')
    return AccessClaims(
        issuer=checks.text(payload, "iss"),
        subject=checks.text(payload, "sub"),
        audience=checks.audiences(payload),
        client_id=checks.text(payload, "client_id"),
        jti=checks.text(payload, "jti", max_chars=256),
        issued_at=int(checks.time_of(payload, "iat")),
        expires_at=int(checks.time_of(payload, "exp")),
        jkt=_confirmation(payload),
        scope=checks.text(payload, "scope", max_chars=4096) if "scope" in payload else "",
        instance=checks.text(payload, "instance") if "instance" in payload else None,
        actor=actor,
    )


def _confirmation(payload: Mapping[str, object]) -> str | None:
    """The thumbprint in `cnf`; a confirmation that we cannot check must not pass for a bearer token."""
    if "cnf" not in payload:
        return None
    cnf = payload["cnf"]
    jkt = cnf.get("jkt") if isinstance(cnf, Mapping) and len(cnf) == 1 else None
    if not isinstance(jkt, str) or len(jkt) != 43:
        raise Malformed('"cnf" must hold the thumbprint of one key.')
    return jkt
