"""A whole group, as small as it can be: real processes, real HTTP, and the log compared with the answers."""

from __future__ import annotations

import re

import pytest

from tests.bench import __main__, audit, exchange, profile
from tests.bench.installation import CountsDiffer, installed
from tests.bench.load import drive
from tests.bench.plan import Plan
from tests.bench.stages import REST, SIGNATURES


async def test_the_exchange_group_runs_from_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Every figure is there beside its floor, and every answered exchange stands in the log."""
    found = {result.name: result for result in await exchange.run(Plan(rounds=1, requests=20))}
    assert {"exchange.cpu_ms", "exchange.per_s", "exchange.again.cpu_ms", "exchange.cpu_ms.16"} <= set(found)
    assert all(result.value > 0 and result.floor is not None and result.floor > 0 for result in found.values())
    assert "exchange" in capsys.readouterr().err


async def test_the_audit_group_runs_from_end_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every figure of the audit log is there, those that have an aim beside a floor of the same run."""
    monkeypatch.setattr(audit, "SIZES", (2_500, 3_000))
    found = {result.name: result for result in await audit.run(Plan(rounds=1, requests=128))}
    aims = {"audit.appends_per_s", "audit.append_p99_ms", "audit.search_p95_ms.of_3000", "audit.verify_per_million_s"}
    assert {name for name, result in found.items() if result.aim is not None} == aims
    unaimed = {"audit.record_us", "audit.plain_inserts_per_s", "audit.exported_per_s", "audit.export_growth_mib"}
    curve = {f"audit.append_cpu_us.at_{size}" for size in (1_000, 2_500, 3_000)}
    assert found.keys() >= unaimed | curve
    floors = {name: result.floor for name, result in found.items() if name != "audit.export_growth_mib"}
    assert all(floor is not None and floor > 0 for floor in floors.values())


async def test_the_profile_adds_up_to_what_was_measured() -> None:
    """The stages of a sampled broker are shares of the CPU of a request, all of it, and most of it in a stage."""
    told = await profile.profiled(Plan(rounds=1, requests=300), "exchange")
    rows = re.findall(r"^\| (?!\*|`)(.+?) \| ([\d,.]+) \| ([\d.]+) \|$", told, re.MULTILINE)
    shares = {stage: float(percent) for stage, _, percent in rows}
    assert sum(shares.values()) == pytest.approx(100, abs=0.1 * len(shares))
    assert shares[SIGNATURES] > shares.get(REST, 0.0)


async def test_an_answer_without_its_record_fails_the_run() -> None:
    """One answer more than the log holds is noticed."""
    with installed() as broker:
        await drive(broker.port, broker.fleet.exchanges(3), 2)
        broker.answered["exchange"] += 4
        with pytest.raises(CountsDiffer, match="'exchange': 4"):
            broker.stop_and_count()


def test_a_group_that_does_not_exist_is_wrong_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, with the names there are; nothing is measured."""
    monkeypatch.setenv("ONLY", "policy,polcy")
    assert __main__.main() == 2
    assert "no group polcy; there are exchange, call, policy, audit, memory, profile" in capsys.readouterr().err
