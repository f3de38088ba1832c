"""What every microsecond of the two hot paths goes on.

`make bench ONLY=profile`, or `python -m tests.bench.profile exchange` for one path alone.

The broker runs as in the other groups, sampled from inside (`tests.bench.sampled`). The CPU of a request, measured from
outside, is shared out over the stages as the samples were, so the table adds up to it; what is in no stage is named as
the rest.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

import uvloop

from tests.bench.installation import Installation, installed, token_of
from tests.bench.load import drive
from tests.bench.measured import interval
from tests.bench.plan import Plan
from tests.bench.results import PROFILE, Result
from tests.bench.stages import by_function, by_stage

CALLERS = 64
PATHS = ("exchange", "call", "call.plain")

_SWITCH_S = 0.1
_WRITE_TIMEOUT_S = 10.0
_FUNCTIONS_SHOWN = 30


async def run(plan: Plan) -> list[Result]:
    """Prints the tables of every path, and keeps them; they are no results of their own."""
    told = "\n".join([await profiled(plan, path) for path in PATHS])
    print(told)
    PROFILE.write_text(told, "utf-8")
    plan.say(f"written to {PROFILE}")
    return []


async def profiled(plan: Plan, path: str) -> str:
    """The tables of one path, in Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        samples = Path(folder) / "samples.json"
        with installed(samples) as broker:
            await drive(broker.port, await _signed(broker, path, plan.requests // 5), CALLERS)
            cpu_us: list[float] = []
            stacks: defaultdict[str, float] = defaultdict(float)
            for _ in range(plan.rounds):
                requests = await _signed(broker, path, plan.requests)
                os.kill(broker.pid, signal.SIGUSR1)
                await asyncio.sleep(_SWITCH_S)
                cpu_us.append((await interval(broker.pid, broker.port, requests, CALLERS)).cpu_us)
                os.kill(broker.pid, signal.SIGUSR1)
                for stack, seconds in (await asyncio.to_thread(_written, samples)).items():
                    stacks[stack] += seconds
            broker.stop_and_count()
    each_us = sum(cpu_us) / len(cpu_us)
    plan.say(f"profile of {path}: {each_us:,.0f} µs of CPU a request, sampling included")
    return tables(path, each_us, stacks)


def tables(path: str, each_us: float, stacks: Mapping[str, float]) -> str:
    """Where the time of a request goes by stage, and by function.

    Args:
        path: one of `PATHS`.
        each_us: the CPU of one request.
        stacks: seconds by stack.
    """
    whole_s = sum(stacks.values())
    lines = [f"### {path}: {each_us:,.0f} µs", "", "| stage | µs | % |", "| --- | ---: | ---: |"]
    for stage, seconds in by_stage(stacks).items():
        lines.append(f"| {stage} | {each_us * seconds / whole_s:,.1f} | {100 * seconds / whole_s:.1f} |")
    lines += [f"| **all** | **{each_us:,.1f}** | **100.0** |", ""]
    lines += ["| function, with the C code that it calls | µs |", "| --- | ---: |"]
    for name, seconds in list(by_function(stacks).items())[:_FUNCTIONS_SHOWN]:
        lines.append(f"| `{name}` | {each_us * seconds / whole_s:,.1f} |")
    return "\n".join([*lines, ""])


async def _signed(broker: Installation, path: str, number: int) -> list[bytes]:
    """Requests of one path, counted as answered, for nothing goes on when one is not."""
    fleet = broker.fleet
    if path == "exchange":
        broker.answered["exchange"] += number
        return fleet.exchanges(number)
    renewals = fleet.exchanges(len(fleet.instances), again=True)
    renewed = await drive(broker.port, renewals, CALLERS, keep=True)
    broker.answered.update(exchange=len(renewals), call=number)
    tokens = [token_of(renewed.bodies[place]) for place in range(len(renewals))]
    return fleet.calls(number, tokens, "plain" if path == "call.plain" else "streamed")


def _written(samples: Path) -> dict[str, float]:
    until = time.monotonic() + _WRITE_TIMEOUT_S
    while not samples.exists():
        if time.monotonic() > until:
            raise RuntimeError("the sampled broker wrote nothing")
        time.sleep(0.05)
    found: dict[str, float] = json.loads(samples.read_text("utf-8"))
    samples.unlink()
    return found


if __name__ == "__main__":
    chosen = sys.argv[1:] or list(PATHS)
    if unknown := [path for path in chosen if path not in PATHS]:
        sys.stderr.write(f"profile: no path {', '.join(unknown)}; there are {', '.join(PATHS)}\n")
        sys.exit(2)
    for each in chosen:
        print(uvloop.run(profiled(Plan(), each)))
