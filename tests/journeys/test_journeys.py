"""The four journeys of the design over real HTTP, each ending with the whole log re-verified from its public bytes."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx2
import openai
import pytest

from broker.audit.trail import verify_bundle
from broker.client import BrokerAuth
from broker.errors import VerificationFailed
from broker.formats.note import NoteVerifier
from tests.build import AGENT, MODEL, OTHER_MODEL, RULE, es256, running, thumbprint, token_request


async def test_a_evidence_becomes_a_bound_token(tmp_path: Path) -> None:
    """Journey A: a platform's token becomes a short-lived token bound to the agent's key, recorded before release."""
    async with running(tmp_path) as run:
        await run.apply(run.world())
        key = es256()
        answer = await token_request(run, key=key)
        assert answer.status_code == 200
        assert answer.json()["token_type"] == "DPoP"
        assert answer.json()["expires_in"] <= 600
        live = run.broker.instances.of(AGENT)
        assert [instance.thumbprint for instance in live] == [thumbprint(key)]
        assert (await run.kinds())[-2:] == ["AgentEnrolled", "TokenIssued"]
        await run.check_log()


async def test_b_a_model_call_through_the_plain_sdk(tmp_path: Path) -> None:
    """Journey B: the unmodified SDK calls a model, streamed and not; the provider sees its own key, never the token."""
    async with running(tmp_path) as run:
        await run.apply(run.world())
        auth = BrokerAuth(run.url, run.evidence, clock=run.clock)
        async with openai.AsyncOpenAI(
            base_url=f"{run.url}/openai/v1", api_key="unused", http_client=httpx2.AsyncClient(auth=auth), max_retries=0
        ) as client:
            whole = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "one two"}])
            assert (whole.choices[0].message.content or "").strip() == "one two"
            stream = await client.chat.completions.create(
                model=MODEL, messages=[{"role": "user", "content": "one two"}], stream=True
            )
            pieces = [c.choices[0].delta.content or "" async for c in stream if c.choices]
            assert "".join(pieces).strip() == "one two"
            assert len(pieces) > 1
            with pytest.raises(openai.PermissionDeniedError, match="outside-ceiling"):
                await client.chat.completions.create(model=OTHER_MODEL, messages=[])
        for received in run.provider.received:
            assert received.headers["authorization"] == f"Bearer {run.provider.key}"
            assert "dpop" not in received.headers
        assert (await run.kinds())[-5:] == [
            "CallAdmitted",
            "CallCompleted",
            "CallAdmitted",
            "CallCompleted",
            "CallRefused",
        ]
        await run.check_log()


async def test_c_a_policy_change_is_safe(tmp_path: Path) -> None:
    """Journey C: a set that breaks a case is refused, a good one decides at once, and rolling back is the same act."""
    wider = RULE.replace("stand-in/stand-in-small", "stand-in/*")
    async with running(tmp_path) as run:
        admin = await run.operator()
        await run.apply(run.world(), admin)
        before = (await admin.get("/api/v1/policies/active")).json()
        agent = await run.agent()
        body = {"model": OTHER_MODEL, "messages": [{"role": "user", "content": "hi"}]}
        assert (await agent.post("/openai/v1/chat/completions", json=body)).status_code == 403
        broken = before["files"]["models.cedar"].replace('unless { principal.status == "active" }', "when { false }")
        refused = await admin.post("/api/v1/changes", json={"policies": {"models.cedar": broken}})
        assert refused.status_code == 422
        assert "cases fail" in refused.json()["detail"]
        assert run.broker.policies.current.hash == before["hash"]
        await run.apply({"policies": {"nightly.cedar": wider}}, admin)
        assert (await agent.post("/openai/v1/chat/completions", json=body)).status_code == 200
        rollback = {"policy_set": {"schema": before["schema"], "files": before["files"], "cases": before["cases"]}}
        await run.apply(rollback, admin)
        assert run.broker.policies.current.hash == before["hash"]
        assert (await agent.post("/openai/v1/chat/completions", json=body)).status_code == 403
        assert "ChangeRefused" in await run.kinds()
        await run.check_log()


async def test_c_two_admins_approve_each_other(tmp_path: Path) -> None:
    """Once there are two admins, what widens access waits for the second; what narrows does not."""
    async with running(tmp_path) as run:
        admin = await run.operator()
        await run.apply(run.world(), admin)
        added = await run.apply({"operators": {"bob": {"roles": ["admin"]}}}, admin)
        bob = await run.operator(link=added["sign_in_links"]["bob"])
        wider = {"policies": {"nightly.cedar": RULE.replace("stand-in/stand-in-small", "stand-in/*")}}
        proposed = await run.apply(wider, admin)
        assert proposed["status"] == "pending"
        own = await admin.post(f"/api/v1/changes/{proposed['id']}/approve")
        assert own.status_code == 403
        approved = await bob.post(f"/api/v1/changes/{proposed['id']}/approve")
        assert approved.json()["status"] == "activated"
        again = await bob.post(f"/api/v1/changes/{proposed['id']}/approve")
        assert again.status_code == 404
        await token_request(run)
        narrowed = await admin.post(
            "/api/v1/contain", json={"section": "agents", "name": AGENT, "status": "suspended", "why": "test"}
        )
        assert narrowed.json()["status"] == "activated"
        assert (await token_request(run)).status_code == 400
        await run.check_log()


async def test_d_an_auditor_verifies_offline(tmp_path: Path) -> None:
    """Journey D: the auditor's file verifies under the pinned key alone, and any flipped byte in it is noticed."""
    async with running(tmp_path) as run:
        admin = await run.operator()
        await run.apply(run.world(), admin)
        agent = await run.agent()
        await agent.post("/openai/v1/chat/completions", json={"model": OTHER_MODEL, "messages": []})
        await asyncio.to_thread(run.broker.tree.integrate)
        found = (await admin.get("/api/v1/audit/records", params={"kind": "CallRefused"})).json()["records"]
        bundle = (await admin.get(f"/api/v1/audit/records/{found[0]['index']}/bundle")).content
        pinned = NoteVerifier.parse(run.broker.log_key)
        proved = verify_bundle(bundle, pinned)
        assert proved.groups["decision"]["limited_by"] == "ceiling"
        assert proved.groups["what"]["model"] == f"stand-in/{OTHER_MODEL}"
        place = bundle.index(b"outside-ceiling")
        with pytest.raises(VerificationFailed):
            verify_bundle(bundle[:place] + b"inside--ceiling" + bundle[place + 15 :], pinned)
        await run.check_log()
