"""One admin's changes over real HTTP: shown, taken whole or not at all, recorded, in force at once."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from tests.build import AGENT, MODEL, OTHER_MODEL, RULE, Running, token_request
from tests.changes.manifests import AGENT_SPEC, everything, propose
from tests.gateway.world import last_records

CHAT = "/openai/v1/chat/completions"


async def test_a_dry_run_changes_nothing(run: Running, admin: httpx2.AsyncClient) -> None:
    """A dry run shows the differences and leaves neither a change nor a record of one, refused ones included."""
    before, size = await everything(admin), run.broker.audit.size
    world = {**run.world(), "operators": {"eve": {"roles": ["admin"]}}, "agents": {"a": AGENT_SPEC}}
    shown = (await propose(admin, world, dry_run="true")).json()
    assert shown["status"] == "checked"
    assert (shown["record"], shown["sign_in_links"]) == (None, {})
    assert {(d["section"], d["name"]) for d in shown["differences"]} == {
        ("attesters", "platform"), ("endpoints", "stand-in"), ("operators", "eve"), ("agents", "a"),
        ("policies", "nightly.cedar"),
    }  # fmt: skip
    assert (await propose(admin, {"policies": {"x.cedar": "permit"}}, dry_run="true")).status_code == 422
    assert await everything(admin) == before
    assert run.broker.audit.size == size


async def test_a_manifest_is_idempotent(run: Running, admin: httpx2.AsyncClient) -> None:
    """The same manifest again changes nothing, says so, and leaves no record."""
    world = {**run.world(), "agents": {"a": AGENT_SPEC}, "operators": {"eve": {"roles": ["auditor"]}}}
    first = (await propose(admin, world)).json()
    size = run.broker.audit.size
    again = (await propose(admin, world)).json()
    assert (first["status"], again["status"]) == ("activated", "unchanged")
    assert (again["differences"], again["sign_in_links"], again["record"]) == ([], {}, None)
    assert run.broker.audit.size == size


async def test_a_manifest_is_taken_whole_or_not_at_all(run: Running, admin: httpx2.AsyncClient) -> None:
    """One bad item among good ones leaves everything as it was."""
    before = await everything(admin)
    world = {**run.world(), "agents": {"a": AGENT_SPEC, "b": {**AGENT_SPEC, "ceiling": ["everything"]}}}
    refused = await propose(admin, world)
    assert refused.status_code == 422
    assert "agent b: `ceiling`" in refused.json()["detail"]
    assert await everything(admin) == before


async def test_what_is_not_mentioned_stays(run: Running, admin: httpx2.AsyncClient) -> None:
    """A manifest of one thing touches that thing alone; null removes a file."""
    await run.apply(run.world(), admin)
    await run.apply({"policies": {"more.cedar": RULE.replace("nightly-job", "more").replace("job-7", "job-9")}}, admin)
    policies = (await admin.get("/api/v1/policies/active")).json()
    assert {"nightly.cedar", "more.cedar", "operators.cedar"} <= set(policies["files"])
    await run.apply({"policies": {"more.cedar": None}}, admin)
    policies = (await admin.get("/api/v1/policies/active")).json()
    assert "more.cedar" not in policies["files"]
    assert "nightly.cedar" in policies["files"]
    assert (await admin.get("/api/v1/endpoints")).json()["endpoints"][0]["name"] == "stand-in"


async def test_describing_again_gives_no_rights_back(run: Running, admin: httpx2.AsyncClient) -> None:
    """A manifest applied again, as a pipeline does, leaves stopped what was stopped; `status` gives rights back."""
    world = {**run.world(), "agents": {"a": AGENT_SPEC}, "operators": {"eve": {"roles": ["auditor"]}}}
    await run.apply(world, admin)
    for section, name, status in (
        ("agents", "a", "revoked"),
        ("attesters", "platform", "disabled"),
        ("endpoints", "stand-in", "disabled"),
        ("operators", "eve", "suspended"),
    ):
        body = {"section": section, "name": name, "status": status, "why": "a test"}
        assert (await admin.post("/api/v1/contain", json=body)).json()["status"] == "activated"
    assert (await propose(admin, world)).json()["status"] == "unchanged"
    await run.apply({"endpoints": {"stand-in": {**world["endpoints"]["stand-in"], "models": [MODEL]}}}, admin)
    assert run.broker.gateway.catalogue.endpoints["stand-in"].status == "disabled"
    weaker = {"section": "agents", "name": "a", "status": "suspended", "why": "a test"}
    assert (await admin.post("/api/v1/contain", json=weaker)).status_code == 422
    await run.apply({"agents": {"a": {"status": "active"}}}, admin)
    assert run.broker.directory.agents["a"].status == "active"


async def test_case_files_have_plain_names(run: Running, admin: httpx2.AsyncClient) -> None:
    """A case file's name can lead nowhere: what is stored may be written to a folder later."""
    refused = await propose(admin, {"cases": {"../../x.yaml": "[]"}})
    assert refused.status_code == 422
    assert "name case files" in refused.json()["detail"]


async def test_rollback_is_the_same_act(run: Running, admin: httpx2.AsyncClient) -> None:
    """A set that was in force comes back by its texts: same hash, one more revision, and decisions follow at once."""
    await run.apply(run.world(), admin)
    before = (await admin.get("/api/v1/policies/active")).json()
    wider = RULE.replace("stand-in/stand-in-small", "stand-in/*")
    cases = {"mine.yaml": None}
    await run.apply({"policies": {"nightly.cedar": wider}}, admin)
    agent = await run.agent()
    body = {"model": OTHER_MODEL, "messages": [{"role": "user", "content": "x"}]}
    assert (await agent.post(CHAT, json=body)).status_code == 200
    texts = {"schema": before["schema"], "files": before["files"], "cases": before["cases"] | cases}
    await run.apply({"policy_set": texts}, admin)
    assert (await agent.post(CHAT, json=body)).status_code == 403
    shown = (await admin.get("/api/v1/policies")).json()
    assert shown["hash"] == before["hash"]
    assert shown["revision"] == 4
    assert before["hash"] in {version["hash"] for version in shown["versions"]}


async def test_agents_follow_their_rule(run: Running, admin: httpx2.AsyncClient) -> None:
    """A changed rule changes the agents that it made at once; one that is gone leaves them nothing to call."""
    await run.apply(run.world(), admin)
    agent = await run.agent()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    assert (await agent.post(CHAT, json=body)).status_code == 200
    moved = RULE.replace("team-data", "team-new").replace(MODEL, OTHER_MODEL)
    await run.apply({"policies": {"nightly.cedar": moved}}, admin)
    shown = (await admin.get(f"/api/v1/agents/{AGENT}")).json()
    assert (shown["owner"], shown["ceiling"]) == ("team-new", [f"stand-in/{OTHER_MODEL}"])
    assert (await agent.post(CHAT, json=body)).status_code == 403
    assert (await agent.post(CHAT, json={**body, "model": OTHER_MODEL})).status_code == 200
    await run.apply({"policies": {"nightly.cedar": None}}, admin)
    assert (await admin.get(f"/api/v1/agents/{AGENT}")).json()["ceiling"] == []
    assert (await agent.post(CHAT, json={**body, "model": OTHER_MODEL})).status_code == 403
    assert (await token_request(run)).status_code == 400


async def test_a_rules_agent_is_the_rules(run: Running, admin: httpx2.AsyncClient) -> None:
    """Owner, purpose and ceiling of an agent that a rule made cannot be set beside the rule; its status can."""
    await run.apply(run.world(), admin)
    await token_request(run)
    wider = {"owner": "team-data", "purpose": "summaries", "ceiling": ["stand-in/*"]}
    refused = await propose(admin, {"agents": {AGENT: wider}})
    assert refused.status_code == 422
    assert "nightly-job" in refused.json()["detail"]
    done = await run.apply({"agents": {AGENT: {"status": "suspended"}}}, admin)
    assert done["differences"][0]["after"]["status"] == "suspended"
    unknown = await propose(admin, {"agents": {"nobody": {"status": "active"}}})
    assert "agent nobody: it is not known" in unknown.json()["detail"]


async def test_one_reading_of_each_name(run: Running, admin: httpx2.AsyncClient) -> None:
    """Two active endpoints never offer one model, and two attesters never share an issuer."""
    world = run.world()
    await run.apply(world, admin)
    twin = {**world["endpoints"]["stand-in"], "models": ["another", MODEL]}
    refused = await propose(admin, {"endpoints": {"twin": twin}})
    assert refused.status_code == 422
    assert f"endpoint twin: the model {MODEL} is offered by stand-in already" in refused.json()["detail"]
    assert (await propose(admin, {"endpoints": {"twin": {**twin, "status": "disabled"}}})).status_code == 200
    assert (await propose(admin, {"endpoints": {"twin": {**twin, "status": "active"}}})).status_code == 422
    refused = await propose(admin, {"attesters": {"twin": world["attesters"]["platform"]}})
    assert "is the attester platform already" in refused.json()["detail"]
    refused = await propose(admin, {"attesters": {"twin": {"kind": "key"}}})
    assert "registered keys is the attester registered-keys already" in refused.json()["detail"]


async def test_a_link_is_shown_once(run: Running, admin: httpx2.AsyncClient) -> None:
    """A new operator's link comes with the answer that made it, works once, and is never shown again."""
    added = await run.apply({"operators": {"eve": {"roles": ["auditor"]}}}, admin)
    link = added["sign_in_links"]["eve"]
    assert link.startswith(f"{run.url}/login#")
    code = link.partition("#")[2]
    operators = (await admin.get("/api/v1/operators")).text
    assert code not in operators + (await admin.get("/api/v1/audit/records")).text
    eve = await run.operator(link=link)
    assert (await eve.get("/api/v1/whoami")).json() == {
        "name": "eve",
        "client_id": "operator:eve",
        "roles": ["auditor"],
    }
    with pytest.raises(AssertionError, match="unknown, used or too old"):
        await run.operator(link=link)
    again = await run.apply({"operators": {"eve": {"roles": ["auditor"], "new_link": True}}}, admin)
    assert again["sign_in_links"]["eve"] != link
    assert (await eve.get("/api/v1/whoami")).status_code == 200


@pytest.mark.parametrize(
    ("section", "name", "status"),
    [
        ("agents", AGENT, "suspended"),
        ("agents", AGENT, "revoked"),
        ("attesters", "platform", "disabled"),
        ("endpoints", "stand-in", "disabled"),
        ("operators", "eve", "suspended"),
    ],
)
async def test_containing_takes_effect_at_once(
    run: Running, admin: httpx2.AsyncClient, section: str, name: str, status: str
) -> None:
    """One admin stops one thing, with a reason: what it did stops, and stays stopped when state is read anew."""
    added = await run.apply({**run.world(), "operators": {"eve": {"roles": ["admin"]}}}, admin)
    eve = await run.operator(link=added["sign_in_links"]["eve"])
    agent = await run.agent()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    assert (await agent.post(CHAT, json=body)).status_code == 200
    assert (await eve.get("/api/v1/whoami")).status_code == 200
    what = {"section": section, "name": name, "status": status, "why": "an odd volume"}
    done = (await admin.post("/api/v1/contain", json=what)).json()
    assert done["status"] == "activated"
    assert done["differences"][0]["after"]["status"] == status
    record = (await last_records(run, 1))[0]
    assert (record["kind"], record["remedy"]["why"]) == ("AgentContained", "an odd volume")
    assert (await eve.get("/api/v1/whoami")).status_code == (403 if section == "operators" else 200)
    call = (await agent.post(CHAT, json=body)).status_code
    assert call == {"agents": 403, "endpoints": 404}.get(section, 200)
    exchanged = (await token_request(run)).status_code
    assert exchanged == (400 if section in ("agents", "attesters") else 200)
    run.broker.directory.reload()
    run.broker.gateway.catalogue.reload()
    assert (await agent.post(CHAT, json=body)).status_code == call
    again = (await admin.post("/api/v1/contain", json=what)).json()
    assert (again["status"], again["record"]) == ("unchanged", None)


async def test_a_change_is_recorded_before_it_is_answered(run: Running, admin: httpx2.AsyncClient) -> None:
    """The record names who changed what, from which set to which, without the texts of whole files."""
    done = await run.apply(run.world(), admin)
    record = (await last_records(run, 1))[0]
    assert record["kind"] == "ChangeActivated"
    assert record["who"] == {"agent": "operator:admin", "roles": ["admin", "auditor"]}
    assert record["remedy"]["change"] == done["id"]
    assert record["remedy"]["set"] == run.broker.policies.current.hash
    assert record["remedy"]["cases"] > 0
    assert sorted(f"{d['section']}/{d['name']}" for d in record["remedy"]["differences"]) == [
        "attesters/platform", "endpoints/stand-in", "policies/nightly.cedar",
    ]  # fmt: skip


async def test_concurrent_changes_lose_nothing(run: Running, admin: httpx2.AsyncClient) -> None:
    """Of changes made at once, each is in force whole or was refused with 409; none is silently overwritten."""
    await run.apply(run.world(), admin)
    rules = {f"r{n}.cedar": RULE.replace("nightly-job", f"r{n}").replace("job-7", f"job-r{n}") for n in range(6)}
    answers = await asyncio.gather(*(propose(admin, {"policies": {name: text}}) for name, text in rules.items()))
    assert {answer.status_code for answer in answers} <= {200, 409}
    taken = {name for name, answer in zip(rules, answers, strict=True) if answer.status_code == 200}
    files = (await admin.get("/api/v1/policies/active")).json()["files"]
    assert taken
    assert taken == set(rules) & set(files)
    assert (await run.kinds()).count("ChangeActivated") == 2 + len(taken)
