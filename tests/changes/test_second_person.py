"""The second person is a person: no link, policy or suspension lets one admin be both, and the trail shows each try."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from broker.changes import account
from broker.errors import ConfigurationError, Unavailable
from tests.build import RULE, Running, es256, running, thumbprint
from tests.changes.manifests import AGENT_SPEC, propose
from tests.db.notes import Gate
from tests.gateway.world import last_records

APPROVERS = """
@id("on-call") permit (principal == Operator::"eve", action == Action::"approve", resource is Broker);
"""


def _without(run: Running, old: str, new: str) -> dict[str, Any]:
    text = run.broker.policies.source.files["operators.cedar"]
    assert old in text
    return {"policies": {"operators.cedar": text.replace(old, new)}, "cases": {"operators.yaml": None}}


async def _approve(by: httpx2.AsyncClient, change: dict[str, Any]) -> httpx2.Response:
    return await by.post(f"/api/v1/changes/{change['id']}/approve")


async def test_an_approver_cannot_spend_the_link(
    run: Running, admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """A link names the key that may spend it; for another key it is refused on record, and stays open for its own."""
    key, spec = es256(), {"roles": ["admin"], "new_link": True}
    for name in ("bob", "carol"):
        unnamed = await propose(bob, {"operators": {name: spec}})
        assert (unnamed.status_code, "--new-key" in unnamed.json()["detail"]) == (422, True)
    taken = run.broker.directory.operators["admin"].keys[0].thumbprint
    assert (await propose(bob, {"operators": {"carol": {**spec, "key": taken}}})).status_code == 422
    proposed = await run.apply({"operators": {"bob": {**spec, "key": thumbprint(key)}}}, bob)
    assert proposed["differences"][0]["after"]["new_link"] == thumbprint(key)
    approved = (await _approve(admin, proposed)).json()
    activated, issued = await last_records(run, 2)
    assert (activated["kind"], issued["kind"]) == ("ChangeActivated", "LinkIssued")
    assert (issued["remedy"]["operator"], issued["remedy"]["key"]) == ("bob", thumbprint(key))
    link = approved["sign_in_links"]["bob"]
    with pytest.raises(AssertionError, match="for another key"):
        await run.operator(link=link)
    (refused,) = await last_records(run, 1)
    assert (refused["kind"], refused["decision"]["reason"]) == ("OperatorRefused", "other_key")
    assert (await (await run.operator(link=link, key=key)).get("/api/v1/whoami")).json()["name"] == "bob"


async def test_the_record_tells_before_and_after(run: Running, admin: httpx2.AsyncClient) -> None:
    """Members as they are described, texts as their digests, and how many there are."""
    await run.apply({"agents": {"a": AGENT_SPEC}}, admin)
    await run.apply({"agents": {"a": {**AGENT_SPEC, "owner": "new"}}, "policies": {"r.cedar": RULE}}, admin)
    told = (await last_records(run, 1))[0]["remedy"]
    agent, policy = told["differences"]
    assert told["count"] == 2
    assert (agent["before"]["owner"], agent["after"]["owner"]) == ("team", "new")
    assert (policy["before"], set(policy["after"])) == (None, {"sha256"})


async def test_a_long_record_is_told_by_digests(
    run: Running, admin: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not fit is never cut without a word: each by digests, or all by one, with the count."""
    many = {f"a{n}": {**AGENT_SPEC, "purpose": "p" * 400} for n in range(200)}
    await run.apply({"agents": many}, admin)
    told = (await last_records(run, 1))[0]["remedy"]
    assert (told["count"], len(told["differences"])) == (200, 200)
    assert set(told["differences"][0]["after"]) == {"sha256"}
    monkeypatch.setattr(account, "MAX_BYTES", 1000)
    await run.apply({"agents": {name: {**spec, "owner": "new"} for name, spec in many.items()}}, admin)
    told = (await last_records(run, 1))[0]["remedy"]
    assert (told["count"], len(told["differences_sha256"]), "differences" in told) == (200, 64, False)


async def test_a_set_must_leave_a_way_in(run: Running, admin: httpx2.AsyncClient) -> None:
    """A set under which its author gets no token for the API is refused, with what to keep."""
    refused = await propose(admin, _without(run, 'resource.kind == "api"', 'resource.kind == "none"'))
    assert refused.status_code == 422
    assert "`exchange`" in refused.json()["detail"]


async def test_a_set_must_leave_an_approver(run: Running, admin: httpx2.AsyncClient, bob: httpx2.AsyncClient) -> None:
    """Once there are two, a set under which nobody else may approve is refused, with what to keep."""
    refused = await propose(admin, _without(run, 'Action::"approve", ', ""))
    assert refused.status_code == 422
    assert "`approve`" in refused.json()["detail"]


async def test_the_policies_say_who_is_the_second(run: Running, admin: httpx2.AsyncClient) -> None:
    """An auditor whom a policy lets approve counts, suspended or not; one whom none lets approve does not."""
    added = await run.apply({"operators": {"eve": {"roles": ["auditor"]}}}, admin)
    await run.operator(link=added["sign_in_links"]["eve"])
    assert (await run.apply({"policies": {"on-call.cedar": APPROVERS}}, admin))["status"] == "activated"
    assert (await run.apply({"agents": {"a": AGENT_SPEC}}, admin))["status"] == "pending"
    what = {"section": "operators", "name": "eve", "status": "suspended", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=what)).status_code == 200
    assert (await run.apply({"agents": {"b": AGENT_SPEC}}, admin))["status"] == "pending"


async def test_what_a_stopped_operator_proposed_is_withdrawn(
    run: Running, admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """In the step that stops the proposer; the trail of proposals says who closed it."""
    proposed = await run.apply({"agents": {"a": AGENT_SPEC}}, bob)
    what = {"section": "operators", "name": "bob", "status": "suspended", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=what)).status_code == 200
    shown = (await admin.get(f"/api/v1/changes/{proposed['id']}")).json()
    assert (shown["status"], shown["decided_by"]) == ("withdrawn", "admin")
    assert (await _approve(admin, proposed)).status_code == 404


async def test_a_proposer_who_lost_the_right_is_not_taken_at_their_word(
    run: Running, admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """A change is approved only while its proposer may still propose it."""
    proposed = await run.apply({"agents": {"a": AGENT_SPEC}}, bob)
    demoted = await run.apply({"operators": {"bob": {"roles": ["auditor"]}}}, admin)
    assert (await _approve(bob, demoted)).status_code == 200
    assert (await admin.get(f"/api/v1/changes/{proposed['id']}")).json()["stale"] is True
    assert (await _approve(admin, proposed)).status_code == 409
    assert "a" not in run.broker.directory.agents


async def test_a_change_that_lands_late_is_told_as_it_is(tmp_path: Path) -> None:
    """Its caller is told that it may have taken effect, and the trail says that it did."""
    gate = Gate()
    async with running(tmp_path, probe=gate, storage={"commit_timeout_s": 0.5}) as run:
        admin = await run.operator()
        await run.apply({"agents": {"a": AGENT_SPEC}}, admin)
        by = run.broker.directory.operators["admin"]
        gate.close("applied")
        task = asyncio.create_task(
            run.broker.changes.contain("agents", "a", "suspended", "test", by=by, request_id="late")
        )
        await gate.reached()
        with pytest.raises(Unavailable, match="may have taken effect"):
            await task
        gate.open()
        for _ in range(1_000):
            if (await run.kinds())[-1] == "ChangeAbandoned":
                break
            await asyncio.sleep(0.005)
        contained, closing = await last_records(run, 2)
        assert (contained["kind"], closing["kind"]) == ("AgentContained", "ChangeAbandoned")
        assert closing["remedy"]["why"].startswith("it took effect")
        assert run.broker.directory.agents["a"].status == "suspended"


async def test_the_terminal_lets_known_operators_in(run: Running) -> None:
    """Before the first sign-in anybody with a name that a manifest takes; afterwards those who are known."""
    with pytest.raises(ConfigurationError, match="no operator's name"):
        await run.broker.sign_in.link("Ada Lovelace")
    admin = await run.operator("ada")
    with pytest.raises(ConfigurationError, match="Ask an admin"):
        await run.broker.sign_in.link("mallory")
    await run.apply({"operators": {"bob": {"roles": ["admin"]}}}, admin)
    await run.operator("bob")
    await run.operator("ada")
