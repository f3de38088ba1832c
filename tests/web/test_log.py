"""The public side of the log: what anybody may read, under the paths of C2SP tlog-tiles and no others."""

from __future__ import annotations

import asyncio

import httpx2
import pytest
import pytest_asyncio

from broker.audit.events import Event, Kind
from broker.audit.log import Step
from broker.db.engine import writing
from broker.formats import checkpoint, merkle
from broker.formats.note import NoteVerifier
from tests.build import Running

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def reader(run: Running) -> httpx2.AsyncClient:
    """Somebody without any token, and a log of more than one tile."""
    nothing = Event(Kind.BROKER_STOPPED, agent="broker", at=run.clock.now(), request_id="filler")
    await run.broker.audit.record(Step((nothing,) * 300))
    await asyncio.to_thread(run.broker.tree.integrate)
    assert run.broker.audit.size > 256
    return await run.client()


async def test_the_checkpoint_is_the_newest(run: Running, reader: httpx2.AsyncClient) -> None:
    """A signed note over the log as it is, that no cache keeps."""
    answer = await reader.get("/log/checkpoint")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["cache-control"] == "no-store"
    head = checkpoint.open_signed(answer.text, NoteVerifier.parse(run.broker.log_key))
    assert head.size == run.broker.audit.size


async def test_tiles_never_change(run: Running, reader: httpx2.AsyncClient) -> None:
    """Full and partial tiles are hashes of 32 bytes each that every cache may keep for ever, and fit each other."""
    size = run.broker.audit.size
    full = await reader.get("/log/tile/0/000")
    partial = await reader.get(f"/log/tile/0/001.p/{size - 256}")
    above = await reader.get("/log/tile/1/000.p/1")
    for answer, width in ((full, 256), (partial, size - 256), (above, 1)):
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/octet-stream"
        assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert len(answer.content) == 32 * width
    leaves = [full.content[place : place + 32] for place in range(0, 8192, 32)]
    assert merkle.root_of(leaves) == above.content
    shorter = await reader.get(f"/log/tile/0/001.p/{size - 257}")
    assert partial.content.startswith(shorter.content)
    assert (await reader.get("/log/tile/0/000.p/3")).content == full.content[:96]


@pytest.mark.parametrize(
    "path",
    [
        "/log/",
        "/log/entries",
        "/log/checkpoint/",
        "/log/tile/0/001",
        "/log/tile/0/001.p/256",
        "/log/tile/0/000.p/256",
        "/log/tile/0/000.p/0",
        "/log/tile/0/000.p/007",
        "/log/tile/0/000.p/",
        "/log/tile/0/000.p/-1",
        "/log/tile/0/0",
        "/log/tile/0/0000",
        "/log/tile/0/x000/000",
        "/log/tile/0/x001/000",
        "/log/tile/0/x000/x000/000",
        "/log/tile/00/000",
        "/log/tile/-1/000",
        "/log/tile/1/000",
        "/log/tile/7/000",
        "/log/tile/63/000",
        "/log/tile/99/000",
        "/log/tile/entries/000",
        "/log/tile/0/000.p/1/2",
        "/log/tile/0/000%0a",
        "/log/tile/0/../../checkpoint",
        "/log/tile/0/%d9%a0%d9%a0%d9%a0",
        "/log/tile/0/" + "x999/" * 6 + "999",
        "/log/tile/0/" + "x001/" * 2000 + "000",
    ],
)
async def test_other_paths_are_nothing(run: Running, reader: httpx2.AsyncClient, path: str) -> None:
    """A tile has one path; every other is 404, however large the number in it, and is not cached."""
    answer = await reader.send(httpx2.Request("GET", run.url + path, extensions={"target": path.encode()}))
    assert answer.status_code == 404
    assert "immutable" not in answer.headers.get("cache-control", "")


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "DELETE"])
async def test_the_log_is_read_and_not_written(reader: httpx2.AsyncClient, method: str) -> None:
    """No other method does anything."""
    for path in ("/log/checkpoint", "/log/tile/0/000"):
        assert (await reader.request(method, path)).status_code in (404, 405)


async def test_a_record_is_not_public(run: Running, reader: httpx2.AsyncClient) -> None:
    """Tiles and the checkpoint hold hashes: neither an agent's name nor any entry is in them."""
    everything = b""
    for path in ("/log/checkpoint", "/log/tile/0/000", "/log/tile/1/000.p/1"):
        everything += (await reader.get(path)).content
    for word in (b"nightly", b"RefusalsCounted", b"operator:admin", b"agent_tag"):
        assert word not in everything


@pytest.mark.sqlite
async def test_a_log_that_cannot_be_read(run: Running, reader: httpx2.AsyncClient) -> None:
    """A database that fails or lies is an error without detail in the API's shape, and passes with its cause."""
    size = run.broker.audit.size
    for broken, mended, status in (
        ("ALTER TABLE log_head RENAME TO away", "ALTER TABLE away RENAME TO log_head", 503),
        ("UPDATE log_head SET size = 'hunter2'", f"UPDATE log_head SET size = {size}", 500),
    ):
        with writing(run.broker.engine) as connection:
            connection.exec_driver_sql(broken)
        answer = await reader.get("/log/checkpoint")
        with writing(run.broker.engine) as connection:
            connection.exec_driver_sql(mended)
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"
        assert "log_head" not in answer.text
        assert "hunter2" not in answer.text
    assert (await reader.get("/log/checkpoint")).status_code == 200
