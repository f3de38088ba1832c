"""One request to the token endpoint and its answer: pure functions, without I/O.

What `BrokerAuth` is made of, for those who bring their own HTTP client: make a form, build the request, send
it, read the answer; on `UseDpopNonce` build and send once more with that nonce.

Source: RFC 8693 §2 (exchange), RFC 7523 §2.2 (private_key_jwt), RFC 9449 §5 and §8 (DPoP), RFC 6749 §5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from broker.client.errors import BrokerUnreachable, TokenRefused
from broker.errors import Malformed, UseDpopNonce
from broker.formats import canonical_json, dpop, jwk, jws
from broker.formats import receipt as receipts
from broker.formats.jwk import PrivateKey
from broker.formats.receipt import Receipt

TOKEN_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"  # noqa: S105  a name, no secret
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"
JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

ASSERTION_LIFETIME_S = 60
_LIFETIME_WITHOUT_EXPIRES_IN_S = 60
_MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, repr=False)
class TokenRequest:
    """A POST to send as it is.

    Attributes:
        url: the token endpoint.
        headers: with the proof; a proof is for one sending.
        form: the parameters of the body.
    """

    url: str
    headers: Mapping[str, str]
    form: Mapping[str, str]

    @property
    def body(self) -> bytes:
        """The form, encoded."""
        return urlencode(self.form).encode("ascii")

    def __repr__(self) -> str:
        """Shows no evidence."""
        return f"TokenRequest({self.url!r}, {self.form.get('grant_type')!r})"


@dataclass(frozen=True, slots=True, repr=False)
class TokenAnswer:
    """A token that is bound to the key that asked for it.

    Attributes:
        access_token: goes into `Authorization: DPoP …`.
        expires_in_s: from the moment it was asked for, at most.
        scope: what was granted, where the answer says so.
        receipt: of its record, if it was asked for; None if there is none that can be read.
    """

    access_token: str
    expires_in_s: int
    scope: str
    receipt: Receipt | None = None

    def __repr__(self) -> str:
        """Shows no token."""
        return f"TokenAnswer(expires_in_s={self.expires_in_s}, scope={self.scope!r})"


def exchange_form(
    evidence: str, *, resource: str, scope: str | None = None, subject_token_type: str = JWT_TYPE
) -> dict[str, str]:
    """The form that exchanges evidence for a token (RFC 8693 §2.1).

    Args:
        evidence: the platform's signed token.
        resource: what the token is for, an absolute URL (RFC 8707 §2).
        scope: everything that policy gives, unless named.
        subject_token_type: what kind of token the evidence is.
    """
    form = {
        "grant_type": TOKEN_EXCHANGE,
        "subject_token": evidence,
        "subject_token_type": subject_token_type,
        "resource": resource,
    }
    return form if scope is None else {**form, "scope": scope}


def client_credentials_form(
    client_id: str, assertion: str, *, resource: str, scope: str | None = None
) -> dict[str, str]:
    """The form with which the holder of a registered key gets a token (RFC 7523 §2.2).

    Args:
        client_id: what the key is registered for.
        assertion: from `client_assertion`; it counts once.
        resource: what the token is for.
        scope: everything that policy gives, unless named.
    """
    form = {
        "grant_type": "client_credentials",
        "client_id": client_id,
        "client_assertion_type": JWT_BEARER,
        "client_assertion": assertion,
        "resource": resource,
    }
    return form if scope is None else {**form, "scope": scope}


def client_assertion(
    client_id: str, key: PrivateKey, *, audience: str, now: float, jti: str, kid: str | None = None
) -> str:
    """Signs a client assertion that lives a minute (RFC 7523 §3, typed as its successor asks).

    Args:
        client_id: both issuer and subject.
        key: the registered key.
        audience: the broker's issuer identifier, and nothing else.
        now: seconds since the epoch.
        jti: fresh for each.
        kid: the name under which the key is registered, if it has one.
    """
    header: dict[str, object] = {"alg": jwk.algorithm_of(key), "typ": "client-authentication+jwt"}
    if kid is not None:
        header["kid"] = kid
    issued_at = int(now)
    claims = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": issued_at,
        "exp": issued_at + ASSERTION_LIFETIME_S,
        "jti": jti,
    }
    return jws.sign(header, claims, key)


def build_token_request(
    broker_url: str,
    form: Mapping[str, str],
    key: PrivateKey,
    *,
    now: float,
    jti: str,
    nonce: str | None = None,
    receipt: bool = False,
) -> TokenRequest:
    """The request for a form, with its proof.

    Args:
        broker_url: the broker's issuer identifier.
        form: the parameters.
        key: the one that the token is to be bound to.
        now: seconds since the epoch.
        jti: fresh for each sending.
        nonce: the last one that the token endpoint gave, if any.
        receipt: whether to ask for a receipt of the token's record.
    """
    url = f"{broker_url.rstrip('/')}/token"
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
        "DPoP": dpop.prove(key, method="POST", url=url, now=now, jti=jti, nonce=nonce),
    }
    if receipt:
        headers["Prefer"] = "receipt"
    return TokenRequest(url, headers, dict(form))


def read_token_answer(status: int, headers: Mapping[str, str], body: bytes) -> TokenAnswer:
    """What the token endpoint answered.

    Args:
        status: the HTTP status.
        headers: looked up by lower-case name.
        body: all of it.

    Raises:
        UseDpopNonce: repeat the request with a proof that carries its `nonce` (RFC 9449 §8).
        TokenRefused: the broker said no.
        BrokerUnreachable: neither yes nor no, or a token that is not bound to the key.
    """
    members = _members(body)
    if 400 <= status < 500 and status != 429 and isinstance(error := members.get("error"), str):
        nonce = headers.get("dpop-nonce")
        if error == "use_dpop_nonce" and nonce is not None:
            raise UseDpopNonce(nonce)
        description = members.get("error_description")
        raise TokenRefused(error, description if isinstance(description, str) else "", status)
    if status != 200:
        raise BrokerUnreachable(
            f"The token endpoint answered {status}. Try again in a moment; if it stays so, check that "
            "the broker's URL leads to the broker itself and ask its operator."
        )
    token, kind = members.get("access_token"), members.get("token_type")
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable() or " " in token:
        raise BrokerUnreachable("The token endpoint answered without a token. Check that its URL is the broker's.")
    if not isinstance(kind, str) or kind.lower() != "dpop":
        # RFC 9449 §5: a client that wants a bound token MUST discard another one.
        raise BrokerUnreachable("The token endpoint gave a token that is not bound to this key. It was discarded.")
    lifetime_s = members.get("expires_in", _LIFETIME_WITHOUT_EXPIRES_IN_S)
    if not isinstance(lifetime_s, int) or isinstance(lifetime_s, bool) or lifetime_s <= 0:
        raise BrokerUnreachable("The token endpoint gave a token without a lifetime. It was discarded.")
    scope = members.get("scope")
    return TokenAnswer(token, lifetime_s, scope if isinstance(scope, str) else "", _receipt(members))


def _receipt(members: Mapping[str, object]) -> Receipt | None:
    try:
        return receipts.parse(members["receipt"]) if "receipt" in members else None
    except Malformed:
        return None


def _members(body: bytes) -> Mapping[str, object]:
    try:
        value = canonical_json.parse(body, max_bytes=_MAX_ANSWER_BYTES)
    except Malformed:
        return {}
    return value if isinstance(value, dict) else {}
