"""Two admins: what can widen access waits for the second, what narrows does not."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from tests.build import AGENT, MODEL, OTHER_MODEL, RULE, Running, token_request
from tests.gateway.world import last_records

AGENT_SPEC = {"owner": "team", "purpose": "tests", "ceiling": [f"stand-in/{MODEL}"]}
OIDC = {"kind": "oidc", "issuer": "https://issuer.example", "audience": "https://broker.example"}
LOOSE = '@id("loose") permit (principal == Operator::"eve", action == Action::"read", resource is Broker);'


@pytest.fixture
async def world(run: Running, admin: httpx2.AsyncClient, bob: httpx2.AsyncClient) -> dict[str, Any]:
    """Two admins, and things that are there to be widened."""
    more = {
        "agents": {"a": AGENT_SPEC, "stopped": {**AGENT_SPEC, "status": "suspended"}},
        "operators": {"eve": {"roles": ["auditor"]}},
        "attesters": {**run.world()["attesters"], "off": {**OIDC, "status": "disabled"}},
    }
    manifest = {**run.world(), **more}
    proposed = await run.apply(manifest, admin)
    approved = await bob.post(f"/api/v1/changes/{proposed['id']}/approve")
    assert approved.json()["status"] == "activated", approved.text
    assert (await token_request(run)).status_code == 200
    return manifest


async def test_whatever_widens_waits(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """Every kind of widening is pending until the second admin approves it, and changes nothing before."""
    stand_in = world["endpoints"]["stand-in"]
    widening: dict[str, dict[str, Any]] = {
        "a new agent": {"agents": {"b": AGENT_SPEC}},
        "a wider ceiling": {"agents": {"a": {**AGENT_SPEC, "ceiling": ["stand-in/*"]}}},
        "another owner": {"agents": {"a": {**AGENT_SPEC, "owner": "other"}}},
        "reactivation": {"agents": {"stopped": {"status": "active"}}},
        "from suspended to revoked and so on is no way round": {"agents": {"stopped": {"status": "revoked"}}},
        "a new attester": {"attesters": {"new": {**OIDC, "issuer": "https://new.example"}}},
        "another audience": {"attesters": {"platform": {**world["attesters"]["platform"], "audience": "https://x"}}},
        "an attester switched on": {"attesters": {"off": {**OIDC, "status": "active"}}},
        "a new endpoint": {"endpoints": {"new": {"base_url": "https://new.example/v1", "models": ["n"]}}},
        "another model": {"endpoints": {"stand-in": {**stand_in, "models": [MODEL, OTHER_MODEL, "third"]}}},
        "another address": {"endpoints": {"stand-in": {**stand_in, "base_url": f"{run.provider.origin}/v2"}}},
        "a new operator": {"operators": {"mallory": {"roles": ["admin"]}}},
        "another role": {"operators": {"eve": {"roles": ["admin", "auditor"]}}},
        "a new link for somebody else": {"operators": {"bob": {"roles": ["admin"], "new_link": True}}},
        "a wider rule": {"policies": {"nightly.cedar": RULE.replace(MODEL, OTHER_MODEL)}},
        "a new policy": {"policies": {"loose.cedar": LOOSE}},
        "a file removed": {"policies": {"nightly.cedar": None}},
        "a case removed": {"cases": {"exchange.yaml": None}},
        "another vocabulary": {
            "policy_set": {
                "files": dict(run.broker.policies.source.files),
                "cases": dict(run.broker.policies.source.cases),
                "schema": run.broker.policies.source.schema + "\nentity More;\n",
            }
        },
    }
    before = run.broker.policies.revision, dict(run.broker.directory.agents), dict(run.broker.directory.operators)
    pending = {}
    for what, manifest in widening.items():
        proposed = await run.apply(manifest, admin)
        assert (proposed["status"], proposed["sign_in_links"]) == ("pending", {}), what
        assert proposed["differences"] or "link" in what
        pending[what] = proposed["id"]
        own = await admin.post(f"/api/v1/changes/{proposed['id']}/approve")
        assert own.status_code == 403, what
    after = run.broker.policies.revision, dict(run.broker.directory.agents), dict(run.broker.directory.operators)
    assert after == before
    assert set(pending.values()) <= {c["id"] for c in (await bob.get("/api/v1/changes")).json()["changes"]}
    links: set[str] = set()
    for what in ("a new agent", "reactivation", "a new endpoint", "a new operator"):
        approved = await bob.post(f"/api/v1/changes/{pending[what]}/approve")
        assert approved.json()["status"] == "activated", (what, approved.text)
        record = (await last_records(run, 1))[0]
        assert (record["kind"], record["who"]["agent"]) == ("ChangeActivated", "operator:admin")
        assert record["remedy"]["approved_by"] == "bob"
        links |= set(approved.json()["sign_in_links"])
    assert links == {"mallory"}


async def test_what_narrows_does_not_wait(run: Running, world: dict[str, Any], admin: httpx2.AsyncClient) -> None:
    """Switching off needs one admin, by a manifest as by containment."""
    narrowing: list[dict[str, Any]] = [
        {"agents": {"a": {"status": "suspended"}}},
        {"agents": {AGENT: {"status": "revoked"}}},
        {"attesters": {"platform": {**world["attesters"]["platform"], "status": "disabled"}}},
        {"endpoints": {"stand-in": {**world["endpoints"]["stand-in"], "status": "disabled"}}},
        {"operators": {"eve": {"roles": ["auditor"], "status": "suspended"}}},
    ]
    for manifest in narrowing:
        assert (await run.apply(manifest, admin))["status"] == "activated", manifest
    mixed = {
        "agents": {"stopped": {"status": "active"}},
        "operators": {"bob": {"roles": ["admin"], "status": "suspended"}},
    }
    assert (await run.apply(mixed, admin))["status"] == "pending"


async def test_stopping_the_second_admin_does_not_make_one_enough(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient
) -> None:
    """An admin who suspends the only other one cannot widen access alone afterwards."""
    what = {"section": "operators", "name": "bob", "status": "suspended", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=what)).status_code == 200
    assert (await run.apply({"agents": {"b": AGENT_SPEC}}, admin))["status"] == "pending"
    assert "b" not in run.broker.directory.agents


async def test_a_stale_proposal_is_not_approved(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """What was shown to the second admin is what is activated: anything it touches has changed, and it is 409."""
    ceiling = await run.apply({"agents": {"a": {**AGENT_SPEC, "ceiling": ["stand-in/*"]}}}, admin)
    policy = await run.apply({"policies": {"loose.cedar": LOOSE}}, admin)
    assert (await bob.get(f"/api/v1/changes/{ceiling['id']}")).json()["stale"] is False
    what = {"section": "agents", "name": "a", "status": "suspended", "why": "test"}
    assert (await admin.post("/api/v1/contain", json=what)).status_code == 200
    stale = await bob.post(f"/api/v1/changes/{ceiling['id']}/approve")
    assert stale.status_code == 409
    assert run.broker.directory.agents["a"].status == "suspended"
    assert (await bob.get(f"/api/v1/changes/{ceiling['id']}")).json()["stale"] is True
    other = await run.apply({"policies": {"nightly.cedar": RULE.replace(MODEL, OTHER_MODEL)}}, bob)
    assert (await admin.post(f"/api/v1/changes/{other['id']}/approve")).status_code == 200
    assert (await bob.post(f"/api/v1/changes/{policy['id']}/approve")).status_code == 409
    assert "loose.cedar" not in run.broker.policies.source.files


async def test_a_proposal_that_became_impossible(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """A proposal that would be refused today is refused to its approver, with the reason, and that is recorded."""
    url = "https://new.example/v1"
    first = await run.apply({"endpoints": {"one": {"base_url": url, "models": ["n"]}}}, admin)
    second = await run.apply({"endpoints": {"two": {"base_url": url, "models": ["n"]}}}, admin)
    assert (await bob.post(f"/api/v1/changes/{first['id']}/approve")).status_code == 200
    refused = await bob.post(f"/api/v1/changes/{second['id']}/approve")
    assert refused.status_code == 422
    record = (await last_records(run, 1))[0]
    assert (record["kind"], record["who"]["agent"]) == ("ChangeRefused", "operator:bob")


async def test_the_second_admin_sees_what_is_approved(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """A proposal shows its manifest and its differences before anybody approves it; afterwards who decided."""
    manifest = {"agents": {"a": {**AGENT_SPEC, "ceiling": ["stand-in/*"]}}}
    proposed = await run.apply(manifest, admin)
    shown = (await bob.get(f"/api/v1/changes/{proposed['id']}")).json()
    assert (shown["status"], shown["proposed_by"], shown["decided_by"]) == ("pending", "admin", "")
    assert shown["manifest"] == manifest
    assert shown["differences"] == proposed["differences"]
    assert shown["differences"][0]["before"]["ceiling"] == [f"stand-in/{MODEL}"]
    assert shown["differences"][0]["after"]["ceiling"] == ["stand-in/*"]
    await bob.post(f"/api/v1/changes/{proposed['id']}/approve")
    shown = (await bob.get(f"/api/v1/changes/{proposed['id']}")).json()
    assert (shown["status"], shown["decided_by"], shown["stale"]) == ("activated", "bob", False)
    assert (await bob.get("/api/v1/changes/nothing")).status_code == 404


async def test_a_proposal_is_decided_once(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """Withdrawn, approved or refused: once. Proposed again while it waits: 409; afterwards it may be proposed again."""
    manifest = {"agents": {"b": AGENT_SPEC}}
    proposed = await run.apply(manifest, admin)
    path = f"/api/v1/changes/{proposed['id']}"
    assert (await admin.post("/api/v1/changes", json=manifest)).status_code == 409
    assert (await bob.post("/api/v1/changes", json=manifest)).status_code == 409
    assert (await bob.post(f"{path}/withdraw")).json()["status"] == "withdrawn"
    assert (await last_records(run, 1))[0]["remedy"] == {"change": proposed["id"], "reason": "withdrawn"}
    for verb in ("approve", "withdraw"):
        assert (await bob.post(f"{path}/{verb}")).status_code == 404
    again = await run.apply(manifest, bob)
    assert again["id"] == proposed["id"]
    assert (await bob.post(f"{path}/approve")).status_code == 403
    both = await asyncio.gather(*(admin.post(f"{path}/approve") for _ in range(3)))
    assert sorted(answer.status_code for answer in both)[0] == 200
    assert sorted(answer.status_code for answer in both)[1] in (404, 409)
    activated = [r for r in await last_records(run, 4) if r["kind"] == "ChangeActivated"]
    assert len(activated) == 1


async def test_only_an_admin_approves(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """An auditor can neither propose nor approve nor withdraw nor contain; all of it is recorded."""
    proposed = await run.apply({"operators": {"eve": {"roles": ["auditor"], "new_link": True}}}, admin)
    link = (await bob.post(f"/api/v1/changes/{proposed['id']}/approve")).json()["sign_in_links"]["eve"]
    eve = await run.operator(link=link)
    waiting = await run.apply({"agents": {"b": AGENT_SPEC}}, admin)
    what = {"section": "agents", "name": "a", "status": "suspended", "why": "test"}
    for path, body in (
        ("changes", {"agents": {"c": AGENT_SPEC}}),
        (f"changes/{waiting['id']}/approve", None),
        (f"changes/{waiting['id']}/withdraw", None),
        ("contain", what),
    ):
        assert (await eve.post(f"/api/v1/{path}", json=body)).status_code == 403
    assert (await eve.get(f"/api/v1/changes/{waiting['id']}")).status_code == 200
    assert {record["kind"] for record in await last_records(run, 4)} == {"OperatorRefused"}
    assert {"b", "c"}.isdisjoint(run.broker.directory.agents)


async def test_a_refused_approval_is_recorded(
    run: Running, world: dict[str, Any], admin: httpx2.AsyncClient, bob: httpx2.AsyncClient
) -> None:
    """Who tries to approve an own proposal, or one that waits already, stands in the trail with the reason."""
    proposed = await run.apply({"agents": {"b": AGENT_SPEC}}, admin)
    assert (await admin.post(f"/api/v1/changes/{proposed['id']}/approve")).status_code == 403
    assert (await bob.post("/api/v1/changes", json={"agents": {"b": AGENT_SPEC}})).status_code == 409
    own, twice = await last_records(run, 2)
    assert (own["kind"], own["who"]["agent"], own["remedy"]["reason"]) == (
        "ChangeRefused", "operator:admin", "own_proposal",
    )  # fmt: skip
    assert (twice["kind"], twice["who"]["agent"], twice["remedy"]["reason"]) == (
        "ChangeRefused", "operator:bob", "conflict",
    )  # fmt: skip
