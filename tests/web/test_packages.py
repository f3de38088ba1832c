"""Evidence packages over HTTP: who may go on with one, how many there are at once, and that a cut one is none."""

from __future__ import annotations

import asyncio
import os
import threading
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from sqlalchemy import event as database_event

from broker.audit.events import Event, Kind
from broker.audit.log import Step
from broker.clock import SystemClock
from broker.entropy import system_entropy
from broker.web.api.packages import AT_ONCE, PackageRoom
from broker.web.api.streams import Bounded
from tests.build import Running, es256, running
from tests.cli.running import signed_in
from tests.fakes import FakeClock

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/v1/audit/package"
_PAGES = 3
_READS = "entry, commitments, groups FROM records WHERE idx >="
"""Of a statement that reads a page of a package."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def run(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    """A broker with more records than one page of a package holds, and than fit into one piece."""
    clock = FakeClock(SystemClock().now())
    async with running(tmp_path_factory.mktemp("packages"), clock=clock) as started:
        started.whole_records = False
        noise = {"outcome": "deny", "reason": system_entropy(500).hex()}
        big = Event(Kind.REFUSALS_COUNTED, agent="big", at=clock.now(), request_id="big", decision=noise)
        await started.broker.audit.record(Step((big,) * (256 * _PAGES)))
        await asyncio.to_thread(started.broker.tree.integrate)
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(run: Running) -> httpx2.AsyncClient:
    """An admin and auditor."""
    return await run.operator()


@contextmanager
def _at_page(run: Running, number: int, act: Callable[[], object]) -> Iterator[None]:
    """Acts, in the thread that writes the package, before the page of that number is read."""
    seen: list[str] = []

    def look(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if _READS in statement:
            seen.append(statement)
            if len(seen) == number + 1:  # the first of all looks whether there is any
                act()

    database_event.listen(run.broker.engine, "before_cursor_execute", look)
    try:
        yield
    finally:
        database_event.remove(run.broker.engine, "before_cursor_execute", look)
    assert len(seen) > number


async def _auditor(run: Running, admin: httpx2.AsyncClient, name: str) -> str:
    world = {"operators": {name: {"roles": ["auditor"], "new_link": True}}}
    link: str = (await run.apply(world, admin))["sign_in_links"][name]
    return link


def _posting(admin: httpx2.AsyncClient, path: str, what: dict[str, Any]) -> Callable[[], object]:
    loop = asyncio.get_running_loop()

    def act() -> None:
        answer = asyncio.run_coroutine_threadsafe(admin.post(f"/api/v1/{path}", json=what), loop).result()
        assert answer.status_code == 200, answer.text

    return act


def _suspend(admin: httpx2.AsyncClient, name: str) -> Callable[[], object]:
    return _posting(admin, "contain", {"section": "operators", "name": name, "status": "suspended", "why": "test"})


async def _cut(client: httpx2.AsyncClient) -> bytes:
    """What came of a package before it broke off."""
    got = bytearray()

    async def take() -> None:
        async with client.stream("GET", PATH) as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_bytes():
                got.extend(piece)

    with pytest.raises(httpx2.RemoteProtocolError):
        await take()
    with pytest.raises(zipfile.BadZipFile):
        zipfile.ZipFile(BytesIO(got))
    return bytes(got)


async def test_a_role_that_is_taken_away_ends_a_package(run: Running, admin: httpx2.AsyncClient) -> None:
    """In the middle, and on record."""
    rita = await run.operator("rita", link=await _auditor(run, admin, "rita"), key=es256())
    with _at_page(run, 2, _suspend(admin, "rita")):
        assert await _cut(rita)
    await asyncio.to_thread(run.broker.tree.integrate)
    found = (await admin.get("/api/v1/audit/records", params={"kind": "OperatorRefused"})).json()["records"]
    assert [each["groups"]["who"]["agent"] for each in found] == ["operator:rita"]
    assert found[0]["groups"]["what"] == {"action": "readTrail", "resource": f"GET {PATH}"}


async def test_who_is_shown_less_by_now_is_not_shown_the_rest(run: Running, admin: httpx2.AsyncClient) -> None:
    """A policy that withholds a group ends the packages in which it is shown."""
    iris = await run.operator("iris", link=await _auditor(run, admin, "iris"), key=es256())
    less = """@id("less") forbid (principal == Operator::"iris", action == Action::"readGroup", resource)
        when { context.group == "posture" };"""
    with _at_page(run, 2, _posting(admin, "changes", {"policies": {"less.cedar": less}})):
        assert await _cut(iris)
    assert (await iris.get(PATH)).status_code == 200
    found = (await admin.get("/api/v1/audit/records", params={"action": "readGroup"})).json()["records"]
    assert [each["groups"]["decision"]["policies"] for each in found] == [["less"]]


async def test_a_package_that_broke_off_leaves_no_file(run: Running, admin: httpx2.AsyncClient, tmp_path: Path) -> None:
    """Neither a folder nor a ZIP file, and the text says why it may be."""
    person = await asyncio.to_thread(signed_in, tmp_path / "home", await _auditor(run, admin, "omar"))
    with _at_page(run, 2, _suspend(admin, "omar")):
        said = await asyncio.to_thread(person.refused, "audit", "package", str(tmp_path / "evidence"), "--zip")
    assert "broke off in the middle, and nothing of it is kept" in said
    assert os.listdir(tmp_path) == ["home"]


async def test_a_token_that_ends_ends_a_package(run: Running, admin: httpx2.AsyncClient) -> None:
    """Whoever wants more asks again, and shows who it is."""
    clock = run.clock
    assert isinstance(clock, FakeClock)
    with _at_page(run, 2, lambda: clock.advance(run.broker.rules.lifetime_s)):
        assert await _cut(admin)
    answer = await admin.get(PATH)
    assert zipfile.ZipFile(BytesIO(answer.content)).testzip() is None


async def test_so_many_are_written_at_once(run: Running, admin: httpx2.AsyncClient) -> None:
    """One more is told when to ask again, before anything is recorded; when one ends or is left, there is room."""
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def wait(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if _READS in statement and threading.current_thread().name.startswith("package"):
            begun.release()
            go_on.wait(30)

    other = await run.operator("second", link=await _auditor(run, admin, "second"), key=es256())
    database_event.listen(run.broker.engine, "before_cursor_execute", wait)
    try:
        under_way = list[asyncio.Task[httpx2.Response]]()
        for who, refused in ((admin, "1 of the evidence packages being written are yours"), (other, "2 evidence pack")):
            under_way.append(asyncio.create_task(who.get(PATH)))
            assert await asyncio.to_thread(begun.acquire, timeout=30)
            size = run.broker.audit.size
            answer = await admin.get(PATH)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            assert answer.json()["detail"].startswith(refused)
            assert run.broker.audit.size == size
        assert (await admin.get("/api/v1/audit/records")).status_code == 200
        under_way[0].cancel()
        go_on.set()
        assert (await under_way[1]).status_code == 200
    finally:
        go_on.set()
        database_event.remove(run.broker.engine, "before_cursor_execute", wait)
    for _ in range(AT_ONCE):
        assert (await admin.get(PATH, params={"agent": "nobody"})).status_code == 404
    for _ in range(1_000):  # until the broker has noticed who left
        if [answer.status_code for answer in await asyncio.gather(admin.get(PATH), other.get(PATH))] == [200, 200]:
            return
    raise AssertionError("the room of a package was never given back")


async def test_a_reader_who_takes_nothing_keeps_no_room() -> None:
    """The answer ends with its time although nobody took the first piece, and without the end of a whole one."""
    room, sent = PackageRoom(), list[Any]()

    async def send(message: Any) -> None:
        sent.append(message)
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def still() -> None:
        return None

    room.take("a")
    answer = Bounded(room.pieces(iter([b"one", b"two"]), still), "application/zip", room, "a", within_s=0)
    async with asyncio.timeout(30):
        await answer({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    room.take("a")  # there is room again
    assert not any(message.get("more_body") is False for message in sent)
