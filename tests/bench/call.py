"""The cost of a call: token and proof, decided, two durable records, the answer passed on as it arrives."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from statistics import median

from tests.bench import fleet, provider
from tests.bench.floors import Signatures
from tests.bench.installation import Installation, installed, token_of
from tests.bench.load import drive
from tests.bench.measured import Interval, interval
from tests.bench.plan import Plan
from tests.bench.processes import Child, child
from tests.bench.results import Result, percentile, spread

CALLERS = 64
AIM_RATIO = 3.0
ADDED_AT = (64, 16, 1)
"""How many callers the added latency is measured with; the first is quoted under the plain name."""

_NAMES = {"streamed": "", "plain": "plain."}
_HEADERS = {
    "accept": "*/*",
    "content-type": "application/json",
    "accept-encoding": "identity",
    "user-agent": "broker",
    "authorization": f"Bearer {provider.KEY}",
}


@dataclass(slots=True)
class _Rounds:
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    empty_us: list[float] = field(default_factory=list)
    verify_us: list[float] = field(default_factory=list)
    hop_us: list[float] = field(default_factory=list)
    pieces: list[float] = field(default_factory=list)
    few_cpu_us: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in ADDED_AT[1:]})
    added_p50_ms: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in ADDED_AT})
    added_p99_ms: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in ADDED_AT})

    @property
    def floor_us(self) -> list[float]:
        parts = zip(self.empty_us, self.verify_us, self.hop_us, strict=True)
        return [empty + verify + hop for empty, verify, hop in parts]


@dataclass(frozen=True, slots=True)
class _Bare:
    """The processes of the floor."""

    empty: Child
    empty_port: int
    hop: Child
    signatures: Signatures


async def run(plan: Plan) -> list[Result]:
    """Rounds of streamed and whole answers in turn, each beside its floor."""
    variants = {kind: _Rounds() for kind in fleet.CALLS}
    with ExitStack() as stack:
        broker = stack.enter_context(installed())
        empty, hop = stack.enter_context(child("empty_route")), stack.enter_context(child("upstream"))
        bare = _Bare(empty, int(empty.told()["port"]), hop, Signatures())
        for kind in fleet.CALLS:  # everything is warm before the first round
            await _few(plan, broker, 16, kind, await _tokens(broker))
        for number in range(plan.rounds):
            for kind, rounds in variants.items():
                await _round(plan, broker, bare, kind, rounds)
                plan.say(
                    f"call {kind} round {number + 1}/{plan.rounds}: {rounds.cpu_us[-1]:,.0f} µs CPU, floor "
                    f"{rounds.floor_us[-1]:,.0f} (route {rounds.empty_us[-1]:,.0f}, signature "
                    f"{rounds.verify_us[-1]:,.0f}, hop {rounds.hop_us[-1]:,.0f}), {rounds.per_s[-1]:,.0f}/s, "
                    f"{rounds.pieces[-1]:.1f} pieces an answer"
                )
        broker.stop_and_count()
    results: list[Result] = []
    for kind, rounds in variants.items():
        results += _results(plan, kind, rounds)
    return results


async def _round(plan: Plan, broker: Installation, bare: _Bare, kind: str, rounds: _Rounds) -> None:
    tokens = await _tokens(broker)
    requests = broker.fleet.calls(plan.requests, tokens, kind)
    measured = await interval(broker.pid, broker.port, requests, CALLERS)
    broker.answered["call"] += len(requests)
    rounds.cpu_us.append(measured.cpu_us)
    rounds.per_s.append(measured.driven.per_s)
    rounds.pieces.append(measured.driven.pieces / len(requests))
    empty = await interval(bare.empty.pid, bare.empty_port, requests, CALLERS, works_on=False)
    rounds.empty_us.append(empty.cpu_us)
    rounds.verify_us.append(bare.signatures.verify_us())
    done = bare.hop.order(
        port=broker.provider_port,
        body=fleet.call_body(kind),
        headers=_HEADERS,
        requests=plan.requests,
        callers=CALLERS,
    )
    rounds.hop_us.append(done["cpu_s"] / done["requests"] * 1e6)
    for count in ADDED_AT:
        through = measured.driven
        if count != CALLERS:
            few = await _few(plan, broker, count, kind, tokens)
            through = few.driven
            rounds.few_cpu_us[count].append(few.cpu_us)
        number = len(through.latencies_s)
        straight = await drive(
            broker.provider_port, [fleet.direct_call(broker.provider_port, provider.KEY, kind)] * number, count
        )
        for percent, kept in ((50, rounds.added_p50_ms), (99, rounds.added_p99_ms)):
            added_s = percentile(through.latencies_s, percent) - percentile(straight.latencies_s, percent)
            kept[count].append(added_s * 1000)


async def _few(plan: Plan, broker: Installation, count: int, kind: str, tokens: list[str]) -> Interval:
    number = max(100, plan.requests * count // (2 * CALLERS))
    measured = await interval(broker.pid, broker.port, broker.fleet.calls(number, tokens, kind), count)
    broker.answered["call"] += number
    return measured


async def _tokens(broker: Installation) -> list[str]:
    """A token for each instance."""
    requests = broker.fleet.exchanges(len(broker.fleet.instances), again=True)
    driven = await drive(broker.port, requests, CALLERS, keep=True)
    broker.answered["exchange"] += len(requests)
    return [token_of(driven.bodies[place]) for place in range(len(requests))]


def _results(plan: Plan, kind: str, rounds: _Rounds) -> list[Result]:
    name = _NAMES[kind]
    cpu_us, floor_us = median(rounds.cpu_us), median(rounds.floor_us)
    ratios = [cpu / floor for cpu, floor in zip(rounds.cpu_us, rounds.floor_us, strict=True)]
    plan.say(
        f"call {kind}: CPU {spread(rounds.cpu_us)} µs, floor {spread(rounds.floor_us)}, ratio {spread(ratios, 2)}, "
        f"{spread(rounds.per_s)}/s from {CALLERS} callers"
    )
    aim_us = AIM_RATIO * floor_us
    results = [
        Result(f"call.{name}cpu_ms", cpu_us / 1000, "ms", "lower", floor_us / 1000, aim_us / 1000),
        Result(f"call.{name}per_s", median(rounds.per_s), "1/s", "higher", 1e6 / floor_us),
    ]
    for count, few_us in rounds.few_cpu_us.items():
        results.append(Result(f"call.{name}cpu_ms.{count}", median(few_us) / 1000, "ms", "lower"))
    for count in ADDED_AT:
        at = "" if count == CALLERS else f".{count}"
        for percent, kept in ((50, rounds.added_p50_ms), (99, rounds.added_p99_ms)):
            plan.say(f"call {kind}: p{percent} added with {count} callers {spread(kept[count], 1)} ms")
            results.append(Result(f"call.{name}added_p{percent}_ms{at}", median(kept[count]), "ms", "lower"))
    return results
