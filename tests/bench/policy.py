"""Policy decisions on sets of 1 to 10,000 policies, beside Cedar's bare answer to the same question.

Two kinds of set: all N policies can decide a call, the worst case; and ten of N can, the rest being for exchanges, for
the engine asks only those of the action (`.of_10`).
"""

from __future__ import annotations

import asyncio
import gc
import time
from dataclasses import dataclass
from statistics import median

import cedarpy

from broker.policy import engine
from broker.policy.request import Entity, Request, context_json, entities_json, reference
from broker.policy.shipped import shipped
from tests.bench.plan import Plan
from tests.bench.results import Result, percentile

SIZES = (1, 10, 100, 1000, 10_000)
APPLYING = 10

_BUDGET_S = 3.0
_LEAST, _MOST = 200, 20_000
_CONTEXT: dict[str, object] = {"operation": "chat.completions", "stream": True, "confirmation": "dpop"}
_AGENT = Entity(
    ("Agent", "cluster/agents/account-07"),
    {
        "owner": "team-7",
        "purpose": "summaries",
        "kind": "agent",
        "status": "active",
        "ceiling": ["provider/bench-small", "provider/bench-large"],
        "enrolled_by": "cluster-agents",
    },
)
_ENDPOINT = Entity(("Endpoint", "provider"), {"wire": "openai"})
_MODEL = Entity(
    ("Model", "provider/bench-small"),
    {"name": "provider/bench-small", "family": "provider/*"},
    parents=(("Endpoint", "provider"),),
)
_FIRST = """
@id("inside-ceiling")
permit (principal is Agent, action == Action::"call", resource is Model)
when { principal.ceiling.contains(resource.name) || principal.ceiling.contains(resource.family) };
"""


@dataclass(frozen=True, slots=True)
class _Times:
    ours_us: list[float]
    bare_us: list[float]


async def run(plan: Plan) -> list[Result]:
    """Every size, all of it applying and ten of it applying."""
    results: list[Result] = []
    for size in SIZES:
        await asyncio.sleep(0)  # where Ctrl-C is noticed
        results += _measured(plan, size, size, "")
        if size > APPLYING:
            results += _measured(plan, size, APPLYING, f".of_{APPLYING}")
    return results


def policies(size: int, applying: int) -> str:
    """A set of `size` policies of which `applying` can decide a call; exactly the first permits ours."""
    calls = (_for_call(number) for number in range(1, applying))
    exchanges = (_for_exchange(number) for number in range(applying, size))
    return "".join((_FIRST, *calls, *exchanges))


def _for_call(number: int) -> str:
    """By turns a permit for one model of one team, and a forbid for one owner: what installations write."""
    if number % 2:
        return (
            f'@id("call-{number}")\npermit (principal is Agent, action == Action::"call", '
            f'resource == Model::"provider/model-{number}")\nwhen {{ principal.owner == "group-{number}" }};\n'
        )
    return (
        f'@id("call-{number}")\nforbid (principal is Agent, action == Action::"call", resource in Endpoint::"provider")'
        f'\nwhen {{ principal.owner == "group-{number}" && context.stream }};\n'
    )


def _for_exchange(number: int) -> str:
    return (
        f'@id("exchange-{number}")\nforbid (principal is Agent, action == Action::"exchange", resource is Audience)\n'
        f'when {{ principal.owner == "group-{number}" && context.lifetime_s > 300 }};\n'
    )


def _measured(plan: Plan, size: int, applying: int, variant: str) -> list[Result]:
    schema, text = shipped().schema, policies(size, applying)
    begun = time.perf_counter()
    compiled = engine.compile(schema, {"bench.cedar": text})
    compile_s = time.perf_counter() - begun
    found = _alternating(compiled, schema, policies(applying, applying))
    results = []
    for percent in (50, 99):
        value, floor = percentile(found.ours_us, percent), percentile(found.bare_us, percent)
        results.append(Result(f"policy.decide_p{percent}_us.{size}{variant}", value, "µs", "lower", floor))
    plan.say(
        f"policy {size:,} policies, {applying:,} for the action: median {median(found.ours_us):,.1f} µs, "
        f"Cedar alone {median(found.bare_us):,.1f}, {len(found.ours_us):,} decisions; compiled in {compile_s:.2f} s"
    )
    return results


def _alternating(compiled: engine.PolicySet, schema_text: str, applying_text: str) -> _Times:
    """Our decision and Cedar's bare one on the policies that apply, by turns, so that noise meets both."""
    request = Request(_AGENT.uid, "call", _MODEL.uid, _CONTEXT)
    prepared = compiled.prepare([_AGENT, _MODEL, _ENDPOINT])
    schema = cedarpy.Schema.from_str(schema_text)
    bare_policies = cedarpy.PolicySet.from_str(applying_text)
    bare_entities = cedarpy.Entities.from_json_str(entities_json([_AGENT, _MODEL, _ENDPOINT]), schema)
    question = {
        "principal": reference(_AGENT.uid),
        "action": {"type": "Action", "id": "call"},
        "resource": reference(_MODEL.uid),
        "context": context_json(_CONTEXT),
    }
    if not compiled.decide(request, prepared).permitted:
        raise RuntimeError("the engine refuses what the set permits")
    if not cedarpy.is_authorized(question, bare_policies, bare_entities, schema).allowed:
        raise RuntimeError("Cedar refuses what the set permits")
    ours: list[float] = []
    bare: list[float] = []
    gc.collect()
    until = time.perf_counter() + _BUDGET_S
    while len(ours) < _LEAST or (len(ours) < _MOST and time.perf_counter() < until):
        first = time.perf_counter_ns()
        compiled.decide(request, prepared)
        second = time.perf_counter_ns()
        cedarpy.is_authorized(question, bare_policies, bare_entities, schema)
        third = time.perf_counter_ns()
        ours.append((second - first) / 1000)
        bare.append((third - second) / 1000)
    return _Times(ours, bare)
