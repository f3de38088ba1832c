"""Writing a checked change, inside the transaction of its record, and taking it into use once it is durable."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sqlmodel import Session, col, select

from broker.changes import manifest as manifests
from broker.changes.plan import Plan, Values, one_attester_an_issuer, one_endpoint_a_model
from broker.entropy import Entropy
from broker.errors import Conflict, NotFound
from broker.gateway import endpoints
from broker.gateway.endpoints import Catalogue, EndpointRow
from broker.identity import agents, attesters, operators
from broker.identity.agents import Agent, AgentRow
from broker.identity.attesters import AttesterRow
from broker.identity.directory import Directory
from broker.identity.operators import OperatorRow
from broker.policy import active
from broker.policy.active import ActivePolicies, ActivePolicyRow, Checked
from broker.policy.annotations import EnrolmentRule

NARROWER: Mapping[str, tuple[str, ...]] = {
    "agents": ("suspended", "revoked"),
    "attesters": ("disabled",),
    "endpoints": ("disabled",),
    "operators": ("suspended",),
}
"""The statuses that take rights away, by section."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What a change wrote: for memory to follow once it is durable."""

    values: Values
    links: Mapping[str, str] = field(default_factory=dict)
    checked: Checked | None = None
    revision: int = 0


def apply(session: Session, plan: Plan, *, by: str, now: float, entropy: Entropy) -> Applied:
    """Writes a plan, if everything it touches is as it was when the plan was made.

    Raises:
        Conflict, ManifestInvalid: something changed meanwhile; nothing is written.
    """
    for difference in plan.differences:
        stored = _STORED.get(difference.section)
        if stored is not None and stored(session, difference.name) != difference.before:
            raise Conflict(f"{difference.section}/{difference.name} changed meanwhile. Look at it, and propose again.")
    _store(session, plan.values, now=now)
    _check_unique(session, plan.values)
    revision = 0
    if plan.checked is not None:
        in_force = session.get(ActivePolicyRow, 1)
        if in_force is None or in_force.revision != plan.revision:
            raise Conflict("Another policy set was activated meanwhile. Look at it, and propose your change again.")
        revision = active.activate(session, plan.checked, expected=plan.base, by=by, now=now)
    ruled = tuple(agent for id, rule in plan.rules.items() for agent in _follow(session, id, rule, now=now))
    links = {
        name: operators.new_link(session, name, now=now, entropy=entropy, thumbprint=thumbprint)
        for name, thumbprint in plan.links.items()
    }
    return Applied(replace(plan.values, agents=(*plan.values.agents, *ruled)), links, plan.checked, revision)


def contain(session: Session, section: str, name: str, status: str, *, now: float) -> Applied:
    """Writes a narrower status of one thing.

    Raises:
        NotFound: it does not exist.
    """
    values = Values()
    if section == "agents" and (agent := session.get(AgentRow, name)) is not None:
        values = Values(agents=(replace(agents.load(agent), status=status),))
    elif section == "attesters" and (attester := session.get(AttesterRow, name)) is not None:
        values = Values(attesters=(replace(attesters.load(attester), status=status),))
    elif section == "endpoints" and (endpoint := session.get(EndpointRow, name)) is not None:
        values = Values(endpoints=(replace(endpoints.load(endpoint), status=status),))
    elif section == "operators" and (operator := session.get(OperatorRow, name)) is not None:
        values = Values(operators=(replace(operators.load(operator), status=status),))
    else:
        raise NotFound(f"There is nothing called {name} among the {section}.")
    _store(session, values, now=now)
    return Applied(values)


def install(applied: object, directory: Directory, catalogue: Catalogue, policies: ActivePolicies) -> None:
    """Takes a durable change into use. Runs on the loop, between two requests."""
    assert isinstance(applied, Applied)
    values = applied.values
    directory.agents.update({agent.id: agent for agent in values.agents})
    directory.attesters.update({attester.name: attester for attester in values.attesters})
    directory.operators.update({operator.name: operator for operator in values.operators})
    if values.endpoints:
        catalogue.reload()
    if applied.checked is not None:
        policies.use(applied.checked.policies, applied.checked.source, applied.revision)


def describe(directory: Directory, catalogue: Catalogue, section: str, name: str) -> dict[str, Any]:
    """One thing as a manifest describes it, as it is in force.

    Raises:
        NotFound: it does not exist.
    """
    if section == "agents" and name in directory.agents:
        return manifests.describe_agent(directory.agents[name])
    if section == "attesters" and name in directory.attesters:
        return manifests.describe_attester(directory.attesters[name])
    if section == "endpoints" and name in catalogue.endpoints:
        return manifests.describe_endpoint(catalogue.endpoints[name])
    if section == "operators" and name in directory.operators:
        return manifests.describe_operator(directory.operators[name])
    raise NotFound(f"There is nothing called {name} among the {section}.")


def _store(session: Session, values: Values, *, now: float) -> None:
    for attester in values.attesters:
        attesters.store(session, attester)
    for endpoint in values.endpoints:
        endpoints.store(session, endpoint)
    for agent in values.agents:
        agents.store(session, agent, now=now)
    for operator in values.operators:
        operators.store(session, operator, now=now)


def _check_unique(session: Session, values: Values) -> None:
    """What a plan checked among the things it knew, checked among those that are there now."""
    if values.attesters:
        one_attester_an_issuer({row.name: attesters.load(row) for row in session.exec(select(AttesterRow))})
    if values.endpoints:
        one_endpoint_a_model({row.name: endpoints.load(row) for row in session.exec(select(EndpointRow))})


def _follow(session: Session, id: str, rule: EnrolmentRule | None, *, now: float) -> list[Agent]:
    """Lets the agents of a changed rule follow it at once; those of a rule that is gone may call nothing any more."""
    changed = []
    for row in session.exec(select(AgentRow).where(col(AgentRow.enrolled_by) == id)):
        known = agents.load(row)
        ceiling = frozenset(rule.ceiling or ()) if rule is not None else frozenset[str]()
        owner = rule.owner or "" if rule is not None else known.owner
        purpose = rule.purpose or "" if rule is not None else known.purpose
        agent = replace(known, owner=owner, purpose=purpose, ceiling=ceiling)
        agents.store(session, agent, now=now)
        changed.append(agent)
    return changed


def _stored_agent(session: Session, name: str) -> dict[str, Any] | None:
    row = session.get(AgentRow, name)
    return manifests.describe_agent(agents.load(row)) if row is not None else None


def _stored_attester(session: Session, name: str) -> dict[str, Any] | None:
    row = session.get(AttesterRow, name)
    return manifests.describe_attester(attesters.load(row)) if row is not None else None


def _stored_endpoint(session: Session, name: str) -> dict[str, Any] | None:
    row = session.get(EndpointRow, name)
    return manifests.describe_endpoint(endpoints.load(row)) if row is not None else None


def _stored_operator(session: Session, name: str) -> dict[str, Any] | None:
    row = session.get(OperatorRow, name)
    return manifests.describe_operator(operators.load(row)) if row is not None else None


_STORED: Mapping[str, Callable[[Session, str], dict[str, Any] | None]] = {
    "agents": _stored_agent,
    "attesters": _stored_attester,
    "endpoints": _stored_endpoint,
    "operators": _stored_operator,
}
