"""`python -m tests.bench`: measures, prints the table, writes `bench-results.json`.

`ONLY=exchange,call` runs some groups alone; `ONLY=profile` prints where the time goes; `FULL=1` takes the long way. An
aim that is missed is a figure like any other; the exit code is 1 when the run itself failed, 2 when there is no such
group.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn

import uvloop

from tests.bench import audit, call, exchange, machine, memory, policy, profile, results
from tests.bench.plan import Plan
from tests.bench.results import Result

Group = Callable[[Plan], Awaitable[list[Result]]]

GROUPS: Mapping[str, Group] = {
    "exchange": exchange.run,
    "call": call.run,
    "policy": policy.run,
    "audit": audit.run,
    "memory": memory.run,
    "profile": profile.run,
}
ONLY_WHEN_ASKED = frozenset({"profile"})


def main() -> int:
    """Runs what the environment asks for; returns the exit code."""
    wanted = [name.strip() for name in os.environ.get("ONLY", "").split(",") if name.strip()]
    unknown = [name for name in wanted if name not in GROUPS]
    if unknown:
        sys.stderr.write(f"bench: no group {', '.join(unknown)}; there are {', '.join(GROUPS)}\n")
        return 2
    full = os.environ.get("FULL", "") not in ("", "0")
    plan = Plan(rounds=9, requests=6000, full=True) if full else Plan()
    described = machine.describe()
    plan.say(f"on {described}")
    found: list[Result] = []
    for name in wanted or [name for name in GROUPS if name not in ONLY_WHEN_ASKED]:
        plan.say(f"{name} begins")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            found += runner.run(_awaited(GROUPS[name], plan))
    if not found:
        return 0
    print(results.table(found))
    results.write(results.FILE, results.document(found, described, machine.commit()))
    plan.say(f"written to {results.FILE}")
    return 0


async def _awaited(group: Group, plan: Plan) -> list[Result]:
    return await group(plan)


def _terminated(_signal: int, _frame: object) -> NoReturn:
    raise SystemExit(143)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _terminated)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
