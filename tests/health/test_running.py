"""What a running broker says of itself, and how little it can be made to do by being asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from broker.clock import SystemClock
from broker.errors import Unavailable
from broker.health.running import Examination
from tests.build import Running, free_port, running
from tests.fakes import FakeClock
from tests.faults import CappedDatabase, moved


async def _findings(run: Running, status: str | None = None) -> dict[str, dict[str, Any]]:
    """What the API answers an operator, by name."""
    answer = await (await run.operator()).get("/api/v1/health")
    assert answer.status_code == 200, answer.text
    found = {finding["name"]: finding for finding in answer.json()["findings"]}
    return {name: finding for name, finding in found.items() if status in (None, finding["status"])}


async def test_a_healthy_broker(tmp_path: Path) -> None:
    """Its log, its set, its people, its issuer's keys and clock, and its endpoint: each is named and well."""
    async with running(tmp_path) as run:
        await run.apply(run.world())
        await run.check_log()
        found = await _findings(run)
        assert {name for name, each in found.items() if each["status"] == "ok"} == {
            "recording", "checkpoint", "policies", "issuer platform", "endpoint stand-in",
        }  # fmt: skip
        assert found["approvers"]["status"] == "warn"
        assert found["approvers"]["found"] == "only admin: nothing needs a second person"
        shown = str(found["issuer platform"]["found"])
        assert shown.startswith(f"1 keys at {run.platform.issuer}; none are in use yet; its clock is ")
        assert found["endpoint stand-in"]["found"] == f"{run.provider.origin} answers at 127.0.0.1"
        assert run.broker.policies.current.hash[:12] in found["policies"]["found"]
        assert run.provider.received == []


async def test_keys_in_use_are_told_with_their_age_and_left_alone(tmp_path: Path) -> None:
    """Asking is for those who look: evidence is checked with the keys that were there before."""
    clock = FakeClock(SystemClock().now())
    async with running(tmp_path, clock=clock) as run:
        await run.apply(run.world())
        await (await run.agent()).get("/openai/v1/models")
        clock.advance(9)
        assert "those in use are 9 s old" in (await _findings(run))["issuer platform"]["found"]
        clock.advance(9)
        assert "those in use are 18 s old" in (await _findings(run))["issuer platform"]["found"]


@pytest.mark.parametrize(("ahead", "status"), [(-40, "warn"), (-20, "ok"), (20, "ok"), (40, "warn")])
async def test_an_issuers_clock_is_held_against_ours(ahead: int, status: str, tmp_path: Path) -> None:
    """Beyond the leeway that evidence has, either way."""
    async with running(tmp_path, clock=FakeClock(SystemClock().now() - ahead)) as run:
        await run.apply(run.world())
        assert (await _findings(run))["issuer platform"]["status"] == status


async def test_what_does_not_answer_is_named_with_what_follows(tmp_path: Path) -> None:
    """An issuer and an endpoint where nobody listens, and one that the door does not let out to; disabled ones are not
    asked.
    """
    nowhere = f"http://127.0.0.1:{free_port()}"
    async with running(tmp_path) as run:
        run.broker.outbound._guard._allowed |= {("127.0.0.1", int(nowhere.rpartition(":")[2]))}
        run.broker.fetching._guard._allowed |= {("127.0.0.1", int(nowhere.rpartition(":")[2]))}
        oidc = {"kind": "oidc", "audience": run.url}
        await run.apply(
            {
                "attesters": {
                    "gone": {**oidc, "issuer": nowhere},
                    "inside": {**oidc, "issuer": "https://10.0.0.1"},
                    "off": {**oidc, "issuer": f"{nowhere}/off", "status": "disabled"},
                },
                "endpoints": {
                    "gone": {"base_url": f"{nowhere}/v1", "models": ["a"]},
                    "off": {"base_url": f"{nowhere}/v2", "models": ["b"], "status": "disabled"},
                },
            }
        )
        failed = await _findings(run, "fail")
        assert set(failed) == {"issuer gone", "issuer inside", "endpoint gone"}
        assert "could not be reached" in failed["issuer gone"]["found"]
        assert "special-use address" in failed["issuer inside"]["found"]
        assert "could not be reached" in failed["endpoint gone"]["found"]
        assert all(finding["advice"] for finding in failed.values())


async def test_entries_that_wait_for_a_checkpoint_are_told_by_age(tmp_path: Path) -> None:
    """The oldest one that no checkpoint covers counts."""
    clock = FakeClock(SystemClock().now())
    async with running(tmp_path, clock=clock) as run:
        await _findings(run)  # signs in, and integrates nothing
        for seconds, status in ((9, "ok"), (6, "warn"), (60, "fail")):
            clock.advance(seconds)
            found = (await _findings(run))["checkpoint"]
            assert found["status"] == status, found
        run.broker.tree.integrate()
        clock.advance(6)
        assert (await _findings(run))["checkpoint"]["status"] == "ok"


async def test_a_broker_that_cannot_record_says_so(tmp_path: Path) -> None:
    """A full disk, and a database that was moved away: asked directly, for then no operator's token is taken either."""
    async with running(tmp_path) as run:
        disk = CappedDatabase(run.broker.engine)
        disk.full = True
        with suppress(Unavailable):
            while True:
                await run.broker.sign_in.link("admin")
        found = {f.name: f for f in await Examination(run.broker).findings()}
        assert (found["recording"].status, found["recording"].found) == ("fail", "winding down: the disk is full")
        disk.full = False
        await run.broker.audit.settle_owed()
        with moved(tmp_path / "data" / "broker.db"):
            run.broker.engine.dispose()
            found = {f.name: f for f in await Examination(run.broker).findings()}
            assert (found["checkpoint"].status, found["policies"].status) == ("fail", "ok")


@asynccontextmanager
async def _silent() -> AsyncIterator[tuple[str, list[asyncio.StreamWriter]]]:
    """A server that takes connections and never answers; gives its origin and the connections."""
    connections: list[asyncio.StreamWriter] = []
    over = asyncio.Event()

    async def take(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(take, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections
    finally:
        over.set()
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0)


async def test_who_asks_together_asks_once_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    """An issuer that takes the connection and says nothing is one connection for all, and a finding in bounded time."""
    async with _silent() as (origin, connections), running(tmp_path) as run:
        run.broker.fetching._guard._allowed |= {("127.0.0.1", int(origin.rpartition(":")[2]))}
        await run.apply({"attesters": {"silent": {"kind": "oidc", "audience": run.url, "issuer": origin}}})
        examination = Examination(run.broker, time_s=0.2)
        answers = await asyncio.gather(*(examination.findings() for _ in range(20)))
        assert len(connections) == 1
        assert all(answer is answers[0] for answer in answers)
        assert {f.name: f.found for f in answers[0]}["issuer silent"] == "no answer within 0.2 s of all"
        assert await examination.findings() is answers[0]


async def test_more_than_a_few_are_asked_in_turns(tmp_path: Path) -> None:
    """Forty issuers that say nothing hold eight connections; the others are told as late."""
    async with _silent() as (origin, connections), running(tmp_path) as run:
        run.broker.fetching._guard._allowed |= {("127.0.0.1", int(origin.rpartition(":")[2]))}
        oidc = {"kind": "oidc", "audience": run.url}
        await run.apply({"attesters": {f"a-{n}": {**oidc, "issuer": f"{origin}/{n}"} for n in range(40)}})
        found = await Examination(run.broker, time_s=0.3).findings()
        assert len(connections) == 8
        assert sum(finding.found.startswith("no answer within") for finding in found) == 40


async def test_no_parameter_says_what_to_ask(tmp_path: Path) -> None:
    """It is no scanner of ports: what is asked stands in the configuration that a second person approved."""
    async with running(tmp_path) as run:
        admin = await run.operator()
        assert (await admin.get("/api/v1/health?url=http://127.0.0.1:1")).status_code == 400
        before = run.broker.audit.size
        assert (await admin.get("/api/v1/health")).status_code == 200
        assert run.broker.audit.size == before
