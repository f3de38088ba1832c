"""One interval of load on one process, and what it cost that process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.load import Driven, callers
from tests.bench.processes import cpu_s

_SETTLE_S = 0.7
"""The broker integrates its log twice a second: what a request leaves behind is counted with it."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What so many requests came to, and the CPU microseconds of the serving process for each."""

    driven: Driven
    cpu_us: float


async def interval(pid: int, port: int, requests: Sequence[bytes], count: int, *, works_on: bool = True) -> Interval:
    """Drives requests at a process from `count` callers, and counts its CPU until all of their work is done.

    Args:
        pid, port: the process.
        requests: what it is sent.
        count: from so many callers.
        works_on: whether it has work left when it has answered; it is given the time for it then.
    """
    async with callers(port, count) as line:
        before = cpu_s(pid)
        driven = await line.drive(requests)
        if works_on:
            await asyncio.sleep(_SETTLE_S)
        spent = cpu_s(pid) - before
    return Interval(driven, spent / len(requests) * 1e6)
