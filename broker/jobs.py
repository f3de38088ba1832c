"""Periodic work: integrate the tree, write counted refusals, settle what is owed, prune, let keys follow each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from broker.assembly import Broker
from broker.audit.log import Step
from broker.db import claims

log = logging.getLogger(__name__)

Job = Callable[[Broker], Awaitable[None]]

_EVENTS_A_STEP = 128
"""Records prepared in one go on the loop."""

_BETWEEN_PRUNES_S = 0.1
"""Leaves the write lock to the writer of records for a while."""


async def integrate(broker: Broker) -> None:
    """Brings the tree and its checkpoint up to the durable entries."""
    await asyncio.to_thread(broker.tree.integrate)


async def settle(broker: Broker) -> None:
    """Records the ends that could not be recorded in time, and wins the disk reserve back."""
    await broker.audit.settle_owed()


async def write_refusals(broker: Broker) -> None:
    """Records the refusals of strangers, counted by minute; not while what room is left is for the ends of calls."""
    if broker.audit.winding_down or broker.audit.owed:
        return
    events = broker.refusals.drain(broker.clock.now())
    for start in range(0, len(events), _EVENTS_A_STEP):
        await broker.audit.close_later(Step(tuple(events[start : start + _EVENTS_A_STEP])))


async def prune(broker: Broker) -> None:
    """Deletes claims and instances that have ended, and forgets ended tokens; their records stay."""
    now = broker.clock.now()
    pruned = 1
    while pruned:
        pruned = await asyncio.to_thread(claims.prune, broker.engine, now)
        await asyncio.sleep(_BETWEEN_PRUNES_S)
    broker.verifier.forget(now)
    broker.instances.forget(now)
    await asyncio.to_thread(broker.instances.prune, now)


async def rotate_keys(broker: Broker) -> None:
    """Does what is due in the lives of the broker's own keys."""
    await broker.signing_keys.advance()
    await broker.log_rotation.advance()


SCHEDULE: tuple[tuple[float, Job], ...] = (
    (0.5, integrate),
    (1.0, settle),
    (5.0, write_refusals),
    (30.0, rotate_keys),
    (60.0, prune),
)
"""Every job with its period in seconds."""


@asynccontextmanager
async def running(broker: Broker) -> AsyncIterator[None]:
    """Runs every job until the block ends. A job that fails is logged and tried again in its next turn."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_repeat(broker, period, job)) for period, job in SCHEDULE]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def _repeat(broker: Broker, period_s: float, job: Job) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            await job(broker)
        except Exception:
            log.exception("the job %s failed; it is tried again", job.__name__)
