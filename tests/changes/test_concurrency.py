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
from tests.changes.manifests import AGENT_SPEC, OIDC

pytestmark = pytest.mark.asyncio(loop_scope="module")

_CASE = """
- name: {name}
  entities:
    - {{type: Operator, id: ada, attrs: {{status: active}}, parents: ['Role::"admin"']}}
    - {{type: Broker, id: this}}
  request: {{principal: 'Operator::"ada"', action: read, resource: 'Broker::"this"'}}
  expect: permit
  reasons: [admins-operate]
"""


def _rule(name: str) -> str:
    return RULE.replace("nightly-job", name).replace("job-7", f"job-{name}")


def _case(name: str) -> str:
    return _CASE.format(name=name)


def _endpoint(model: str) -> dict[str, Any]:
    return {"base_url": "https://api.example/v1", "models": [model]}


async def _together(shared: Running, *manifests: dict[str, Any]) -> list[Outcome | BaseException]:
    """Proposes at one moment: every plan is made against the same state, before any of them is written."""
    admin = Operator("admin", ("admin", "auditor"))
    return await asyncio.gather(
        *(
            shared.broker.changes.propose(manifest, by=admin, request_id=f"r{n}")
            for n, manifest in enumerate(manifests)
        ),
        return_exceptions=True,
    )


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"policies": {"a.cedar": _rule("a")}}, {"policies": {"b.cedar": _rule("b")}}),
        ({"cases": {"c.yaml": _case("c")}}, {"policies": {"c.cedar": _rule("c")}}),
        ({"cases": {"d.yaml": _case("d")}}, {"cases": {"e.yaml": _case("e")}}),
        ({"agents": {"f": AGENT_SPEC}}, {"agents": {"f": {**AGENT_SPEC, "owner": "other"}}}),
        ({"endpoints": {"g1": _endpoint("g")}}, {"endpoints": {"g2": _endpoint("g")}}),
        ({"endpoints": {"h": _endpoint("h1")}}, {"endpoints": {"h": _endpoint("h2")}}),
        ({"attesters": {"i1": OIDC}}, {"attesters": {"i2": OIDC}}),
        ({"operators": {"j": {"roles": ["admin"]}}}, {"operators": {"j": {"roles": ["auditor"]}}}),
    ],
    ids=["policies", "cases and policies", "cases", "agent", "model", "endpoint", "issuer", "operator"],
)
async def test_one_of_two_wins(shared: Running, one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two changes that touch the same thing, or that together break a rule: one is in force, the other is told."""
    outcomes = await _together(shared, one, other)
    (won,) = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    (lost,) = [outcome for outcome in outcomes if isinstance(outcome, BrokerError)]
    assert won.status == "activated"
    assert isinstance(lost, Conflict | ManifestInvalid), lost
    winner = one if outcomes[0] is won else other
    document = (await shared.broker.changes.propose(winner, by=Operator("admin", ("admin",)), request_id="r")).status
    assert document == "unchanged"


async def test_changes_that_do_not_touch_each_other(shared: Running) -> None:
    """Both are taken, and what is in memory is what is stored."""
    outcomes = await _together(
        shared,
        {"agents": {"k": AGENT_SPEC}},
        {"endpoints": {"k": _endpoint("k")}},
        {"policies": {"k.cedar": _rule("k")}},
    )
    assert [outcome.status for outcome in outcomes if isinstance(outcome, Outcome)] == ["activated"] * 3
    stored = Directory(shared.broker.engine)
    assert stored.agents == shared.broker.directory.agents
    assert stored.attesters == shared.broker.directory.attesters
    assert "k" in stored.agents


async def test_a_change_that_was_overtaken_by_containment(shared: Running, ada: httpx2.AsyncClient) -> None:
    """A change planned before an agent was stopped does not start it again."""
    await shared.apply({"agents": {"l": AGENT_SPEC}}, ada)
    by = Operator("admin", ("admin",))
    changed, contained = await asyncio.gather(
        shared.broker.changes.propose({"agents": {"l": {**AGENT_SPEC, "owner": "new"}}}, by=by, request_id="r1"),
        shared.broker.changes.contain("agents", "l", "suspended", "test", by=by, request_id="r2"),
        return_exceptions=True,
    )
    assert isinstance(contained, Outcome)
    if isinstance(changed, Outcome):  # it was first, on a machine that had other things to do meanwhile
        assert changed.record is not None
        assert contained.record is not None
        assert changed.record < contained.record
    else:
        assert isinstance(changed, Conflict)
    assert shared.broker.directory.agents["l"].status == "suspended"


async def test_a_rule_that_changes_while_agents_are_enrolled(shared: Running, ada: httpx2.AsyncClient) -> None:
    """However exchanges and a change of the rule fall together, the agent ends with what the rule says now."""
    await shared.apply(shared.world(), ada)
    wider = {"policies": {"nightly.cedar": RULE.replace("stand-in/stand-in-small", "stand-in/*")}}
    await asyncio.gather(shared.apply(wider, ada), *(token_request(shared) for _ in range(6)))
    await token_request(shared)
    assert shared.broker.directory.agents[AGENT].ceiling == {"stand-in/*"}
    assert Directory(shared.broker.engine).agents[AGENT].ceiling == {"stand-in/*"}
