"""Operators: the people who edit policies and review trails, each known by the keys of their machines.

A one-time link brings the first key of an operator in: single use, ten minutes. An attacker who reads the table of
operators learns public keys and digests of links, neither of which signs anyone in.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

import orjson
from sqlalchemy import ColumnElement
from sqlmodel import Field, Session, SQLModel, col, delete, or_, select

from broker.entropy import Entropy, new_id
from broker.errors import AccessDenied
from broker.formats import jwk
from broker.formats.jwk import PublicKey
from broker.identity.agents import stored_keys
from broker.policy.request import Entity, Uid

OPERATOR_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ROLES = ("admin", "auditor")
LINK_LIFETIME_S = 600
PREFIX = "operator:"
"""What an operator's principal id begins with, so that it can never be an agent's."""


class OperatorRow(SQLModel, table=True):
    """An operator as stored. `roles` and `keys` are JSON texts."""

    __tablename__ = "operators"

    name: str = Field(primary_key=True)
    roles: str
    status: str
    keys: str
    created_at: float


class LinkRow(SQLModel, table=True):
    """A sign-in link that has not been used: the digest of its code, never the code.

    `thumbprint` is that of the one key that may spend it, "" for any.
    """

    __tablename__ = "operator_links"

    digest: str = Field(primary_key=True)
    operator: str
    expires_at: float
    loopback_only: bool
    thumbprint: str


@dataclass(frozen=True, slots=True)
class Operator:
    """A person who may use the API, as far as `operators.cedar` says."""

    name: str
    roles: tuple[str, ...]
    status: str = "active"
    keys: tuple[PublicKey, ...] = ()

    @property
    def id(self) -> str:
        """The principal id that stands in tokens and records."""
        return PREFIX + self.name

    @property
    def uid(self) -> Uid:
        """Its name in policies."""
        return ("Operator", self.name)

    def entity(self) -> Entity:
        """What policies can ask about it."""
        return Entity(self.uid, {"status": self.status}, parents=tuple(("Role", role) for role in self.roles))


def load(row: OperatorRow) -> Operator:
    """The operator that a row holds."""
    keys = tuple(jwk.parse_public(members) for members in orjson.loads(row.keys))
    return Operator(row.name, tuple(orjson.loads(row.roles)), row.status, keys)


def store(session: Session, operator: Operator, *, now: float) -> None:
    """Inserts or replaces the operator's row."""
    row = session.get(OperatorRow, operator.name)
    if row is None:
        row = OperatorRow(name=operator.name, roles="", status="", keys="", created_at=now)
    row.roles = orjson.dumps(list(operator.roles)).decode()
    row.status = operator.status
    row.keys = stored_keys(operator.keys)
    session.add(row)
    session.flush()


def new_link(
    session: Session,
    operator: str,
    *,
    now: float,
    entropy: Entropy,
    loopback_only: bool = False,
    thumbprint: str = "",
) -> str:
    """Makes a one-time sign-in code for an operator; older unused codes of the same operator end.

    Args:
        session: an open transaction.
        operator: whom it signs in.
        now: seconds since the epoch.
        entropy: makes the code.
        loopback_only: it works from this machine alone.
        thumbprint: it works for this key alone, whoever is handed the code; "" for any key.
    """
    session.exec(delete(LinkRow).where(col(LinkRow.operator) == operator))
    session.exec(delete(LinkRow).where(col(LinkRow.expires_at) <= now))
    code = new_id(entropy) + new_id(entropy)
    row = LinkRow(
        digest=_digest(code),
        operator=operator,
        expires_at=now + LINK_LIFETIME_S,
        loopback_only=loopback_only,
        thumbprint=thumbprint,
    )
    session.add(row)
    session.flush()
    return code


def link_owner(session: Session, code: str, *, now: float, from_loopback: bool) -> str:
    """The name of the operator whom a sign-in code would sign in; uses nothing up.

    Raises:
        AccessDenied: unknown, used or expired; the text does not tell which.
    """
    found = session.exec(select(LinkRow.operator).where(*_open(code, now, from_loopback))).one_or_none()
    if found is None:
        raise _no_link()
    return found


def spend_link(session: Session, code: str, *, thumbprint: str, now: float, from_loopback: bool) -> str:
    """Uses a sign-in code up for the key with this thumbprint, in one atomic statement; returns the operator's name.

    Raises:
        AccessDenied: unknown, used or expired, the text does not tell which; or it is for another key, and stays open.
    """
    mine = or_(col(LinkRow.thumbprint) == "", col(LinkRow.thumbprint) == thumbprint)
    statement = delete(LinkRow).where(*_open(code, now, from_loopback), mine).returning(col(LinkRow.operator))
    name = session.exec(statement).scalar_one_or_none()
    if name is None:
        link_owner(session, code, now=now, from_loopback=from_loopback)
        raise AccessDenied(
            "This sign-in link is for another key. Spend it where `broker login --new-key` made that key, or give an "
            "admin this machine's.",
            reason="other_key",
        )
    return str(name)


def _open(code: str, now: float, from_loopback: bool) -> tuple[ColumnElement[bool], ...]:
    """What a link must be to sign anybody in."""
    return (
        col(LinkRow.digest) == _digest(code),
        col(LinkRow.expires_at) > now,
        or_(col(LinkRow.loopback_only).is_(False), from_loopback),
    )


def _no_link() -> AccessDenied:
    return AccessDenied(
        "This sign-in link is unknown, used or too old. Ask for a new one, or restart the broker for the first one.",
        reason="unknown_link",
    )


def _digest(code: str) -> str:
    return hashlib.sha256(code.encode()).hexdigest()
