"""Verified tokens are remembered to their end and no longer."""

from __future__ import annotations

from pathlib import Path

from broker import jobs
from tests.build import MODEL, running
from tests.fakes import FakeClock
from tests.gateway.world import by_hand


async def test_ended_tokens_are_forgotten(tmp_path: Path) -> None:
    """At its end, and not a second before, a token leaves the memory with the next pruning."""
    clock = FakeClock()
    async with running(tmp_path, clock=clock) as run:
        await run.apply(run.world())
        caller = await by_hand(run)
        assert (await caller.post({"model": MODEL})).status_code == 200
        kept = len(run.broker.verifier)
        assert kept
        clock.advance(run.broker.rules.lifetime_s - 1)
        await jobs.prune(run.broker)
        assert len(run.broker.verifier) == kept
        clock.advance(1)
        await jobs.prune(run.broker)
        assert len(run.broker.verifier) == 0
