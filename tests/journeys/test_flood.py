"""A flood of unauthenticated garbage: it neither fills the disk nor the memory, and honest agents notice nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from broker import jobs
from broker.audit.refusals import MAX_COUNTED
from broker.entropy import new_id, system_entropy
from broker.formats import dpop, jws
from tests.build import MODEL, Running, call_headers, es256, running, token_request
from tests.fakes import FakeClock
from tests.serving import http_client

_FORM = {"content-type": "application/x-www-form-urlencoded"}
_EXCHANGE = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange&"
_JWT = "subject_token_type=urn:ietf:params:oauth:token-type:jwt&"
_CHAT = "/openai/v1/chat/completions"
_ROUNDS = 6

Garbage = tuple[str, str, dict[str, Any]]


def _garbage(run: Running) -> Iterator[Garbage]:
    """One round of what a stranger may send: method, path and the rest. Every one of it is refused and counted."""
    key = es256()

    def proof(path: str) -> str:
        return dpop.prove(key, method="POST", url=run.url + path, now=run.clock.now(), jti=new_id(system_entropy))

    forged = jws.sign(
        {"alg": "ES256", "typ": "JWT", "kid": "x"},
        {"iss": run.platform.issuer, "sub": "job-7", "aud": run.url, "exp": run.clock.now() + 60},
        key,
    )
    yield "POST", "/token", {}
    yield "POST", "/token", {"json": {"grant_type": "password"}}
    yield "POST", "/token", {"content": b"\xff\xfe=\x00", "headers": _FORM}
    yield "POST", "/token", {"content": "&&&&=;=%zz", "headers": _FORM}
    yield "POST", "/token", {"content": "a=1&" * 60, "headers": _FORM}
    yield "POST", "/token", {"content": "grant_type=password&username=a", "headers": _FORM}
    yield "POST", "/token", {"content": "grant_type=x&grant_type=y", "headers": _FORM}
    yield "POST", "/token", {"content": _EXCHANGE + _JWT + "subject_token=not.a.jwt", "headers": _FORM}
    yield "POST", "/token", {"content": _EXCHANGE + _JWT + "subject_token=e30.e30.", "headers": _FORM}
    yield "POST", "/token", {"content": "x=" + "a" * 70_000, "headers": _FORM}
    yield "POST", "/token", {"content": _EXCHANGE, "headers": {**_FORM, "DPoP": "not a proof"}}
    yield (
        "POST",
        "/token",
        {
            "content": f"{_EXCHANGE}{_JWT}subject_token={forged}",
            "headers": {**_FORM, "DPoP": proof("/token")},
        },
    )
    yield (
        "POST",
        "/token",
        {
            "content": "grant_type=client_credentials&client_assertion_type="
            f"urn:ietf:params:oauth:client-assertion-type:jwt-bearer&client_assertion={forged}",
            "headers": {**_FORM, "DPoP": proof("/token")},
        },
    )
    yield "POST", _CHAT, {"json": {"model": MODEL, "messages": []}}
    yield "POST", _CHAT, {"content": b"{" * 5000, "headers": {"authorization": "Bearer sk-123"}}
    yield "POST", _CHAT, {"content": b"x", "headers": {"authorization": f"DPoP {forged}", "DPoP": proof(_CHAT)}}
    yield "GET", "/openai/v1/models", {"headers": {"authorization": "DPoP " + "a" * 4000}}
    yield "GET", "/api/v1/agents", {}
    yield "POST", "/api/v1/changes", {"json": {"agents": {}}, "headers": {"authorization": f"DPoP {forged}"}}
    yield "POST", "/login", {"content": b"not json"}
    yield "POST", "/login", {"json": {"code": ["x"]}}
    yield "POST", "/login", {"json": {"code": "guess"}}
    yield "POST", "/login", {"json": {"code": new_id(system_entropy)}, "headers": {"DPoP": proof("/login")}}


async def _send(client: httpx2.AsyncClient, garbage: Garbage) -> None:
    method, path, rest = garbage
    answer = await client.request(method, path, **rest)
    assert 400 <= answer.status_code < 500, f"{method} {path}: {answer.status_code} {answer.text}"


async def _stored(run: Running, table: str) -> int:
    return await run.broker.read(
        lambda session: int(session.connection().exec_driver_sql(f"SELECT count(*) FROM {table}").scalar_one())
    )


async def _size(run: Running) -> int:
    """How large the database is when everything is in its place, in bytes."""
    pages = {
        "sqlite": "SELECT page_count * 4096 FROM pragma_page_count",
        "postgresql": "SELECT pg_database_size(current_database())",
    }[run.broker.engine.dialect.name]
    return await run.broker.read(lambda session: int(session.connection().exec_driver_sql(pages).scalar_one()))


async def test_a_flood_fills_nothing_and_stops_nobody(tmp_path: Path) -> None:
    """While strangers send garbage everywhere honest exchanges and calls all succeed; what stays of the garbage is a
    count for each reason, and no claim."""
    clock = FakeClock()
    async with running(tmp_path, clock=clock) as run:
        await run.apply(run.world())
        key = es256()
        first = await token_request(run, key=key)
        await run.check_log()
        clock.advance(61)  # into a minute of its own
        kinds, claims, size = await run.kinds(), await _stored(run, "claims"), await _size(run)
        garbage = [each for _ in range(_ROUNDS) for each in _garbage(run)]

        async def flood(part: int) -> None:
            async with http_client(base_url=run.url, timeout=30) as client:
                for each in garbage[part::4]:
                    await _send(client, each)

        async def honest() -> list[int]:
            async with http_client(base_url=run.url, timeout=30) as client:
                found = []
                for _ in range(10):
                    found.append((await token_request(run, key=key)).status_code)
                    headers = call_headers(run, first.json()["access_token"], key)
                    body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
                    found.append((await client.post(_CHAT, json=body, headers=headers)).status_code)
            return found

        served, *_ = await asyncio.gather(honest(), *(flood(part) for part in range(4)))
        assert served == [200] * 20
        during = (await run.kinds())[len(kinds) :]
        assert sorted(during) == sorted(["TokenIssued", "CallAdmitted", "CallCompleted"] * 10)
        assert await _stored(run, "claims") == claims + 10 * 2 + 10 * 2  # proof and evidence; proof and end of a call
        assert len(run.provider.received) == 10
        clock.advance(60)
        await jobs.write_refusals(run.broker)
        counted = (await run.kinds())[len(kinds) + len(during) :]
        assert set(counted) == {"RefusalsCounted"}
        reasons = await _counted(run)
        assert sum(reasons.values()) == len(garbage)
        assert len(counted) == len(reasons) < 24
        assert await _size(run) - size < 4096 * (len(during) + len(counted))
        await run.check_log()


async def _counted(run: Running) -> dict[str, int]:
    """What the trail tells of strangers: how often, by reason; all of it from this machine."""

    def read(session: Any) -> dict[str, int]:
        found = {}
        for (groups,) in session.connection().exec_driver_sql(
            "SELECT groups FROM records WHERE kind = 'RefusalsCounted'"
        ):
            told = orjson.loads(groups)
            request = orjson.loads(told["request"][1])
            assert request["source"] == "127.0.0.1"
            found[orjson.loads(told["decision"][1])["reason"]] = request["count"]
        return found

    return await run.broker.read(read)


async def test_what_the_flood_leaves_in_memory_is_bounded(tmp_path: Path) -> None:
    """Strangers' proofs, sources and tokens leave nothing in memory that grows with them."""
    async with running(tmp_path) as run:
        await run.apply(run.world())
        await _rounds(run, 1)
        sizes: dict[str, Callable[[], int]] = {
            "replay": lambda: len(run.broker.tokens.replay),
            "tokens": lambda: len(run.broker.verifier._verified),
            "instances": lambda: len(run.broker.instances),
            "agents": lambda: len(run.broker.directory.agents),
            "refusals": lambda: len(run.broker.refusals._counts),
        }
        before = {name: size() for name, size in sizes.items()}
        await _rounds(run, 3)
        assert {name: size() for name, size in sizes.items()} == before
        assert before["refusals"] <= MAX_COUNTED


async def _rounds(run: Running, count: int) -> None:
    async with http_client(base_url=run.url, timeout=30) as client:
        for _ in range(count):
            for each in _garbage(run):
                await _send(client, each)


@pytest.mark.parametrize("announced", [b"Content-Length: 10000000000", b"Transfer-Encoding: chunked"])
async def test_a_stranger_cannot_make_the_broker_hold_a_body(tmp_path: Path, announced: bytes) -> None:
    """Who has proved nothing is answered before a large body is whole, on every route that takes one."""
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    async with running(tmp_path) as run:
        for path in ("/token", "/login", _CHAT, "/api/v1/changes", "/api/v1/contain", "/api/v1/policies/check"):
            reader, writer = await asyncio.open_connection("127.0.0.1", int(run.url.rpartition(":")[2]))
            writer.write(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" % path.encode())
            writer.write(announced + b"\r\n\r\n" + 2 * chunk)
            async with asyncio.timeout(5):
                status = await reader.readline()
            assert status.startswith(b"HTTP/1.1 4"), f"{path}: {status!r}"
            writer.close()
