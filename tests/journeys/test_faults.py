"""A full disk and a lost database over HTTP: 503 within a second, nothing released, and recovery by itself."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker import jobs
from broker.clock import SystemClock
from broker.demo.provider import StandInProvider
from broker.entropy import system_entropy
from tests.build import MODEL, RULE, Running, call_headers, es256, running, token_request
from tests.databases import server
from tests.db.notes import Gate
from tests.faults import CappedDatabase, break_commit, locked, moved, server_down, server_frozen, until

_WIDER = {"policies": {"nightly.cedar": RULE.replace("stand-in/stand-in-small", "stand-in/*")}}
_PROMPT = [{"role": "user", "content": "one two three"}]


@dataclass(slots=True)
class Agent:
    """An agent with a token, which makes each request by hand."""

    run: Running
    key: ec.EllipticCurvePrivateKey
    token: str
    http: httpx2.AsyncClient

    async def exchange(self) -> httpx2.Response:
        """Asks for another token, with new evidence."""
        async with asyncio.timeout(3):
            return await token_request(self.run, key=self.key)

    async def call(self) -> httpx2.Response:
        """A model call; the bound is generous, for other tests run beside this one."""
        async with asyncio.timeout(3):
            return await self.http.send(self._request(stream=False))

    @asynccontextmanager
    async def streaming(self) -> AsyncIterator[AsyncIterator[bytes]]:
        """A streamed call in flight: its admission is recorded, its end is not."""
        answer = await self.http.send(self._request(stream=True), stream=True)
        try:
            assert answer.status_code == 200
            yield answer.aiter_raw()
        finally:
            await answer.aclose()

    def _request(self, *, stream: bool) -> httpx2.Request:
        headers = call_headers(self.run, self.token, self.key)
        body = {"model": MODEL, "messages": _PROMPT, "stream": stream}
        return self.http.build_request("POST", "/openai/v1/chat/completions", json=body, headers=headers)


async def _agent(run: Running) -> Agent:
    key = es256()
    token = (await token_request(run, key=key)).json()["access_token"]
    return Agent(run, key, token, await run.client())


@asynccontextmanager
async def _world(folder: Path, **arguments: Any) -> AsyncIterator[tuple[Running, Agent, httpx2.AsyncClient]]:
    """A broker with the usual world, whose provider holds streams back; its agent and its admin."""
    async with (
        StandInProvider(clock=SystemClock(), entropy=system_entropy, hold=True) as provider,
        running(folder, provider=provider, **{"storage": {"commit_timeout_s": 0.9}, **arguments}) as run,
    ):
        admin = await run.operator()
        await run.apply(run.world(), admin)
        await run.check_log()
        yield run, await _agent(run), admin


async def _check_refuses(run: Running, agent: Agent, admin: httpx2.AsyncClient) -> None:
    """Everything that must be recorded first is answered with 503, says that nothing was done, and does nothing."""
    received, policies = len(run.provider.received), run.broker.policies.current.hash
    answers = [await agent.exchange(), await agent.call()]
    async with asyncio.timeout(3):
        answers.append(await admin.post("/api/v1/changes", json=_WIDER))
    for answer in answers:
        assert answer.status_code == 503, answer.text
        assert answer.headers["retry-after"] == "1"
        assert "access_token" not in answer.text
        assert agent.token not in answer.text
    assert answers[0].json()["error"] == "temporarily_unavailable"
    assert len(run.provider.received) == received
    assert run.broker.policies.current.hash == policies


async def _check_serves(run: Running, agent: Agent, admin: httpx2.AsyncClient) -> None:
    """Everything works again, and the log is whole and continues the one kept before the fault."""
    assert (await agent.exchange()).status_code == 200
    assert (await agent.call()).status_code == 200
    assert (await run.apply(_WIDER, admin))["status"] == "activated"
    await run.check_log()
    kinds = await run.kinds()
    admitted = kinds.count("CallAdmitted")
    assert sum(kinds.count(end) for end in ("CallCompleted", "CallFailed", "CallAbandoned")) == admitted


_FAULTS: dict[str, Callable[[Running], AbstractContextManager[None]]] = {
    "locked": lambda run: locked(run.broker.engine),
    "file moved": lambda run: moved(run.folder / "data" / "broker.db"),
    "folder moved": lambda run: moved(run.folder / "data"),
    "server stopped": lambda _run: server_down("stop"),
    "server killed": lambda _run: server_down("kill"),
    "server frozen": lambda _run: server_frozen(),
}


async def test_a_held_database(tmp_path: Path) -> None:
    """While the database is held by another process nothing is done; then all goes on."""
    await _check_lost(tmp_path, "locked")


@pytest.mark.sqlite
@pytest.mark.parametrize("fault", ["file moved", "folder moved"])
async def test_a_lost_database(tmp_path: Path, fault: str) -> None:
    """While the database is not where it was nothing is done; then all goes on."""
    await _check_lost(tmp_path, fault)


@pytest.mark.postgresql
@pytest.mark.parametrize("fault", ["server stopped", "server killed", "server frozen"])
async def test_a_lost_server(tmp_path: Path, fault: str) -> None:
    """While the server is down, or is silent, nothing is done; when it is back all goes on by itself."""
    await _check_lost(tmp_path, fault)


async def _check_lost(folder: Path, fault: str) -> None:
    async with _world(folder) as (run, agent, admin):
        with _FAULTS[fault](run):
            await _check_refuses(run, agent, admin)
            if fault != "server frozen":  # which a reader is told of when its statement's time is over
                async with asyncio.timeout(3):
                    assert (await (await run.client()).get("/log/checkpoint")).status_code in (200, 503)
        await jobs.settle(run.broker)
        await _check_serves(run, agent, admin)


async def test_a_call_in_flight_when_the_database_is_held(tmp_path: Path) -> None:
    """The caller gets its answer to the end; the end is owed, and recorded once when the database is free."""
    await _check_in_flight(tmp_path, "locked")


@pytest.mark.sqlite
@pytest.mark.parametrize("fault", ["file moved", "folder moved"])
async def test_a_call_in_flight_when_the_database_is_lost(tmp_path: Path, fault: str) -> None:
    """The caller gets its answer to the end; the end is owed, and recorded once when the database is back."""
    await _check_in_flight(tmp_path, fault)


@pytest.mark.postgresql
@pytest.mark.parametrize("fault", ["server stopped", "server killed"])
async def test_a_call_in_flight_when_the_server_is_lost(tmp_path: Path, fault: str) -> None:
    """The caller gets its answer to the end; the end is owed, and recorded once when the server is back."""
    await _check_in_flight(tmp_path, fault)


async def _check_in_flight(folder: Path, fault: str) -> None:
    async with _world(folder) as (run, agent, admin):
        async with agent.streaming() as chunks:
            await until(lambda: run.provider.holding)
            with _FAULTS[fault](run):
                run.provider.holding = False
                assert b"[DONE]" in b"".join([chunk async for chunk in chunks])
                await until(lambda: run.broker.audit.owed == 1)
            await jobs.settle(run.broker)
            await jobs.settle(run.broker)
        assert (await run.kinds())[-2:] == ["CallAdmitted", "CallCompleted"]
        await _check_serves(run, agent, admin)


@pytest.mark.sqlite
async def test_a_full_database(tmp_path: Path) -> None:
    """With no room for another record all is refused until there is; the jobs bring it back by themselves."""
    async with _world(tmp_path, with_jobs=True) as (run, agent, admin):
        database = CappedDatabase(run.broker.engine)
        database.full = True
        await _exhaust(run, agent)
        await _check_refuses(run, agent, admin)
        database.full = False
        await until(lambda: not run.broker.audit.winding_down)
        await _check_serves(run, agent, admin)


async def _exhaust(run: Running, agent: Agent) -> None:
    """Sends requests of each kind until what is left of the pages is used up for all of them, twice in a row."""
    refused = 0
    for _ in range(200):
        answers = [await agent.exchange(), await agent.call()]
        refused = refused + 1 if all(answer.status_code == 503 for answer in answers) else 0
        if refused == 2:
            return
    raise AssertionError("the database never became full")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A data folder on a file system of its own, of forty megabytes."""
    with _mounted(tmp_path / "data", "size=40m,mode=0700"):
        yield tmp_path / "data"


@pytest.fixture
def small_tablespace(tmp_path: Path) -> Iterator[Path]:
    """The disk of the server's tables, of sixteen megabytes, for the database of this test alone."""
    folder = server().folder / "small"
    with _mounted(folder, f"size=16m,mode=0700,uid={server().folder.stat().st_uid}"), server().session() as session:
        session.execute(f"CREATE TABLESPACE small LOCATION '{folder}'".encode())
        server().database_for(tmp_path, tablespace="small")
        try:
            yield folder
        finally:
            server().drop(tmp_path)
            session.execute("DROP TABLESPACE small")


@contextmanager
def _mounted(folder: Path, options: str) -> Iterator[None]:
    folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here; test_a_full_database stands for it: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _fill(disk: Path) -> Path:
    """Uses up every byte that is free; deleting the file that it returns gives them back."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65_536, 4_096, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    assert os.statvfs(disk).f_bavail == 0
    return ballast


@pytest.mark.sqlite
async def test_a_full_disk(tmp_path: Path, small_disk: Path) -> None:
    """On a real full disk the reserve pays for the ends of what was begun, and nothing is begun until there is room."""
    async with _world(tmp_path) as (run, agent, admin):
        reserve = small_disk / "reserve"
        assert reserve.stat().st_size == 8 * 1024 * 1024
        async with agent.streaming() as chunks:
            await until(lambda: run.provider.holding)
            ballast = _fill(small_disk)
            await _check_refuses(run, agent, admin)
            assert (run.broker.audit.winding_down, reserve.exists()) == (True, False)
            assert (await (await run.client()).get("/readyz")).status_code == 503
            run.provider.holding = False
            assert b"[DONE]" in b"".join([chunk async for chunk in chunks])
        await _until_kind(run, "CallCompleted")
        await jobs.settle(run.broker)
        assert (run.broker.audit.winding_down, reserve.exists()) == (True, False)
        await _check_refuses(run, agent, admin)
        ballast.unlink()
        await jobs.settle(run.broker)
        assert (run.broker.audit.winding_down, reserve.exists()) == (False, True)
        assert (await (await run.client()).get("/readyz")).status_code == 200
        await _check_serves(run, agent, admin)


@pytest.mark.postgresql
async def test_a_full_disk_of_the_server(
    tmp_path: Path, small_tablespace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """While the server has no room nothing that must be recorded is done; when it has, all goes on by itself."""
    async with _world(tmp_path) as (run, agent, admin):
        ballast = _fill(small_tablespace)
        await _exhaust(run, agent)
        await _check_refuses(run, agent, admin)
        assert "(53100)" in caplog.text  # disk_full
        ballast.unlink()
        await _check_serves(run, agent, admin)


@pytest.mark.postgresql
@pytest.mark.parametrize("lands", [True, False])
async def test_a_commit_whose_answer_is_lost(tmp_path: Path, lands: bool) -> None:
    """The token is given out if its record is stored, and never if it is not."""
    async with _world(tmp_path) as (run, agent, admin):
        issued = (await run.kinds()).count("TokenIssued")
        break_commit(run.broker.engine, lands=lands)
        answer = await agent.exchange()
        assert (answer.status_code, "access_token" in answer.text) == ((200, True) if lands else (503, False))
        assert (await run.kinds()).count("TokenIssued") == issued + lands
        await _check_serves(run, agent, admin)


@pytest.mark.postgresql
async def test_a_server_killed_in_a_commit(tmp_path: Path) -> None:
    """Its caller is told 503; when the server is back, and has the record, the trail says that nobody got the token."""
    async with _world(tmp_path) as (run, agent, admin):
        broken = break_commit(run.broker.engine, lands=True, then="kill")
        assert (await agent.exchange()).status_code == 503
        await until(broken.is_set)
        await _check_refuses(run, agent, admin)
        server().order("start")
        await _until_kind(run, "TokenAbandoned")
        await _check_serves(run, agent, admin)


async def _late(run: Running, gate: Gate, request: Any) -> httpx2.Response:
    """Sends a request whose commit lands after it was answered with 503."""
    gate.close("applied")
    task = asyncio.create_task(request)
    await gate.reached()
    answer: httpx2.Response = await task
    gate.open()
    assert answer.status_code == 503
    return answer


async def test_a_token_that_lands_too_late_is_closed(tmp_path: Path) -> None:
    """A token whose record became durable after its caller was told 503 was never given out, and the trail says so."""
    gate = Gate()
    async with _world(tmp_path, probe=gate) as (run, agent, admin):
        answer = await _late(run, gate, agent.exchange())
        assert "access_token" not in answer.text
        await _until_kind(run, "TokenAbandoned")
        assert (await run.kinds())[-2:] == ["TokenIssued", "TokenAbandoned"]
        await _check_serves(run, agent, admin)


async def test_a_call_that_lands_too_late_is_closed(tmp_path: Path) -> None:
    """A call whose admission became durable after its caller was told 503 never went out, and the trail says so."""
    gate = Gate()
    async with _world(tmp_path, probe=gate) as (run, agent, admin):
        received = len(run.provider.received)
        await _late(run, gate, agent.call())
        await _until_kind(run, "CallAbandoned")
        assert (await run.kinds())[-2:] == ["CallAdmitted", "CallAbandoned"]
        assert len(run.provider.received) == received
        await _check_serves(run, agent, admin)


async def test_a_change_that_lands_too_late_is_in_force(tmp_path: Path) -> None:
    """What is stored and what decides never differ, also when the admin was told 503; the next change builds on it."""
    gate = Gate()
    async with _world(tmp_path, probe=gate) as (run, agent, admin):
        before = run.broker.policies.current.hash
        gate.close("committed")  # the claim of the proof comes first
        task = asyncio.create_task(admin.post("/api/v1/changes", json=_WIDER))
        await gate.reached()
        gate.close("applied")
        gate.open()
        await gate.reached()
        assert (await task).status_code == 503
        gate.open()
        await _until_kind(run, "ChangeAbandoned")
        assert run.broker.policies.current.hash != before
        assert (await run.apply(_WIDER, admin))["status"] == "unchanged"
        narrower = {"policies": {"nightly.cedar": RULE}}
        assert (await run.apply(narrower, admin))["status"] == "activated"
        assert run.broker.policies.current.hash == before
        await _check_serves(run, agent, admin)


async def _until_kind(run: Running, kind: str) -> None:
    """Waits until the newest record is of a kind."""
    for _ in range(1_000):
        if (await run.kinds())[-1] == kind:
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"the trail ends with {(await run.kinds())[-3:]}")
