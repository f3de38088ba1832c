"""Two admins: what can widen access waits for the second, what narrows does not."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.build import MODEL, OTHER_MODEL, RULE, Running, thumbprint
from tests.changes.manifests import AGENT_SPEC, EVE, OIDC, widenable
from tests.gateway.world import last_records

pytestmark = pytest.mark.asyncio(loop_scope="module")

KEY = thumbprint(EVE)
LOOSE = '@id("loose") permit (principal == Operator::"eve", action == Action::"read", resource is Broker);'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(shared: Running, ada: httpx2.AsyncClient, ben: httpx2.AsyncClient) -> dict[str, Any]:
    """Two admins, and things that are there to be widened."""
    return await widenable(shared, ada, ben)


async def _agent(shared: Running, ada: httpx2.AsyncClient, ben: httpx2.AsyncClient, name: str) -> None:
    """Registers an agent, by both."""
    proposed = await shared.apply({"agents": {name: AGENT_SPEC}}, ada)
    assert (await ben.post(f"/api/v1/changes/{proposed['id']}/approve")).status_code == 200


async def test_whatever_widens_waits(
    shared: Running, world: dict[str, Any], ada: httpx2.AsyncClient, ben: httpx2.AsyncClient
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
        "another address": {"endpoints": {"stand-in": {**stand_in, "base_url": f"{shared.provider.origin}/v2"}}},
        "a new operator": {"operators": {"mallory": {"roles": ["admin"], "key": KEY}}},
        "another role": {"operators": {"eve": {"roles": ["admin", "auditor"], "key": KEY}}},
        "a new link for somebody else": {"operators": {"ben": {"roles": ["admin"], "new_link": True, "key": KEY}}},
        "a wider rule": {"policies": {"nightly.cedar": RULE.replace(MODEL, OTHER_MODEL)}},
        "a new policy": {"policies": {"loose.cedar": LOOSE}},
        "a file removed": {"policies": {"nightly.cedar": None}},
        "a case removed": {"cases": {"exchange.yaml": None}},
        "another vocabulary": {
            "policy_set": {
                "files": dict(shared.broker.policies.source.files),
                "cases": dict(shared.broker.policies.source.cases),
                "schema": shared.broker.policies.source.schema + "\nentity More;\n",
            }
        },
    }
    before = (
        shared.broker.policies.revision,
        dict(shared.broker.directory.agents),
        dict(shared.broker.directory.operators),
    )
    pending = {}
    for what, manifest in widening.items():
        proposed = await shared.apply(manifest, ada)
        assert (proposed["status"], proposed["sign_in_links"]) == ("pending", {}), what
        assert proposed["differences"]
        pending[what] = proposed["id"]
        own = await ada.post(f"/api/v1/changes/{proposed['id']}/approve")
        assert own.status_code == 403, what
    after = (
        shared.broker.policies.revision,
        dict(shared.broker.directory.agents),
        dict(shared.broker.directory.operators),
    )
    assert after == before
    assert set(pending.values()) <= {c["id"] for c in (await ben.get("/api/v1/changes")).json()["changes"]}
    links: set[str] = set()
    for what in ("a new agent", "reactivation", "a new endpoint", "a new operator"):
        approved = await ben.post(f"/api/v1/changes/{pending[what]}/approve")
        assert approved.json()["status"] == "activated", (what, approved.text)
        (record,) = [r for r in await last_records(shared, 1 + bool("operator" in what)) if r["kind"] != "LinkIssued"]
        assert (record["kind"], record["who"]["agent"]) == ("ChangeActivated", "operator:admin")
        assert record["remedy"]["approved_by"] == "ben"
        links |= set(approved.json()["sign_in_links"])
    assert links == {"mallory"}


async def test_a_stale_proposal_is_not_approved(
    shared: Running, world: dict[str, Any], ada: httpx2.AsyncClient, ben: httpx2.AsyncClient
) -> None:
    """What was shown to the second admin is what is activated: anything it touches has changed, and it is 409."""
    await _agent(shared, ada, ben, "stale")
    ceiling = await shared.apply({"agents": {"stale": {**AGENT_SPEC, "ceiling": ["stand-in/*"]}}}, ada)
    policy = await shared.apply({"policies": {"stale.cedar": LOOSE}}, ada)
    assert (await ben.get(f"/api/v1/changes/{ceiling['id']}")).json()["stale"] is False
    what = {"section": "agents", "name": "stale", "status": "suspended", "why": "test"}
    assert (await ada.post("/api/v1/contain", json=what)).status_code == 200
    stale = await ben.post(f"/api/v1/changes/{ceiling['id']}/approve")
    assert stale.status_code == 409
    assert shared.broker.directory.agents["stale"].status == "suspended"
    assert (await ben.get(f"/api/v1/changes/{ceiling['id']}")).json()["stale"] is True
    other = await shared.apply({"policies": {"nightly.cedar": RULE.replace("team-data", "other")}}, ben)
    assert (await ada.post(f"/api/v1/changes/{other['id']}/approve")).status_code == 200
    assert (await ben.post(f"/api/v1/changes/{policy['id']}/approve")).status_code == 409
    assert "stale.cedar" not in shared.broker.policies.source.files


async def test_a_proposal_that_became_impossible(
    shared: Running, world: dict[str, Any], ada: httpx2.AsyncClient, ben: httpx2.AsyncClient
) -> None:
    """A proposal that would be refused today is refused to its approver, with the reason, and that is recorded."""
    url = "https://new.example/v1"
    first = await shared.apply({"endpoints": {"one": {"base_url": url, "models": ["twice"]}}}, ada)
    second = await shared.apply({"endpoints": {"two": {"base_url": url, "models": ["twice"]}}}, ada)
    assert (await ben.post(f"/api/v1/changes/{first['id']}/approve")).status_code == 200
    refused = await ben.post(f"/api/v1/changes/{second['id']}/approve")
    assert refused.status_code == 422
    record = (await last_records(shared, 1))[0]
    assert (record["kind"], record["who"]["agent"]) == ("ChangeRefused", "operator:ben")


async def test_the_second_admin_sees_what_is_approved(
    shared: Running, world: dict[str, Any], ada: httpx2.AsyncClient, ben: httpx2.AsyncClient
) -> None:
    """A proposal shows its manifest and its differences before anybody approves it; afterwards who decided."""
    await _agent(shared, ada, ben, "seen")
    manifest = {"agents": {"seen": {**AGENT_SPEC, "ceiling": ["stand-in/*"]}}}
    proposed = await shared.apply(manifest, ada)
    shown = (await ben.get(f"/api/v1/changes/{proposed['id']}")).json()
    assert (shown["status"], shown["proposed_by"], shown["decided_by"]) == ("pending", "admin", "")
    assert shown["manifest"] == manifest
    assert shown["differences"] == proposed["differences"]
    assert shown["differences"][0]["before"]["ceiling"] == [f"stand-in/{MODEL}"]
    assert shown["differences"][0]["after"]["ceiling"] == ["stand-in/*"]
    await ben.post(f"/api/v1/changes/{proposed['id']}/approve")
    shown = (await ben.get(f"/api/v1/changes/{proposed['id']}")).json()
    assert (shown["status"], shown["decided_by"], shown["stale"]) == ("activated", "ben", False)
    assert (await ben.get("/api/v1/changes/nothing")).status_code == 404


async def test_a_proposal_is_decided_once(
    shared: Running, world: dict[str, Any], ada: httpx2.AsyncClient, ben: httpx2.AsyncClient
) -> None:
    """Withdrawn, approved or refused: once. Proposed again while it waits: 409; afterwards it may be proposed again."""
    manifest = {"agents": {"once": AGENT_SPEC}}
    proposed = await shared.apply(manifest, ada)
    path = f"/api/v1/changes/{proposed['id']}"
    assert (await ada.post("/api/v1/changes", json=manifest)).status_code == 409
    assert (await ben.post("/api/v1/changes", json=manifest)).status_code == 409
    assert (await ben.post(f"{path}/withdraw")).json()["status"] == "withdrawn"
    assert (await last_records(shared, 1))[0]["remedy"] == {"change": proposed["id"], "reason": "withdrawn"}
    for verb in ("approve", "withdraw"):
        assert (await ben.post(f"{path}/{verb}")).status_code == 404
    again = await shared.apply(manifest, ben)
    assert again["id"] == proposed["id"]
    assert (await ben.post(f"{path}/approve")).status_code == 403
    both = await asyncio.gather(*(ada.post(f"{path}/approve") for _ in range(3)))
    assert sorted(answer.status_code for answer in both)[0] == 200
    assert sorted(answer.status_code for answer in both)[1] in (404, 409)
    activated = [r for r in await last_records(shared, 4) if r["kind"] == "ChangeActivated"]
    assert len(activated) == 1


async def test_only_an_admin_approves(
    shared: Running, world: dict[str, Any], ada: httpx2.AsyncClient, ben: httpx2.AsyncClient
) -> None:
    """An auditor can neither propose nor approve nor withdraw nor contain; all of it is recorded."""
    proposed = await shared.apply({"operators": {"eve": {"roles": ["auditor"], "new_link": True, "key": KEY}}}, ada)
    link = (await ben.post(f"/api/v1/changes/{proposed['id']}/approve")).json()["sign_in_links"]["eve"]
    eve = await shared.operator(link=link, key=EVE)
    waiting = await shared.apply({"agents": {"waiting": AGENT_SPEC}}, ada)
    what = {"section": "agents", "name": "a", "status": "suspended", "why": "test"}
    for path, body in (
        ("changes", {"agents": {"never": AGENT_SPEC}}),
        (f"changes/{waiting['id']}/approve", None),
        (f"changes/{waiting['id']}/withdraw", None),
        ("contain", what),
    ):
        assert (await eve.post(f"/api/v1/{path}", json=body)).status_code == 403
    assert (await eve.get(f"/api/v1/changes/{waiting['id']}")).status_code == 200
    assert {record["kind"] for record in await last_records(shared, 4)} == {"OperatorRefused"}
    assert {"waiting", "never"}.isdisjoint(shared.broker.directory.agents)


async def test_a_refused_approval_is_recorded(
    shared: Running, world: dict[str, Any], ada: httpx2.AsyncClient, ben: httpx2.AsyncClient
) -> None:
    """Who tries to approve an own proposal, or one that waits already, stands in the trail with the reason."""
    proposed = await shared.apply({"agents": {"refused": AGENT_SPEC}}, ada)
    assert (await ada.post(f"/api/v1/changes/{proposed['id']}/approve")).status_code == 403
    assert (await ben.post("/api/v1/changes", json={"agents": {"refused": AGENT_SPEC}})).status_code == 409
    own, twice = await last_records(shared, 2)
    assert (own["kind"], own["who"]["agent"], own["remedy"]["reason"]) == (
        "ChangeRefused", "operator:admin", "own_proposal",
    )  # fmt: skip
    assert (twice["kind"], twice["who"]["agent"], twice["remedy"]["reason"]) == (
        "ChangeRefused", "operator:ben", "conflict",
    )  # fmt: skip
