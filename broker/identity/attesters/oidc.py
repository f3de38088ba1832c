"""Evidence from a platform: an identity token of an OpenID issuer, with discovery or pinned keys.

Verification, in this order:
1. The unverified issuer names an attester; nothing else of the token is believed yet.
2. The attester is active. Its keys are pinned, or fetched through the one door and kept for ten minutes.
3. The signature verifies under one of its keys with one of its algorithms.
4. Issuer, audience and times fit (OpenID Connect Core §3.1.3.7, RFC 7519 §4.1).
Only then do the claims become something that policies may look at.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass

import orjson

from broker.clock import Clock
from broker.errors import BrokerError, EvidenceRejected, OutboundFailed, OutboundRefused, Unavailable
from broker.formats import evidence_jwt, jwk
from broker.formats.jwk import PublicKey
from broker.identity.attesters.attester import Attested, Attester
from broker.outbound import Outbound
from broker.policy.request import Entity

log = logging.getLogger(__name__)

_KEEP_S = 600
_RETRY_S = 30
_FIRST_RETRY_S = 5
_STALE_S = 3600
_MAX_CLAIMS = 64
_MAX_ITEMS = 256
_MAX_TEXT = 1024
_KEYS_CHANGED = frozenset({"unknown_key", "invalid_signature"})
"""Refusals that newer keys of the issuer could turn; no other makes us ask for them."""


@dataclass(slots=True)
class _Fetched:
    """What is known of an issuer's keys; `keys` is empty until they could be had once."""

    keys: tuple[PublicKey, ...]
    at: float
    tried_at: float


@dataclass(frozen=True, slots=True)
class Answered:
    """What an issuer answered when it was asked.

    Args:
        keys: how many of its keys can be used.
        date: its clock, as its `Date` header has it (RFC 9110 §6.6.1); empty if it has none.
        used_age_s: how old the keys are that evidence is checked with now; None if there are none yet.
    """

    keys: int
    date: str
    used_age_s: float | None


class OidcVerifier:
    """Verifies identity tokens, and keeps the keys of their issuers.

    Args:
        outbound: the door for fetching.
        clock: tells how old keys and tokens are.
    """

    def __init__(self, outbound: Outbound, clock: Clock) -> None:
        self._outbound = outbound
        self._clock = clock
        self._fetched: dict[str, _Fetched] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def verify(self, token: str, attester: Attester) -> Attested:
        """Checks a token against the attester that its issuer names.

        Raises:
            EvidenceRejected: it proves nothing; the text says which claim to mend.
            Unavailable: the issuer's keys cannot be had at the moment.
        """
        keys = attester.jwks or await self._keys(attester, fresh=False)
        try:
            claims = self._checked(token, attester, keys)
        except EvidenceRejected as refusal:
            if attester.jwks or refusal.reason not in _KEYS_CHANGED:
                raise
            renewed = await self._keys(attester, fresh=True)
            if renewed is keys:
                raise
            claims = self._checked(token, attester, renewed)
        return attested(token, attester, claims)

    def _checked(self, token: str, attester: Attester, keys: tuple[PublicKey, ...]) -> dict[str, object]:
        return evidence_jwt.verify(
            token,
            keys=keys,
            algorithms=attester.algorithms,
            issuer=attester.issuer,
            audience=attester.audience,
            now=self._clock.now(),
            max_lifetime_s=attester.max_lifetime_s,
        )

    async def _keys(self, attester: Attester, *, fresh: bool) -> tuple[PublicKey, ...]:
        """The issuer's keys; `fresh` asks again, but no more often than every half minute, whoever asks.

        While somebody asks, the keys we have serve everybody else: a slow issuer holds up nobody.
        """
        source = _source(attester)
        lock = self._locks.setdefault(source, asyncio.Lock())
        known = self._fetched.get(source)
        if known is not None and not fresh:
            now = self._clock.monotonic()
            if known.keys and (now - known.at <= _KEEP_S or lock.locked()):
                return _usable(known, now)
        async with lock:
            now = self._clock.monotonic()
            known = self._fetched.setdefault(source, _Fetched((), now, -_RETRY_S))
            wanted = fresh or not known.keys or now - known.at > _KEEP_S
            if not wanted or now - known.tried_at < (_RETRY_S if known.keys else _FIRST_RETRY_S):
                return _usable(known, now)
            known.tried_at = now
            try:
                (known.keys, _), known.at = await self._fetch(attester), now
            except (OutboundFailed, OutboundRefused) as error:
                log.warning("the keys of the attester %s cannot be fetched: %s", attester.name, error.detail)
            return _usable(known, now)

    async def ask(self, attester: Attester) -> Answered:
        """Asks an issuer for its keys now, for those who look whether it answers; what is in use stays as it is.

        Raises:
            OutboundRefused, OutboundFailed: it cannot be asked, or does not answer with keys.
        """
        keys, headers = await self._fetch(attester)
        known = self._fetched.get(_source(attester))
        used = known.at if known is not None and known.keys else None
        return Answered(len(keys), headers.get("date", ""), None if used is None else self._clock.monotonic() - used)

    async def _fetch(self, attester: Attester) -> tuple[tuple[PublicKey, ...], dict[str, str]]:
        """The issuer's keys as it publishes them, and the headers of that answer."""
        jwks_uri = attester.jwks_uri
        if not jwks_uri:
            url = attester.issuer.rstrip("/") + "/.well-known/openid-configuration"
            document, _ = await self._outbound.fetch_json(url)
            # OpenID Connect Discovery §4.3: the issuer in the document MUST be the one that was asked for.
            if not isinstance(document, Mapping) or document.get("issuer") != attester.issuer:
                raise OutboundFailed(f"{url} names another issuer than {attester.issuer}.")
            jwks_uri = str(document.get("jwks_uri", ""))
        document, headers = await self._outbound.fetch_json(jwks_uri)
        if not isinstance(document, Mapping):
            raise OutboundFailed(f"{jwks_uri} holds no JWK Set.")
        try:
            keys = jwk.parse_set(document)
        except BrokerError as error:
            raise OutboundFailed(f"{jwks_uri}: {error.detail}") from error
        if not keys:
            raise OutboundFailed(f"{jwks_uri} holds no key that can be used.")
        return keys, headers


def _source(attester: Attester) -> str:
    return f"{attester.issuer} {attester.jwks_uri}"


def _usable(known: _Fetched, now: float) -> tuple[PublicKey, ...]:
    """Keys older than an hour are not used, however long the issuer is out of reach. Fails closed."""
    if not known.keys or now - known.at > _STALE_S:
        raise Unavailable("The issuer's keys cannot be fetched at the moment; the broker's log says why. Try again.")
    return known.keys


def attested(token: str, attester: Attester, claims: Mapping[str, object]) -> Attested:
    """Turns verified claims into what policies see.

    Texts, numbers and booleans become tags of the principal, written as JSON writes them, and lists of these tags of
    `context.lists`; a member of an object is named by its path, `/` and `~` in names escaped as in RFC 6901. A claim
    that is null is absent.

    Raises:
        EvidenceRejected: no subject, more or longer claims than a rule could ever need, or a list of lists or objects.
    """
    subject = claims.get("sub")
    if not isinstance(subject, str) or not 0 < len(subject) <= 255:
        raise EvidenceRejected("The evidence has no `sub`, or one longer than 255 characters.")
    tags: dict[str, object] = {}
    lists: dict[str, object] = {}
    _flatten(claims, "", tags, lists)
    digest = hashlib.sha256(token.encode()).hexdigest()
    # What was signed names the evidence, not the whole text: of an ECDSA signature anybody can make a second one.
    signed = hashlib.sha256(token.rpartition(".")[0].encode()).hexdigest()
    expires_at = claims["exp"]
    assert isinstance(expires_at, int | float)
    return Attested(
        attester=attester.name,
        kind="oidc",
        subject=subject,
        principal=Entity(("OidcEvidence", digest), {"issuer": attester.issuer, "subject": subject}, tags=tags),
        lists=Entity(("ListClaims", digest), {}, tags=lists),
        digest=digest,
        replay_key=f"evidence:{signed}",
        expires_at=float(expires_at),
        one_use=attester.one_use,
    )


def _flatten(claims: Mapping[str, object], path: str, tags: dict[str, object], lists: dict[str, object]) -> None:
    """Nothing that a policy might look for is left out or cut short: a forbid would no longer find it. Fails closed."""
    for name, value in claims.items():
        key = path + (name.replace("~", "~0").replace("/", "~1") if "~" in name or "/" in name else name)
        if isinstance(value, str):
            tags[key] = _text(key, value)
        elif isinstance(value, dict):
            _flatten(value, key + "/", tags, lists)
        elif isinstance(value, list):
            if len(value) > _MAX_ITEMS:
                raise _too_much(f"The claim {key!r} lists more than {_MAX_ITEMS} items.")
            lists[key] = [_text(key, item) for item in value]
        elif value is not None:
            tags[key] = _text(key, value)
        if len(tags) + len(lists) > _MAX_CLAIMS:
            raise _too_much(f"The evidence carries more than {_MAX_CLAIMS} claims.")


def _text(key: str, value: object) -> str:
    if isinstance(value, dict | list) or value is None:
        raise EvidenceRejected(f"The claim {key!r} lists lists, objects or null, which no rule could look into.")
    # Python writes an integer as JSON does; orjson writes none beyond 64 bits.
    text = str(value) if type(value) in (str, int) else orjson.dumps(value).decode()
    if len(text) > _MAX_TEXT:
        raise _too_much(f"The claim {key!r} is longer than {_MAX_TEXT} characters.")
    return text


def _too_much(detail: str) -> EvidenceRejected:
    return EvidenceRejected(f"{detail} Have the platform leave out what no rule needs.", reason="too_many_claims")
