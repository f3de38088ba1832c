"""`kill -9` at every commit point: nothing lost that was answered for, nothing granted without a record.

The broker runs in a process of its own and dies at a point of a commit: begun (the transaction is open), applied
(everything is written, nothing durable), committed (durable, nobody told). Then it is started again on the same folder.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from broker.client import BrokerAuth
from broker.clock import SystemClock
from broker.demo.platform import StandInPlatform
from broker.demo.provider import StandInProvider
from broker.entropy import new_id, system_entropy
from broker.formats import dpop
from broker.settings import Settings
from tests import databases
from tests.build import AGENT, MODEL, RULE, Running, call_headers, es256, free_port, running, token_request
from tests.crash_server import CrashServer
from tests.serving import http_client

_SIGKILL = 9
_POINTS = ["begun", "applied", "committed"]
_ENDS = {"CallCompleted", "CallFailed", "CallAbandoned"}
_BODY = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}]}
_WIDER = {"policies": {"nightly.cedar": RULE.replace("stand-in/stand-in-small", "stand-in/*")}}


@pytest.fixture(scope="module")
def server() -> Iterator[CrashServer]:
    """Starts brokers that die."""
    made = CrashServer()
    yield made
    made.close()


@dataclass(slots=True)
class Exchange:
    """A token request that can be sent again, byte for byte, and what came of it."""

    evidence: str
    proof: str
    key: ec.EllipticCurvePrivateKey
    token: str = ""
    record: int = -1

    async def send(self, run: Running) -> httpx2.Response:
        """Sends it; a token in the answer is kept."""
        answer = await token_request(run, evidence=self.evidence, proof=self.proof)
        if answer.status_code == 200:
            self.token = answer.json()["access_token"]
            self.record = int(answer.headers["broker-record"])
        return answer


def _exchange(run: Running) -> Exchange:
    key = es256()
    proof = dpop.prove(key, method="POST", url=f"{run.url}/token", now=run.clock.now(), jti=new_id(system_entropy))
    return Exchange(run.evidence(), proof, key)


@dataclass(slots=True)
class Scene:
    """A data folder, what stands around it, and the brokers that run on it one after the other."""

    folder: Path
    server: CrashServer
    platform: StandInPlatform
    provider: StandInProvider
    port: int = field(default_factory=free_port)
    settings: Settings | None = None
    run: Running | None = None
    admin: httpx2.Auth | None = None
    checkpoint: str | None = None

    @property
    def armed(self) -> Path:
        """The file that arms the process."""
        return self.folder / "armed"

    def alive(self) -> AbstractAsyncContextManager[Running]:
        """A broker in this process that is stopped in good order."""
        return running(self.folder, platform=self.platform, provider=self.provider, port=self.port)

    async def set_up(self) -> Running:
        """Builds the usual world, and starts the process that will die on it."""
        async with self.alive() as run:
            key = es256()
            await run.apply(run.world(), await run.operator(key=key))
            await run.check_log()
            self.checkpoint, self.settings, self.run = run.checkpoint, run.broker.settings, run
        self.admin = BrokerAuth(run.url, client_id="operator:admin", key=key, audience=f"{run.url}/api/v1")
        await self.server.start(run.broker.settings, self.armed)
        return run  # its broker is gone; where it answered, the next one does

    def arm(self, point: str, count: int) -> None:
        """The process dies the `count`th time that it comes to `point` from now on."""
        self.armed.write_text(f"{point} {count}")

    async def died(self) -> None:
        """Waits for its death, and disarms the next one."""
        assert await self.server.death() == _SIGKILL
        self.armed.unlink()

    async def check(self, run: Running, *answered: Exchange) -> list[dict[str, Any]]:
        """What holds after every death; gives all records.

        The log is whole and continues the one kept, every answered token has its record and its proof is spent, no call
        went out without a record, and no call is left open.
        """
        for exchange in answered:
            again = await exchange.send(run)
            assert (again.status_code, again.json()["error"]) == (400, "invalid_dpop_proof")
        run.checkpoint = self.checkpoint
        await run.check_log()
        rows = await run.broker.read(
            lambda session: [
                {"kind": kind, "id": id, **orjson.loads(groups)}
                for kind, id, groups in session.connection().exec_driver_sql(
                    "SELECT kind, request_id, groups FROM records ORDER BY idx"
                )
            ]
        )
        for exchange in answered:
            assert rows[exchange.record]["kind"] == "TokenIssued"
            assert orjson.loads(rows[exchange.record]["what"][1])["token"] == _digest(exchange.token)
        admitted = [row["id"] for row in rows if row["kind"] == "CallAdmitted"]
        assert len(self.provider.received) <= len(admitted)
        assert sorted(row["id"] for row in rows if row["kind"] in _ENDS) == sorted(admitted)
        return rows


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@pytest.fixture
async def scene(tmp_path: Path, server: CrashServer) -> AsyncIterator[Scene]:
    """A folder with a platform and a provider that outlive the broker."""
    clock = SystemClock()
    async with (
        StandInPlatform(clock=clock, entropy=system_entropy) as platform,
        StandInProvider(clock=clock, entropy=system_entropy) as provider,
    ):
        yield Scene(tmp_path, server, platform, provider)


@pytest.mark.parametrize("point", _POINTS)
async def test_killed_in_an_exchange(scene: Scene, point: str) -> None:
    """Before the commit nothing happened, and the same request works later; after it the token that nobody received is
    in the trail, and its proof is spent."""
    run = await scene.set_up()
    before, hit = _exchange(run), _exchange(run)
    assert (await before.send(run)).status_code == 200
    scene.arm(point, 1)
    with pytest.raises(httpx2.HTTPError):
        await hit.send(run)
    await scene.died()
    async with scene.alive() as again:
        kinds = await again.kinds()
        assert kinds.count("TokenIssued") == (3 if point == "committed" else 2)  # the admin's, the one before, this one
        answer = await hit.send(again)
        assert (answer.status_code, answer.json().get("error")) == (
            (400, "invalid_dpop_proof") if point == "committed" else (200, None)
        )
        call = await _call(again, before)
        assert call.status_code == 200
        assert len(again.broker.instances.of(AGENT)) == 2
        await scene.check(again, before, *([] if point == "committed" else [hit]))


async def _call(run: Running, exchange: Exchange, **more: Any) -> httpx2.Response:
    headers = call_headers(run, exchange.token, exchange.key)
    async with http_client() as client:
        return await client.post(f"{run.url}/openai/v1/chat/completions", json={**_BODY, **more}, headers=headers)


@pytest.mark.parametrize(("commit", "stream"), [("admitted", False), ("ended", False), ("ended", True)])
@pytest.mark.parametrize("point", _POINTS)
async def test_killed_in_a_call(scene: Scene, commit: str, point: str, stream: bool) -> None:
    """No call reaches the provider before its record is durable; what was admitted has one end, if only abandoned."""
    run = await scene.set_up()
    exchange = _exchange(run)
    assert (await exchange.send(run)).status_code == 200
    scene.arm(point, 1 if commit == "admitted" else 2)
    with pytest.raises(httpx2.HTTPError):
        await _call(run, exchange, stream=stream)
    await scene.died()
    assert len(scene.provider.received) == (0 if commit == "admitted" else 1)
    async with scene.alive() as again:
        rows = await scene.check(again, exchange)
    kinds = [row["kind"] for row in rows]
    if commit == "admitted" and point != "committed":
        assert "CallAdmitted" not in kinds
    elif commit == "ended" and point == "committed":
        assert (kinds.count("CallCompleted"), kinds.count("CallAbandoned")) == (1, 0)
    else:
        assert (kinds.count("CallCompleted"), kinds.count("CallAbandoned")) == (0, 1)


@pytest.mark.parametrize("point", _POINTS)
async def test_killed_in_a_change(scene: Scene, point: str) -> None:
    """The change is in force with its record, or there is neither; a second attempt finds it so."""
    run = await scene.set_up()
    async with http_client(base_url=run.url, auth=scene.admin) as admin:
        before = (await admin.get("/api/v1/policies/active")).json()["hash"]
        scene.arm(point, 2)  # the first is the claim of the request's proof
        with pytest.raises(httpx2.HTTPError):
            await admin.post("/api/v1/changes", json=_WIDER)
        await scene.died()
        async with scene.alive() as again:
            kinds = await again.kinds()
            done = point == "committed"
            assert kinds.count("ChangeActivated") == (3 if done else 2)  # the shipped set, the world, this one
            assert (again.broker.policies.current.hash != before) == done
            repeated = await admin.post("/api/v1/changes", json=_WIDER)
            assert repeated.json()["status"] == ("unchanged" if done else "activated")
            assert again.broker.policies.current.hash != before
            await scene.check(again)


@pytest.mark.parametrize("log", [False, True], ids=["token key", "log key"])
@pytest.mark.parametrize("point", _POINTS)
async def test_killed_while_a_key_is_replaced(scene: Scene, point: str, log: bool) -> None:
    """A stolen key has ended with its record, or signs on without one; nothing between, and the log verifies."""
    run = await scene.set_up()
    before = _exchange(run)
    assert (await before.send(run)).status_code == 200
    async with http_client(base_url=run.url, auth=scene.admin) as admin:
        keys = (await admin.get("/api/v1/keys")).json()
        stolen = keys["log" if log else "current"]
        scene.arm(point, 2)  # the first is the claim of the request's proof
        with pytest.raises(httpx2.HTTPError):
            await admin.post("/api/v1/keys/rotate", json={"log": log, "compromised": stolen})
        await scene.died()
        async with scene.alive() as again:
            ended = point == "committed"
            kinds = await again.kinds()
            assert kinds.count("LogKeyRotated" if log else "KeyEnded") == (1 if ended else 0)
            now = again.broker.log_key if log else again.broker.keys.current.kid
            assert (now != stolen) == ended
            assert (await _call(again, before)).status_code == (401 if ended and not log else 200)
            files = sorted(path.name for path in (scene.folder / "data" / "keys").glob("*.pem"))
            assert len(files) == 2  # one of each: what was made for a step that came to nothing is destroyed
            await scene.check(again, *([] if ended and not log else [before]))


@pytest.mark.parametrize("point", _POINTS)
@pytest.mark.parametrize("commit", [1, 2, 3])
async def test_killed_in_the_first_start(scene: Scene, commit: int, point: str) -> None:
    """Whatever the first start had done when it died, the next one brings it to the end: one set of policies."""
    async with scene.alive() as run:
        settings = run.broker.settings
    shutil.rmtree(scene.folder / "data")
    databases.drop(scene.folder)
    databases.url_for(scene.folder)  # made anew, and empty
    scene.arm(point, commit)
    await scene.server.start(settings, scene.armed)
    await scene.died()
    async with scene.alive() as again:
        kinds = await again.kinds()
        assert kinds.count("ChangeActivated") == 1
        assert kinds.count("BrokerStarted") == (2 if (commit, point) == (3, "committed") else 1)
        assert kinds.count("KeyInUse") == 1
        await scene.check(again)


@pytest.mark.parametrize("point", _POINTS)
async def test_killed_while_it_mends(scene: Scene, point: str) -> None:
    """A death while the last run's open calls are closed leaves each with exactly one end."""
    run = await scene.set_up()
    exchange = _exchange(run)
    assert (await exchange.send(run)).status_code == 200
    scene.arm("committed", 1)
    with pytest.raises(httpx2.HTTPError):
        await _call(run, exchange)
    await scene.died()
    assert scene.settings is not None
    scene.arm(point, 1)
    await scene.server.start(scene.settings, scene.armed)
    await scene.died()
    async with scene.alive() as again:
        rows = await scene.check(again, exchange)
    assert [row["kind"] for row in rows].count("CallAbandoned") == 1
