"""Agents and clients: the stable principals, with an owner, a purpose and a ceiling of rights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import orjson
from sqlmodel import Field, Session, SQLModel

from broker.audit.events import BROKER, UNKNOWN
from broker.errors import BrokerError, ManifestInvalid
from broker.formats import jwk
from broker.formats.jwk import PublicKey
from broker.policy.request import Entity, Uid

RESERVED = frozenset({BROKER, UNKNOWN})
"""Names of no agent: records of others stand under them."""

AGENT_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~%/@:-]{0,199}")
CEILING_ENTRY = re.compile(r"[a-z0-9][a-z0-9-]{0,62}/(\*|[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127})")
STATUSES = ("active", "suspended", "revoked")
MAX_KEYS = 10
"""Keys a principal may have: a stranger's assertion in its name costs at most so many verifications."""


class AgentRow(SQLModel, table=True):
    """An agent or client as stored. `ceiling` and `keys` are JSON texts."""

    __tablename__ = "agents"

    id: str = Field(primary_key=True)
    kind: str
    owner: str = Field(index=True)
    purpose: str
    ceiling: str
    status: str
    enrolled_by: str = Field(index=True)
    keys: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Agent:
    """A principal that may ask for tokens.

    Args:
        id: the stable name.
        kind: "agent", or "client" for a principal that is no agent.
        owner, purpose: who answers for it, and what it is for.
        ceiling: `endpoint/model` or `endpoint/*`: the most it may ever call.
        status: "active", "suspended" or "revoked".
        enrolled_by: the `@id` of the rule that fixes owner and ceiling; empty when an admin does.
        keys: registered public keys, for the `key` attester.
    """

    id: str
    kind: str
    owner: str
    purpose: str
    ceiling: frozenset[str]
    status: str = "active"
    enrolled_by: str = ""
    keys: tuple[PublicKey, ...] = ()

    @property
    def uid(self) -> Uid:
        """Its name in policies."""
        return ("Agent", self.id)

    def entity(self) -> Entity:
        """What policies can ask about it."""
        return Entity(
            self.uid,
            {
                "owner": self.owner,
                "purpose": self.purpose,
                "kind": self.kind,
                "status": self.status,
                "ceiling": sorted(self.ceiling),
                "enrolled_by": self.enrolled_by,
            },
        )


def parse_keys(jwks: object, where: str) -> tuple[PublicKey, ...]:
    """Registered public keys from a JWK Set's `keys` list.

    Raises:
        ManifestInvalid: no list of at most 10 public JWKs, or a private key among them.
    """
    if not isinstance(jwks, list) or len(jwks) > MAX_KEYS or not all(isinstance(members, Mapping) for members in jwks):
        raise ManifestInvalid(f"{where}: write a list of at most {MAX_KEYS} public JWKs.")
    try:
        return tuple(jwk.parse_public(members) for members in jwks)
    except BrokerError as error:
        raise ManifestInvalid(f"{where}: {error}") from error


def stored_keys(keys: tuple[PublicKey, ...]) -> str:
    """The JSON text under which registered keys are stored: public members, and the `kid` and `alg` they came with."""
    return orjson.dumps([_members(key) for key in keys]).decode()


def _members(key: PublicKey) -> dict[str, str]:
    members = jwk.to_members(key.key)
    if key.kid is not None:
        members["kid"] = key.kid
    if len(key.algorithms) == 1:
        members["alg"] = next(iter(key.algorithms))
    return members


def load(row: AgentRow) -> Agent:
    """The agent that a row holds."""
    return Agent(
        row.id,
        row.kind,
        row.owner,
        row.purpose,
        frozenset(orjson.loads(row.ceiling)),
        row.status,
        row.enrolled_by,
        tuple(jwk.parse_public(members) for members in orjson.loads(row.keys)),
    )


def store(session: Session, agent: Agent, *, now: float) -> None:
    """Inserts or replaces the agent's row."""
    row = session.get(AgentRow, agent.id)
    if row is None:
        row = AgentRow(
            id=agent.id, kind="", owner="", purpose="", ceiling="", status="", enrolled_by="", keys="", created_at=now
        )
    row.kind, row.owner, row.purpose, row.status = agent.kind, agent.owner, agent.purpose, agent.status
    row.enrolled_by = agent.enrolled_by
    row.ceiling = orjson.dumps(sorted(agent.ceiling)).decode()
    row.keys = stored_keys(agent.keys)
    session.add(row)
    session.flush()
