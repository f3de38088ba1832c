"""What a decision needs to know of identities, in memory: read on every request, replaced after every commit.

Values are immutable and replaced whole, on the loop, after the change is durable; a request that looked one up keeps a
consistent one to its end.
"""

from __future__ import annotations

from sqlalchemy import Engine
from sqlmodel import select

from broker.db.engine import reading
from broker.formats.jwk import PublicKey
from broker.identity import agents, operators
from broker.identity.agents import Agent, AgentRow
from broker.identity.attesters import Attester, AttesterRow
from broker.identity.attesters import load as load_attester
from broker.identity.operators import Operator, OperatorRow

Principal = Agent | Operator


class Directory:
    """Agents, attesters and operators by name.

    Args:
        engine: where they are stored; read once.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.agents: dict[str, Agent] = {}
        self.attesters: dict[str, Attester] = {}
        self.operators: dict[str, Operator] = {}
        self.reload()

    def reload(self) -> None:
        """Reads everything anew; after a change that touched several."""
        with reading(self._engine) as session:
            found_agents = {row.id: agents.load(row) for row in session.exec(select(AgentRow))}
            found_attesters = {row.name: load_attester(row) for row in session.exec(select(AttesterRow))}
            found_operators = {row.name: operators.load(row) for row in session.exec(select(OperatorRow))}
        self.agents, self.attesters, self.operators = found_agents, found_attesters, found_operators

    def attester_of_issuer(self, issuer: str) -> Attester | None:
        """The OIDC attester with exactly this issuer."""
        return next((a for a in self.attesters.values() if a.kind == "oidc" and a.issuer == issuer), None)

    def key_attester(self) -> Attester | None:
        """The attester of registered keys."""
        return next((a for a in self.attesters.values() if a.kind == "key"), None)

    def principal(self, id: str) -> Principal | None:
        """The agent, client or operator with this id."""
        if id.startswith(operators.PREFIX):
            return self.operators.get(id.removeprefix(operators.PREFIX))
        return self.agents.get(id)

    def registered_keys(self, id: str) -> tuple[PublicKey, ...]:
        """The keys registered for a principal; empty when there is none."""
        principal = self.principal(id)
        return principal.keys if principal is not None else ()

    def link_owner(self, code: str, *, now: float, from_loopback: bool) -> str:
        """The operator whom a sign-in code would sign in. Links are not in memory: it asks the table, off the loop.

        Raises:
            AccessDenied: unknown, used or expired.
        """
        with reading(self._engine) as session:
            return operators.link_owner(session, code, now=now, from_loopback=from_loopback)

    def signed_in(self) -> bool:
        """Whether anybody has ever signed in; the first one is an admin, for nobody else could add operators."""
        return any(operator.keys for operator in self.operators.values())
