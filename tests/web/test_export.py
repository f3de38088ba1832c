"""The export over HTTP: whose it is, at whose pace it comes, and that no prompt or answer is in it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from typing import Any

import httpx2
import orjson
import pytest
import pytest_asyncio
from fastapi.responses import StreamingResponse
from sqlalchemy import event as database_event

from broker.audit import export, ocsf
from broker.audit.disclosure import WHOLE
from broker.audit.events import Event, Kind
from broker.audit.log import Step
from broker.audit.trail import Query
from broker.errors import InvalidToken
from broker.web.api.audit import EXPORTS_EACH
from tests.audit.ocsf_schemas import faults
from tests.build import AGENT, MODEL, OTHER_MODEL, Running, es256, token_request
from tests.gateway.world import by_hand

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATH = "/api/v1/audit/export"
PROMPT = "the-prompt-that-is-nobodys-business"
LARGE = 15_000


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(run: Running) -> httpx2.AsyncClient:
    """An admin and auditor; in the log is some of everything that people and agents do."""
    client = await run.operator()
    caller = await by_hand(run)
    asked = [{"role": "user", "content": PROMPT}]
    assert (await caller.post({"model": MODEL, "messages": asked})).status_code == 200
    assert (await caller.post({"model": OTHER_MODEL, "messages": asked})).status_code == 403
    assert (await token_request(run, evidence=run.evidence("stranger"))).status_code >= 400
    link = await run.broker.sign_in.link("admin")
    with pytest.raises(AssertionError):
        await run.operator(link=link + "x")
    what = {"section": "agents", "name": "nightly", "status": "suspended", "why": PROMPT}
    assert (await client.post("/api/v1/contain", json=what)).status_code == 200
    assert (await client.post("/api/v1/changes", json={"agents": {"x": {}}})).status_code >= 400
    assert (await client.post("/api/v1/keys/rotate", json={"what": "token", "why": PROMPT})).status_code < 500
    await asyncio.to_thread(run.broker.tree.integrate)
    return client


def _lines(body: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    found = [orjson.loads(line) for line in body.splitlines()]
    return [each for each in found if "export" not in each], found[-1]["export"]


@contextmanager
def _pages_read(run: Running) -> Iterator[list[str]]:
    """The pages that are read from the database meanwhile."""
    seen: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "records.idx IN" in statement:
            seen.append(statement)

    database_event.listen(run.broker.engine, "before_cursor_execute", count)
    try:
        yield seen
    finally:
        database_event.remove(run.broker.engine, "before_cursor_execute", count)


async def _grow(run: Running, count: int, size: int) -> None:
    """Records of so many bytes each."""
    for _ in range(0, count, 50):
        now = run.clock.now()
        big = Event(
            Kind.REFUSALS_COUNTED,
            agent="big",
            at=now,
            request_id="big",
            decision={"outcome": "deny", "reason": "x" * size},
            request={"source": "s", "minute": 1, "count": 1},
        )
        await run.broker.audit.record(Step((big,) * 50))
    await asyncio.to_thread(run.broker.tree.integrate)


async def test_what_people_and_agents_did_is_exported_without_what_they_said(
    run: Running, admin: httpx2.AsyncClient
) -> None:
    """Every record is a valid event; no prompt is in a line, and in an event not even the reason that a person gave."""
    answer = await admin.get(PATH)
    assert answer.headers["content-type"] == "application/x-ndjson"
    records, end = _lines(answer.content)
    assert [each["index"] for each in records] == list(range(len(records)))
    assert end["more"] is False
    seen = {each["kind"] for each in records}
    assert seen >= {
        "BrokerStarted", "TokenIssued", "TokenRefused", "AgentEnrolled", "AgentContained", "CallAdmitted",
        "CallRefused", "CallCompleted", "ChangeActivated", "ChangeRefused", "KeyInUse", "LinkIssued",
        "OperatorSignedIn",
    }  # fmt: skip
    events = [ocsf.event(each) for each in records]
    assert [fault for each in events for fault in faults(each)] == []
    assert PROMPT.encode() not in orjson.dumps(events)
    said = [each for each in records if each["kind"] not in ("AgentContained", "KeyPublished", "KeyInUse", "KeyEnded")]
    assert PROMPT.encode() not in orjson.dumps(said)
    assert run.provider.key.encode() not in answer.content


@pytest.mark.parametrize(
    ("filter", "value"),
    [
        ("agent", AGENT), ("owner", "team-data"), ("human", "admin"), ("action", "call"), ("outcome", "deny"),
        ("model", f"stand-in/{MODEL}"), ("policy", "nightly-job"), ("kind", "TokenIssued"),
    ],
)  # fmt: skip
async def test_an_export_narrows_as_a_search_does(admin: httpx2.AsyncClient, filter: str, value: str) -> None:
    """By each filter, the same records come in the other order; some, and not all."""
    params: dict[str, Any] = {filter: value}
    exported, end = _lines((await admin.get(PATH, params=params)).content)
    size = int(end["cursor"].split(":")[1])
    found = (await admin.get("/api/v1/audit/records", params=params | {"limit": 500, "oldest_first": True})).json()
    assert [each["index"] for each in exported] == [n["index"] for n in found["records"] if n["index"] < size]
    assert 0 < len(exported) < size
    assert end["more"] is False


async def test_so_many_exports_are_written_at_once(run: Running, admin: httpx2.AsyncClient) -> None:
    """One more is told when to ask again, unrecorded; readers who take nothing keep nobody else from anything."""
    await _grow(run, 6 * export.PAGE, LARGE)
    applied = await run.apply({"operators": {"rita": {"roles": ["auditor"], "new_link": True}}}, admin)
    rita = await run.operator("rita", link=applied["sign_in_links"]["rita"], key=es256())
    async with AsyncExitStack() as held:
        for who, refused in ((admin, f"{EXPORTS_EACH} of the exports being written are yours"), (rita, "8 exports")):
            for _ in range(EXPORTS_EACH):
                assert (await held.enter_async_context(who.stream("GET", PATH))).status_code == 200
            size = run.broker.audit.size
            answer = await admin.get(PATH)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "10")
            assert answer.json()["detail"].startswith(refused)
            assert run.broker.audit.size == size
        assert (await admin.get("/api/v1/audit/records")).status_code == 200
    for _ in range(1_000):  # until the broker has noticed who left
        if (await admin.get(PATH, params={"kind": "AgentContained"})).status_code == 200:
            return
    raise AssertionError("the room of an export was never given back")


async def test_only_an_auditor_exports(run: Running, admin: httpx2.AsyncClient) -> None:
    """An admin who is no auditor is refused, and that is on record."""
    applied = await run.apply({"operators": {"adele": {"roles": ["admin"], "new_link": True}}}, admin)
    adele = await run.operator("adele", link=applied["sign_in_links"]["adele"], key=es256())
    assert (await adele.get(PATH)).status_code == 403
    await asyncio.to_thread(run.broker.tree.integrate)
    records, _ = _lines((await admin.get(PATH, params={"kind": "OperatorRefused", "agent": "operator:adele"})).content)
    assert records[-1]["groups"]["what"]["resource"] == f"GET {PATH}"


@pytest.mark.parametrize(
    ("query", "status"),
    [({"after": "7"}, 400), ({"kind": "Nothing"}, 400), ({"agnet": "x"}, 400), ({"after": "1:1:" + "0" * 64}, 409)],
)
async def test_what_cannot_be_exported_is_said_first(
    admin: httpx2.AsyncClient, query: dict[str, str], status: int
) -> None:
    """With a status of its own, before any record."""
    assert (await admin.get(PATH, params=query)).status_code == status


async def test_nothing_is_read_ahead_of_the_reader(run: Running, admin: httpx2.AsyncClient) -> None:
    """While a page is not taken, the next is not read; when the reader goes on, all comes; when it leaves, no more."""
    await _grow(run, 3 * export.PAGE, 1)
    start = export.begin(run.broker.tree, "")
    got: list[bytes] = []
    free = asyncio.Event()
    stopped = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and message["body"]:
            got.append(message["body"])
            stopped.set()
            await free.wait()

    def exporting() -> asyncio.Task[None]:
        response = StreamingResponse(export.stream(run.broker.read, Query(), start, WHOLE))
        return asyncio.create_task(response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send))

    with _pages_read(run) as pages:
        task = exporting()
        await stopped.wait()
        for _ in range(20):  # whatever would read on has every occasion to
            assert (await admin.get("/api/v1/keys")).status_code == 200
        assert (len(pages), len(got)) == (1, 1)
        free.set()
        await task
        records, end = _lines(b"".join(got))
        assert [each["index"] for each in records] == list(range(start.size))
        assert (end["more"], len(pages)) == (False, len(got))
        pages.clear()
        free.clear()
        stopped.clear()
        left = exporting()
        await stopped.wait()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        assert (await admin.get("/api/v1/keys")).status_code == 200
        assert len(pages) == 1


async def test_a_reader_who_stops_stops_the_export(run: Running, admin: httpx2.AsyncClient) -> None:
    """Over a real connection: what no buffer holds stays in the database until it is read, and nothing is left out."""
    await _grow(run, 4 * export.PAGE, LARGE)
    size = export.begin(run.broker.tree, "").size
    body = bytearray()
    with _pages_read(run) as pages:
        async with admin.stream("GET", PATH) as answer:
            parts = answer.aiter_bytes()
            while len(body) < 100_000:
                body += await anext(parts)
            for _ in range(20):
                assert (await admin.get("/api/v1/keys")).status_code == 200
            stood_at = len(pages)
            async for part in parts:
                body += part
    records, end = _lines(bytes(body))
    assert [each["index"] for each in records] == list(range(size))
    assert end["cursor"].startswith(f"{size}:{size}:")
    assert stood_at < len(pages) - 1


@contextmanager
def _behind_page(run: Running, number: int, act: Callable[[], object]) -> Iterator[None]:
    """Acts in the thread that reads an export, as the page of that number is read."""
    seen: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "records.idx IN" in statement:
            seen.append(statement)
            if len(seen) == number:
                act()

    database_event.listen(run.broker.engine, "before_cursor_execute", count)
    try:
        yield
    finally:
        database_event.remove(run.broker.engine, "before_cursor_execute", count)


async def test_who_may_read_no_more_is_shown_no_further_page(run: Running, admin: httpx2.AsyncClient) -> None:
    """The page that was read is the last; the export says why it ends, and where, and the refusal is on record."""
    await _grow(run, 3 * export.PAGE, 1)
    size = export.begin(run.broker.tree, "").size
    directory = run.broker.directory
    whole = directory.operators["admin"]
    try:
        with _behind_page(run, 2, lambda: directory.operators.update(admin=replace(whole, status="suspended"))):
            records, end = _lines((await admin.get(PATH)).content)
    finally:
        directory.operators["admin"] = whole
    assert len(records) == 2 * export.PAGE
    assert end["error"] == "access_denied"
    assert end["cursor"].startswith(f"{2 * export.PAGE}:{size}:")
    await asyncio.to_thread(run.broker.tree.integrate)
    refused = {"kind": "OperatorRefused", "agent": "operator:admin"}
    assert (await admin.get("/api/v1/audit/records", params=refused)).json()["records"][0]["groups"]["what"] == {
        "action": "readTrail",
        "resource": f"GET {PATH}",
    }


async def test_a_token_that_ends_ends_a_stretch_and_not_the_export(run: Running, admin: httpx2.AsyncClient) -> None:
    """No page is read under it any more; the cursor of what came leads to the rest, for whoever shows who it is."""
    await _grow(run, 2 * export.PAGE, 1)
    calls = 0
    start = export.begin(run.broker.tree, "")

    async def read(query: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise InvalidToken("The token has ended. Exchange evidence again.")
        return await run.broker.read(query)

    body = b"".join([part async for part in export.stream(read, Query(), start, WHOLE)])
    records, end = _lines(body)
    assert (len(records), end["more"], calls) == (export.PAGE, True, 2)
    rest, _ = _lines((await admin.get(PATH, params={"after": end["cursor"]})).content)
    assert rest[0]["index"] == export.PAGE
