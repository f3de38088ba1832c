"""What every attester has in common: its stored form, and the verified evidence that it yields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import orjson
from sqlmodel import Field, Session, SQLModel

from broker.errors import BrokerError, ManifestInvalid
from broker.formats import jwk
from broker.formats.jwk import PublicKey
from broker.policy.request import Entity, Uid

KINDS = ("oidc", "key")
OIDC_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
_OIDC_MEMBERS = {"issuer", "audience", "algorithms", "jwks", "jwks_uri", "one_use", "max_lifetime_s"}


class AttesterRow(SQLModel, table=True):
    """An attester as stored; `config` is the JSON text of its specification."""

    __tablename__ = "attesters"

    name: str = Field(primary_key=True)
    kind: str
    status: str
    config: str


@dataclass(frozen=True, slots=True)
class Attester:
    """An issuer of evidence.

    Args:
        name: how policies and records call it.
        kind: "oidc" (a platform's signed identity tokens) or "key" (keys registered with agents).
        status: "active" or "disabled"; a disabled one is refused at once, on every grant.
        issuer: oidc: the exact `iss`.
        audience: oidc: the `aud` that evidence for us must carry.
        algorithms: oidc: the signature algorithms accepted.
        jwks: oidc: pinned keys; empty when they are fetched.
        jwks_uri: oidc: where keys are fetched; empty when discovery tells.
        one_use: each piece of evidence works once.
        max_lifetime_s: evidence that was made to live longer is refused.
    """

    name: str
    kind: str
    status: str = "active"
    issuer: str = ""
    audience: str = ""
    algorithms: frozenset[str] = frozenset()
    jwks: tuple[PublicKey, ...] = ()
    jwks_uri: str = ""
    one_use: bool = False
    max_lifetime_s: int = 86_400
    spec: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def uid(self) -> Uid:
        """Its name in policies."""
        return ("Attester", self.name)

    def entity(self) -> Entity:
        """What policies can ask about it."""
        return Entity(self.uid, {"kind": self.kind})


@dataclass(frozen=True, slots=True)
class Attested:
    """Evidence after verification. Only the verifiers in this package build one.

    Args:
        attester: whose evidence it is.
        subject: the verified subject.
        principal: what policies see of it, and the lists beside.
        lists: claims that are lists, as a Cedar entity of their own.
        digest: SHA-256 of the evidence, hex; what is recorded of it.
        replay_key: names this piece of evidence among all.
        expires_at: when the evidence ends, seconds.
        one_use: it may be presented once; otherwise it binds to the first key that used it.
        claimed_agent: for registered keys the principal they belong to, else empty.
    """

    attester: str
    kind: str
    subject: str
    principal: Entity
    lists: Entity
    digest: str
    replay_key: str
    expires_at: float
    one_use: bool
    claimed_agent: str = ""


def parse(name: str, spec: Mapping[str, Any], *, status: str = "active") -> Attester:
    """Builds an attester from its specification.

    Args:
        name: its name.
        spec: for `key`: `{kind: key}`; for `oidc`: `{kind: oidc, issuer, audience, algorithms?, jwks?, jwks_uri?,
            one_use?, max_lifetime_s?}`.
        status: as stored.

    Raises:
        ManifestInvalid: names the attester, the member and what to write instead.
    """
    kind = spec.get("kind")
    if kind not in KINDS:
        raise ManifestInvalid(f"attester {name}: `kind` must be one of {', '.join(KINDS)}.")
    unknown = set(spec) - {"kind"} - (_OIDC_MEMBERS if kind == "oidc" else set())
    if unknown:
        raise ManifestInvalid(f"attester {name}: unknown member `{sorted(unknown)[0]}`.")
    if kind == "key":
        return Attester(name, "key", status, one_use=True, max_lifetime_s=3600, spec=dict(spec))
    issuer = _text(name, spec, "issuer")
    _http_url(name, "issuer", issuer)
    algorithms = spec.get("algorithms", ["RS256", "ES256"])
    if not isinstance(algorithms, list) or not algorithms or not OIDC_ALGORITHMS.issuperset(map(str, algorithms)):
        raise ManifestInvalid(f"attester {name}: `algorithms` may list {', '.join(sorted(OIDC_ALGORITHMS))}.")
    jwks_uri = spec.get("jwks_uri", "")
    if jwks_uri:
        _http_url(name, "jwks_uri", _text(name, spec, "jwks_uri"))
    lifetime = spec.get("max_lifetime_s", 86_400)
    if not isinstance(lifetime, int) or isinstance(lifetime, bool) or not 60 <= lifetime <= 86_400:
        raise ManifestInvalid(f"attester {name}: `max_lifetime_s` must be between 60 and 86400.")
    one_use = spec.get("one_use", False)
    if not isinstance(one_use, bool):
        raise ManifestInvalid(f"attester {name}: `one_use` must be true or false.")
    keys: tuple[PublicKey, ...] = ()
    if "jwks" in spec:
        if jwks_uri:
            raise ManifestInvalid(f"attester {name}: give `jwks` (pinned) or `jwks_uri` (fetched), not both.")
        if not isinstance(spec["jwks"], Mapping):
            raise ManifestInvalid(f"attester {name}: `jwks` must be a JWK Set: an object with `keys`.")
        try:
            keys = jwk.parse_set(spec["jwks"])
        except BrokerError as error:
            raise ManifestInvalid(f"attester {name}: `jwks`: {error}") from error
        if not keys:
            raise ManifestInvalid(f"attester {name}: `jwks` holds no key that can be used.")
    return Attester(
        name,
        "oidc",
        status,
        issuer,
        _text(name, spec, "audience"),
        frozenset(map(str, algorithms)),
        keys,
        jwks_uri,
        one_use,
        lifetime,
        dict(spec),
    )


REGISTERED_KEYS = parse("registered-keys", {"kind": "key"})
"""The attester that every broker begins with: keys registered with agents, clients and operators."""


def load(row: AttesterRow) -> Attester:
    """The attester that a row holds."""
    return parse(row.name, orjson.loads(row.config), status=row.status)


def store(session: Session, attester: Attester) -> None:
    """Inserts or replaces the attester's row."""
    row = session.get(AttesterRow, attester.name) or AttesterRow(name=attester.name, kind="", status="", config="")
    row.kind, row.status = attester.kind, attester.status
    row.config = orjson.dumps(dict(attester.spec)).decode()
    session.add(row)
    session.flush()


def _text(name: str, spec: Mapping[str, Any], member: str) -> str:
    value = spec.get(member)
    if not isinstance(value, str) or not 0 < len(value) <= 2048:
        raise ManifestInvalid(f"attester {name}: `{member}` is required and must be a text.")
    return value


def _http_url(name: str, member: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        plain = parts.hostname and parts.port != 0 and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        plain = False
    if not plain or not url.startswith(("https://", "http://")) or not url.isascii() or not url.isprintable():
        raise ManifestInvalid(f"attester {name}: `{member}` must be a URL without query, fragment or user.")
