"""Behind a named proxy, over HTTP: its last word on where a request comes from is what records and links go by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from broker.entropy import new_id, system_entropy
from broker.formats import dpop
from tests.build import Running, es256, free_port, running
from tests.serving import http_client


def _behind(proxy: str | None) -> dict[str, Any]:
    port = free_port()
    server = {"trusted_proxy": proxy, "public_url": f"http://127.0.0.1:{port}"}
    return {"port": port, "server": server}


async def _refused(run: Running, *headers: tuple[str, str]) -> None:
    async with http_client() as client:
        answer = await client.post(f"{run.url}/token", headers=[*headers], data={"grant_type": "none"})
    assert answer.status_code == 400


def _sources(run: Running) -> dict[str, object]:
    """Where refusals were counted from, and how many."""
    events = run.broker.refusals.drain(run.clock.now(), everything=True)
    requests = [event.request or {} for event in events]
    return {str(request["source"]): request["count"] for request in requests}


async def test_the_named_proxys_last_word_is_counted(tmp_path: Path) -> None:
    """What the client wrote before it, in one field or several, is not believed; its silence is nobody's address."""
    async with running(tmp_path, **_behind("127.0.0.1")) as run:
        await _refused(run, ("X-Forwarded-For", "127.0.0.1, 203.0.113.9"))
        await _refused(run, ("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-For", "203.0.113.9"))
        await _refused(run)
        assert _sources(run) == {"203.0.113.9": 2, "unknown": 1}


@pytest.mark.parametrize("proxy", [None, "192.0.2.1"])
async def test_nobody_else_says_where_a_request_comes_from(tmp_path: Path, proxy: str | None) -> None:
    """Without a named proxy, and from another address than its own, the header is a claim of the caller's."""
    async with running(tmp_path, **_behind(proxy)) as run:
        await _refused(run, ("X-Forwarded-For", "203.0.113.9"))
        assert _sources(run) == {"127.0.0.1": 1}


@pytest.mark.parametrize(("forwarded", "status"), [("203.0.113.9", 403), ("127.0.0.1, 203.0.113.9", 403)])
async def test_the_terminals_link_is_not_for_those_behind_the_proxy(
    tmp_path: Path, forwarded: str, status: int
) -> None:
    """The proxy's own place on this machine does not make its clients local, whatever they claim."""
    async with running(tmp_path, **_behind("127.0.0.1")) as run:
        code = (await run.broker.sign_in.link("admin")).partition("#")[2]
        url, key = f"{run.url}/login", es256()
        async with http_client() as client:
            for says, expected in ((forwarded, status), ("127.0.0.1", 200)):
                proof = dpop.prove(key, method="POST", url=url, now=run.clock.now(), jti=new_id(system_entropy))
                headers = {"DPoP": proof, "X-Forwarded-For": says}
                assert (await client.post(url, json={"code": code}, headers=headers)).status_code == expected
