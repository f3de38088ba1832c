"""The cost of an exchange: evidence and proof verified, decided, recorded durably, a token signed."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median

from tests.bench.floors import Signatures
from tests.bench.installation import Installation, installed
from tests.bench.load import drive
from tests.bench.measured import interval
from tests.bench.plan import Plan
from tests.bench.processes import Child, child
from tests.bench.results import Result, spread

CALLERS = 64
AIM_RATIO = 3.5


@dataclass(frozen=True, slots=True)
class _Variant:
    """What is asked, and by how many: `exchange.{prefix}cpu_ms{suffix}`."""

    prefix: str = ""
    suffix: str = ""
    again: bool = False
    callers: int = CALLERS

    def __str__(self) -> str:
        evidence = "evidence again" if self.again else "new evidence"
        return f"exchange, {evidence}, {self.callers} callers"


_VARIANTS = (_Variant(), _Variant("again.", again=True), _Variant(suffix=".16", callers=16))
"""New evidence in every request, the dearer case; evidence shown again by its own key, as instances renew; and fewer
callers, who share a commit with fewer."""


@dataclass(slots=True)
class _Rounds:
    cpu_us: list[float] = field(default_factory=list)
    per_s: list[float] = field(default_factory=list)
    empty_us: list[float] = field(default_factory=list)
    crypto_us: list[float] = field(default_factory=list)

    @property
    def floor_us(self) -> list[float]:
        return [empty + crypto for empty, crypto in zip(self.empty_us, self.crypto_us, strict=True)]


async def run(plan: Plan) -> list[Result]:
    """Rounds of all variants in turn, each beside its floor."""
    variants = {variant: _Rounds() for variant in _VARIANTS}
    signatures = Signatures()
    with installed() as broker, child("empty_route") as empty:
        empty_port = int(empty.told()["port"])
        await _warm_up(broker, empty_port)
        for number in range(plan.rounds):
            for variant, rounds in variants.items():
                await _round(plan, broker, (empty, empty_port), signatures, variant, rounds)
                plan.say(
                    f"{variant}, round {number + 1}/{plan.rounds}: {rounds.cpu_us[-1]:,.0f} µs CPU, "
                    f"floor {rounds.floor_us[-1]:,.0f} (route {rounds.empty_us[-1]:,.0f}, signatures "
                    f"{rounds.crypto_us[-1]:,.0f}), {rounds.per_s[-1]:,.0f}/s"
                )
        broker.stop_and_count()
    results: list[Result] = []
    for variant, rounds in variants.items():
        results += _results(plan, variant, rounds)
    return results


async def _warm_up(broker: Installation, empty_port: int) -> None:
    instances = len(broker.fleet.instances)
    requests = broker.fleet.exchanges(instances) + broker.fleet.exchanges(instances, again=True)
    await drive(broker.port, requests, CALLERS)
    broker.answered["exchange"] += len(requests)
    await drive(empty_port, requests, CALLERS)


async def _round(
    plan: Plan,
    broker: Installation,
    empty: tuple[Child, int],
    signatures: Signatures,
    variant: _Variant,
    rounds: _Rounds,
) -> None:
    requests = broker.fleet.exchanges(plan.requests, again=variant.again)
    measured = await interval(broker.pid, broker.port, requests, variant.callers)
    broker.answered["exchange"] += len(requests)
    bare = await interval(empty[0].pid, empty[1], requests, variant.callers, works_on=False)
    rounds.cpu_us.append(measured.cpu_us)
    rounds.per_s.append(measured.driven.per_s)
    rounds.empty_us.append(bare.cpu_us)
    rounds.crypto_us.append(2 * signatures.verify_us() + signatures.sign_us())


def _results(plan: Plan, variant: _Variant, rounds: _Rounds) -> list[Result]:
    cpu_us, floor_us = median(rounds.cpu_us), median(rounds.floor_us)
    ratios = [cpu / floor for cpu, floor in zip(rounds.cpu_us, rounds.floor_us, strict=True)]
    plan.say(
        f"{variant}: CPU {spread(rounds.cpu_us)} µs, floor {spread(rounds.floor_us)}, ratio {spread(ratios, 2)}, "
        f"{spread(rounds.per_s)}/s"
    )
    aim_us = AIM_RATIO * floor_us
    names = [f"exchange.{variant.prefix}{figure}{variant.suffix}" for figure in ("cpu_ms", "per_s")]
    return [
        Result(names[0], cpu_us / 1000, "ms", "lower", floor_us / 1000, aim_us / 1000),
        Result(names[1], median(rounds.per_s), "1/s", "higher", 1e6 / floor_us),
    ]
