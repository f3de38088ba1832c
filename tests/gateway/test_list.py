"""The list of models and the calls come from the same decision: nobody is shown what they may not call."""

from __future__ import annotations

import pytest

from tests.build import MODEL, OTHER_MODEL, Running
from tests.gateway.world import NARROW, Part, by_hand

pytestmark = pytest.mark.asyncio(loop_scope="module")

FORBID = """
@id("{id}") forbid (principal is Agent, action == Action::"call", resource is Model) when {{ {condition} }};
"""

POLICIES = {
    "as shipped": "",
    "one model for nobody": 'resource == Model::"{endpoint}/stand-in-large"',
    "one agent nothing": 'principal == Agent::"narrow"',
    "by owner": 'principal.owner == "gateway-data" && resource.name == "{endpoint}/stand-in-small"',
    "streaming only": 'resource in Endpoint::"{endpoint}" && !context.stream',
    "never streaming": 'resource in Endpoint::"{endpoint}" && context.stream',
    "the whole endpoint": 'resource in Endpoint::"{endpoint}"',
    "a policy that fails": 'principal.owner == "gateway-data" && 9223372036854775807 + 1 > 0',
}


@pytest.mark.parametrize("condition", POLICIES.values(), ids=POLICIES)
async def test_the_list_is_what_calls_permit(run: Running, part: Part, condition: str) -> None:
    """Under any policy, a model is on an agent's list exactly if that agent's call of it is admitted in some way."""
    rule = condition.replace("{endpoint}", part.endpoint)
    text = FORBID.format(id="tried", condition=rule) if condition else None
    await run.apply({"policies": {"tried.cedar": text}})
    outcomes = set()
    for subject in ("job-7", NARROW):
        caller = await by_hand(run, subject, part)
        listed = await caller.models()
        for model in (MODEL, OTHER_MODEL):
            statuses = {(await caller.post({"model": model, "stream": stream})).status_code for stream in (True, False)}
            assert statuses <= {200, 403}
            assert (model in listed) == (200 in statuses), (subject, model)
            outcomes |= statuses
    assert 403 in outcomes
    assert 200 in outcomes or condition == POLICIES["the whole endpoint"]


async def test_a_list_follows_its_agent_at_once(run: Running, part: Part) -> None:
    """A suspended agent's list is empty with the token it has; and full again after it was reactivated."""
    await run.apply({"policies": {"tried.cedar": None}})
    caller, admin = await by_hand(run, NARROW, part), await run.operator()
    assert await caller.models() == {MODEL}
    contained = {"section": "agents", "name": "narrow", "status": "suspended", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=contained)).status_code == 200
    assert await caller.models() == set()
    answer = await admin.post("/api/v1/changes", json={"agents": {"narrow": {"status": "active"}}})
    assert answer.status_code == 200, answer.text
    assert await caller.models() == {MODEL}


async def test_a_disabled_endpoint_offers_nothing(run: Running, part: Part) -> None:
    """Its models leave the list and are unknown to calls, at once."""
    caller, admin = await by_hand(run, part=part), await run.operator()
    contained = {"section": "endpoints", "name": part.endpoint, "status": "disabled", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=contained)).status_code == 200
    assert await caller.models() == set()
    assert (await caller.post({"model": MODEL})).status_code == 404
