"""Whether the broker's memory stays flat under steady load.

The pace is the same before and during what is measured. Before lasts longer than the broker must remember any proof and
any token: only then are as many forgotten as come. So that this takes no six minutes, tokens and proofs are given
shorter lives than they have by default; `FULL=1` leaves them as they are.
"""

from __future__ import annotations

import asyncio
import time
from itertools import count
from statistics import median

from tests.bench import fleet
from tests.bench.installation import Installation, installed, token_of
from tests.bench.load import callers
from tests.bench.plan import Plan
from tests.bench.processes import rss_bytes
from tests.bench.results import Result

CALLERS = 16
AIM_PERCENT = 5.0
REQUESTS = 20_000
REQUESTS_FULL = 100_000
WARM_UP_S, SHORT_LIVES = 80.0, "[tokens]\nlifetime_s = 60\ndpop_window_s = 10"
"""A proof is remembered for its window and a margin of 60 s, a token until it ends."""

WARM_UP_FULL_S = 310.0
"""By default a token lives 300 s, and a proof is remembered for 120."""

_BEAT_S = 2.0
_SAMPLES = 8
_MIB = 1024 * 1024


async def run(plan: Plan) -> list[Result]:
    """Half exchanges, half calls, those streamed and whole by turns."""
    wanted = REQUESTS_FULL if plan.full else REQUESTS
    warm_up_s = WARM_UP_FULL_S if plan.full else WARM_UP_S
    with installed(more="" if plan.full else SHORT_LIVES) as broker:
        begun_mib = rss_bytes(broker.pid) / _MIB
        samples_mib: list[float] = []
        warm, warm_until, sent = 0, time.monotonic() + warm_up_s, 0
        for beat in count():
            ends = time.monotonic() + _BEAT_S
            sent += await _beat(broker, fleet.CALLS[beat % len(fleet.CALLS)])
            samples_mib.append(rss_bytes(broker.pid) / _MIB)
            late_s = max(0.0, time.monotonic() - ends)
            await asyncio.sleep(max(0.0, ends - time.monotonic()))
            if not warm and time.monotonic() >= warm_until:
                warm, sent = len(samples_mib), 0
            if beat % 15 == 14:
                plan.say(f"memory: {samples_mib[-1]:.1f} MiB{' (warm)' if warm else ''}, {late_s:.1f} s behind")
            if warm and sent >= wanted:
                break
        broker.stop_and_count()
    before, after = median(samples_mib[warm - _SAMPLES : warm]), median(samples_mib[-_SAMPLES:])
    measured = samples_mib[warm:]
    plan.say(
        f"memory: {begun_mib:.1f} MiB at the start, {before:.1f} when warm, {after:.1f} after {sent:,} requests more "
        f"({min(measured):.1f} to {max(measured):.1f} on the way), {sent / (len(measured) * _BEAT_S):.0f} a second"
    )
    return [
        Result("memory.growth_percent", (after - before) / before * 100, "%", "lower", aim=AIM_PERCENT),
        Result("memory.rss_mib", after, "MiB", "lower"),
    ]


async def _beat(broker: Installation, kind: str) -> int:
    """Every instance renews its token and calls with it; returns the number of requests."""
    each = len(broker.fleet.instances)
    async with callers(broker.port, CALLERS) as line:
        renewed = await line.drive(broker.fleet.exchanges(each, again=True), keep=True)
        tokens = [token_of(renewed.bodies[place]) for place in range(each)]
        await line.drive(broker.fleet.calls(each, tokens, kind))
    broker.answered.update(exchange=each, call=each)
    return 2 * each
