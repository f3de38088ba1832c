"""Changes made against one state: the first that becomes durable wins, and no other is taken for an answer to it."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from broker.changes.proposals import Outcome
from broker.errors import BrokerError, Conflict, ManifestInvalid
from broker.identity.directory import Directory
from broker.identity.operators import Operator
from tests.build import AGENT, RULE, Running, token_request

CASE = """
- name: {name}
  entities:
    - {{type: Operator, id: ada, attrs: {{status: active}}, parents: ['Role::"admin"']}}
    - {{type: Broker, id: this}}
  request: {{principal: 'Operator::"ada"', action: read, resource: 'Broker::"this"'}}
  expect: permit
  reasons: [admins-operate]
"""
AGENT_SPEC = {"owner": "team", "purpose": "tests", "ceiling": []}
ENDPOINT = {"base_url": "https://api.example/v1", "models": ["m"]}
OIDC = {"kind": "oidc", "issuer": "https://issuer.example", "audience": "https://broker.example"}


async def _together(run: Running, *manifests: dict[str, Any]) -> list[Outcome | BaseException]:
    """Proposes at one moment: every plan is made against the same state, before any of them is written."""
    admin = Operator("admin", ("admin", "auditor"))
    return await asyncio.gather(
        *(run.broker.changes.propose(manifest, by=admin, request_id=f"r{n}") for n, manifest in enumerate(manifests)),
        return_exceptions=True,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"policies": {"a.cedar": RULE}}, {"policies": {"b.cedar": RULE.replace("nightly-job", "b")}}),
        ({"cases": {"a.yaml": CASE.format(name="a")}}, {"policies": {"b.cedar": RULE}}),
        ({"cases": {"a.yaml": CASE.format(name="a")}}, {"cases": {"b.yaml": CASE.format(name="b")}}),
        ({"agents": {"a": AGENT_SPEC}}, {"agents": {"a": {**AGENT_SPEC, "owner": "other"}}}),
        ({"endpoints": {"a": ENDPOINT}}, {"endpoints": {"b": ENDPOINT}}),
        ({"endpoints": {"a": ENDPOINT}}, {"endpoints": {"a": {**ENDPOINT, "models": ["n"]}}}),
        ({"attesters": {"a": OIDC}}, {"attesters": {"b": OIDC}}),
        ({"operators": {"a": {"roles": ["admin"]}}}, {"operators": {"a": {"roles": ["auditor"]}}}),
    ],
    ids=["policies", "cases and policies", "cases", "agent", "model", "endpoint", "issuer", "operator"],
)
async def test_one_of_two_wins(run: Running, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two changes that touch the same thing, or that together break a rule: one is in force, the other is told."""
    outcomes = await _together(run, one, other)
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    (lost,) = [outcome for outcome in outcomes if isinstance(outcome, BrokerError)]
    assert won.status == "activated"
    assert isinstance(lost, Conflict | ManifestInvalid), lost
    winner = one if outcomes[0] is won else other
    document = (await run.broker.changes.propose(winner, by=Operator("admin", ("admin",)), request_id="r")).status
    assert document == "unchanged"


async def test_changes_that_do_not_touch_each_other(run: Running) -> None:
    """Both are taken, and what is in memory is what is stored."""
    outcomes = await _together(
        run, {"agents": {"a": AGENT_SPEC}}, {"endpoints": {"e": ENDPOINT}}, {"policies": {"b.cedar": RULE}}
    )
    assert [outcome.status for outcome in outcomes if isinstance(outcome, Outcome)] == ["activated"] * 3
    stored = Directory(run.broker.engine)
    assert stored.agents == run.broker.directory.agents
    assert stored.attesters == run.broker.directory.attesters
    assert "a" in stored.agents


async def test_a_change_that_was_overtaken_by_containment(run: Running, admin: httpx2.AsyncClient) -> None:
    """A change planned before an agent was stopped does not start it again."""
    await run.apply({"agents": {"a": AGENT_SPEC}}, admin)
    by = Operator("admin", ("admin",))
    changed, contained = await asyncio.gather(
        run.broker.changes.propose({"agents": {"a": {**AGENT_SPEC, "owner": "new"}}}, by=by, request_id="r1"),
        run.broker.changes.contain("agents", "a", "suspended", "test", by=by, request_id="r2"),
        return_exceptions=True,
    )
    assert isinstance(contained, Outcome)
    assert isinstance(changed, Conflict)
    assert run.broker.directory.agents["a"].status == "suspended"


async def test_a_rule_that_changes_while_agents_are_enrolled(run: Running, admin: httpx2.AsyncClient) -> None:
    """However exchanges and a change of the rule fall together, the agent ends with what the rule says now."""
    await run.apply(run.world(), admin)
    wider = {"policies": {"nightly.cedar": RULE.replace("stand-in/stand-in-small", "stand-in/*")}}
    await asyncio.gather(run.apply(wider, admin), *(token_request(run) for _ in range(6)))
    await token_request(run)
    assert run.broker.directory.agents[AGENT].ceiling == {"stand-in/*"}
    assert Directory(run.broker.engine).agents[AGENT].ceiling == {"stand-in/*"}
