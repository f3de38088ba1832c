"""Instances: running copies of agents, each known by its own key.

A row lives as long as the instance's last credential and is then pruned; the record keeps the rest. The row is written
at the first credential and again only when credentials outlast it, so that a renewal costs no write of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Engine
from sqlmodel import Field, Session, SQLModel, select

from broker.db.engine import execute, reading, writing

_SLACK_S = 1800


class InstanceRow(SQLModel, table=True):
    """An instance as stored; `ends_at` is no earlier than the end of its last credential (seconds)."""

    __tablename__ = "instances"

    id: str = Field(primary_key=True)
    agent: str = Field(index=True)
    thumbprint: str
    attester: str
    first_seen: float
    ends_at: float = Field(index=True)


@dataclass(frozen=True, slots=True)
class Instance:
    """One running copy of an agent with its own key; `id` is derived from both by the caller."""

    id: str
    agent: str
    thumbprint: str
    attester: str
    first_seen: float
    ends_at: float


class Instances:
    """The instances that hold a credential, in memory beside the table.

    Args:
        engine: the database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        with reading(engine) as session:
            self._live = {
                (row.agent, row.thumbprint): Instance(
                    row.id, row.agent, row.thumbprint, row.attester, row.first_seen, row.ends_at
                )
                for row in session.exec(select(InstanceRow))
            }

    def find(self, agent: str, thumbprint: str) -> Instance | None:
        """The live instance of this agent under this key."""
        return self._live.get((agent, thumbprint))

    def of(self, agent: str) -> list[Instance]:
        """The live instances of an agent."""
        return [instance for instance in self._live.values() if instance.agent == agent]

    def __len__(self) -> int:
        """How many instances are live."""
        return len(self._live)

    def extended(self, instance: Instance, expires_at: float) -> Instance | None:
        """What must be stored so that `instance` outlives a credential; None when what is stored suffices."""
        known = self._live.get((instance.agent, instance.thumbprint))
        if known is not None and known.ends_at >= expires_at:
            return None
        return Instance(
            instance.id,
            instance.agent,
            instance.thumbprint,
            instance.attester,
            instance.first_seen,
            expires_at + _SLACK_S,
        )

    def remember(self, instance: Instance) -> None:
        """Takes a stored instance into memory; call it after the commit."""
        self._live[instance.agent, instance.thumbprint] = instance

    def forget(self, now: float) -> int:
        """Forgets instances whose last credential has ended; returns how many. Runs on the loop."""
        ended = [key for key, instance in self._live.items() if instance.ends_at <= now]
        for key in ended:
            del self._live[key]
        return len(ended)

    def prune(self, now: float) -> None:
        """Deletes the rows of instances whose last credential has ended. Runs off the loop."""
        with writing(self._engine) as connection:
            execute(connection, "DELETE FROM instances WHERE ends_at <= ?", (now,))


def store(session: Session, instance: Instance) -> None:
    """Inserts the instance, or moves its end."""
    execute(
        session.connection(),
        "INSERT INTO instances (id, agent, thumbprint, attester, first_seen, ends_at) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (id) DO UPDATE SET ends_at = excluded.ends_at, attester = excluded.attester",
        (instance.id, instance.agent, instance.thumbprint, instance.attester, instance.first_seen, instance.ends_at),
    )
