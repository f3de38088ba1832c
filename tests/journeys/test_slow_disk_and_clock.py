"""A disk that takes its time, and a clock that is put back: requests go on, and the log stays one history."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path

import pytest

from broker.audit import trail
from broker.audit.disclosure import WHOLE
from broker.audit.events import Kind
from tests.build import running, token_request
from tests.fakes import FakeClock
from tests.faults import until


async def test_a_slow_fsync_of_the_checkpoint_holds_up_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is published before it is on the disk, and what is recorded meanwhile is covered by the next one."""
    entered, go_on = threading.Event(), threading.Event()
    sync = os.fsync

    def slow(file: int) -> None:
        entered.set()
        assert go_on.wait(20)
        sync(file)

    async with running(tmp_path) as run:
        await run.apply(run.world())
        await run.check_log()
        head = run.broker.tree.head()
        assert (await token_request(run)).status_code == 200
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", slow)
            integrating = asyncio.create_task(asyncio.to_thread(run.broker.tree.integrate))
            await until(entered.is_set)
            assert (await token_request(run)).status_code == 200
            assert run.broker.tree.head() == head
            go_on.set()
            await integrating
        assert run.broker.tree.head() != head
        await run.check_log()


async def test_a_clock_that_jumps_back_moves_no_record(tmp_path: Path) -> None:
    """Order is the index: numbers stay dense, the tree goes on, and so does the next start at the earlier time."""
    clock = FakeClock()
    async with running(tmp_path, clock=clock) as run:
        await run.apply(run.world())
        assert (await token_request(run)).status_code == 200
        await run.check_log()
        kept = run.checkpoint
        clock.jump(-7200)
        assert (await token_request(run)).status_code == 200
        query = trail.Query(kind=Kind.TOKEN_ISSUED, oldest_first=True)
        issued = await run.broker.read(lambda session: trail.search(session, query, WHOLE))
        assert issued[-1]["at_ms"] < issued[-2]["at_ms"] - 7_000_000
        assert issued[-1]["index"] > issued[-2]["index"]
        await run.check_log()
    async with running(tmp_path, clock=clock) as again:
        again.checkpoint = kept
        await again.check_log()
