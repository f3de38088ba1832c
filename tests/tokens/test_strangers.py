"""Workloads that their platform vouches for and no rule knows: they may be the whole world."""

from __future__ import annotations

from pathlib import Path

from broker.audit.refusals import ALLOWED_A_MINUTE
from tests.build import running, token_request
from tests.fakes import FakeClock


async def test_workloads_that_no_rule_knows_cannot_fill_the_disk(tmp_path: Path) -> None:
    """So many refusals a minute are recorded singly, the rest are counted; an enrolled agent is recorded always."""
    clock = FakeClock()
    async with running(tmp_path, clock=clock) as run:
        await run.apply(run.world())
        before = (await run.kinds()).count("TokenRefused")
        for n in range(ALLOWED_A_MINUTE + 10):
            assert (await token_request(run, evidence=run.evidence(f"stranger-{n}"))).status_code == 400
        assert (await run.kinds()).count("TokenRefused") - before == ALLOWED_A_MINUTE
        assert (await token_request(run, resource="https://elsewhere.example")).status_code == 400
        assert (await run.kinds())[-1] == "TokenRefused"
        clock.advance(60)
        assert (await token_request(run, evidence=run.evidence("stranger-x"))).status_code == 400
        assert (await run.kinds()).count("TokenRefused") - before == ALLOWED_A_MINUTE + 2
        counted = [e for e in run.broker.refusals.drain(clock.now()) if (e.decision or {})["reason"] == "not_enrolled"]
        assert [(e.request or {})["count"] for e in counted] == [10]


async def test_a_refusal_says_which_policies_refused(tmp_path: Path) -> None:
    """The record of a refused exchange holds the decision: its policies, its inputs, and the set that decided."""
    async with running(tmp_path) as run:
        admin = await run.operator()
        await run.apply(run.world(), admin)
        await token_request(run)
        stop = {"section": "agents", "name": "nightly", "status": "suspended", "why": "a test"}
        await admin.post("/api/v1/contain", json=stop)
        assert (await token_request(run)).status_code == 400
        found = (await admin.get("/api/v1/audit/records", params={"kind": "TokenRefused"})).json()["records"][0]
        decision = found["groups"]["decision"]
        assert decision["policies"] == ["inactive-agents-exchange"]
        assert decision["limited_by"] == "policy"
        assert decision["inputs"]["confirmation"] == "dpop"
