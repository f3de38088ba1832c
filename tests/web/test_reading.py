"""Reading the trail is recorded before it is shown; saved queries; and no route alters or deletes a record."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
import pytest_asyncio

from broker.audit import reads
from broker.audit.saved import MAX_SAVED
from broker.db.engine import execute, writing
from tests.build import AGENT, MODEL, Running, running
from tests.fakes import FakeClock
from tests.faults import locked
from tests.gateway.world import by_hand
from tests.web.routes import PUBLIC, api_routes, app_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

_RECORDS = "/api/v1/audit/records"
_QUERIES = "/api/v1/audit/queries"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def admin(run: Running) -> httpx2.AsyncClient:
    """The first operator, who is admin and auditor; one call has been made."""
    client = await run.operator()
    assert (await (await by_hand(run)).post({"model": MODEL})).status_code == 200
    return client


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rita(run: Running, admin: httpx2.AsyncClient) -> httpx2.AsyncClient:
    """An auditor who is nothing else."""
    told = await run.apply({"operators": {"rita": {"roles": ["auditor"], "new_link": True}}}, admin)
    return await run.operator("rita", link=told["sign_in_links"]["rita"])


async def _get(client: httpx2.AsyncClient, path: str, **parameters: Any) -> Any:
    answer = await client.get(path, params={name: value for name, value in parameters.items() if value is not None})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def _newest(client: httpx2.AsyncClient, run: Running) -> dict[str, Any]:
    """The record that was the newest before this reading of it."""
    size = run.broker.audit.size
    shown: dict[str, Any] = await _get(client, f"{_RECORDS}/{size - 1}")
    return shown


async def test_a_search_leaves_who_asked_what_and_how_many_were_shown(run: Running, rita: httpx2.AsyncClient) -> None:
    """One record, newer than everything that it shows, by the index that the answer names."""
    await _get(rita, _QUERIES)  # a token is at hand
    size = run.broker.audit.size
    answer = await _get(rita, _RECORDS, agent=AGENT, owner="team-data", limit=2)
    assert run.broker.audit.size == size + 1
    assert answer["search"] == size > max(record["index"] for record in answer["records"])
    told = await _newest(rita, run)
    groups = told["groups"]
    assert (told["kind"], told["index"], told["agent"]) == ("TrailRead", size, "operator:rita")
    query = {"agent": AGENT, "owner": "team-data"}
    assert groups["who"] == {"agent": "operator:rita", "roles": ["auditor"], "query": query}
    assert groups["what"] == {"action": "readTrail", "way": "search"}
    assert (groups["request"]["shown"], groups["request"]["next"]) == (2, answer["next"])


@pytest.mark.parametrize(("path", "way"), [("0", "record"), ("0/bundle", "bundle")])
async def test_a_record_read_is_recorded(run: Running, rita: httpx2.AsyncClient, path: str, way: str) -> None:
    """Its groups and its bundle alike, with its index."""
    await run.check_log()
    size = run.broker.audit.size
    await _get(rita, f"{_RECORDS}/{path}")
    assert run.broker.audit.size == size + 1
    assert (await _newest(rita, run))["groups"]["what"] == {"action": "readTrail", "way": way, "index": 0}


@pytest.mark.parametrize("path", [_RECORDS, f"{_RECORDS}/0", f"{_RECORDS}/0/bundle"])
async def test_what_cannot_be_recorded_is_not_shown(run: Running, rita: httpx2.AsyncClient, path: str) -> None:
    """While the database takes no record, a reader is answered 503, and with no word of any record."""
    await _get(rita, _QUERIES)  # a token is at hand
    with locked(run.broker.engine):
        answer = await rita.get(path)
    assert answer.status_code == 503
    assert "groups" not in answer.text


async def test_an_export_is_recorded(run: Running, rita: httpx2.AsyncClient) -> None:
    """The range, and the most that it can have shown, before the first line of it."""
    await run.check_log()
    size = run.broker.audit.size
    answer = await rita.get("/api/v1/audit/export", params={"agent": AGENT})
    assert answer.status_code == 200
    told = (await _newest(rita, run))["groups"]
    assert told["who"]["query"] == {"agent": AGENT}
    assert told["what"] == {"action": "readTrail", "way": "export", "range": [0, size]}
    assert told["request"]["shown"] == size


async def test_what_is_refused_was_not_read(run: Running, rita: httpx2.AsyncClient) -> None:
    """No record of a read for what was not there, nor for a question that could not be asked."""
    size = run.broker.audit.size
    for path, status in ((f"{_RECORDS}/999999", 404), (f"{_RECORDS}?limit=0", 400), (f"{_RECORDS}?saved=none", 404)):
        assert (await rita.get(path)).status_code == status
    assert run.broker.audit.size == size


async def test_the_pages_of_one_search_leave_one_record(run: Running, rita: httpx2.AsyncClient) -> None:
    """Each page names the search; all of them show what there was when it was asked, once."""
    begun = run.broker.audit.size
    page = await _get(rita, _RECORDS, limit=3, oldest_first=True)
    search, seen = page["search"], [record["index"] for record in page["records"]]
    assert search == begun
    while page["next"] is not None:
        page = await _get(rita, _RECORDS, limit=3, oldest_first=True, after=page["next"], search=search)
        assert page["search"] == search
        seen += [record["index"] for record in page["records"]]
    assert seen == list(range(begun))
    assert run.broker.audit.size == begun + 1


async def test_no_page_shows_what_its_search_does_not_tell(run: Running, rita: httpx2.AsyncClient) -> None:
    """A search that ended goes on nowhere, and one that goes on does so behind its first page, in its own order."""
    nothing = (await _get(rita, _RECORDS, after=0))["search"]
    older = await _get(rita, _RECORDS, limit=2, after=6)
    newer = await _get(rita, _RECORDS, limit=2, oldest_first=True)
    assert (older["next"], newer["next"]) == (4, 1)
    size = run.broker.audit.size
    for wrong in (
        {"search": nothing, "after": 0},
        {"search": nothing, "after": 10**6},
        {"search": older["search"], "after": 5},
        {"search": newer["search"], "after": 0, "oldest_first": True},
        {"search": newer["search"], "after": -1, "oldest_first": True},
    ):
        assert (await rita.get(_RECORDS, params=wrong)).status_code == 400, wrong
    for right in (
        {"search": older["search"], "after": 3},
        {"search": newer["search"], "after": 1, "oldest_first": True},
    ):
        assert (await _get(rita, _RECORDS, **right))["records"]
    assert run.broker.audit.size == size


async def test_a_search_whose_record_was_altered_goes_on_nowhere(run: Running, rita: httpx2.AsyncClient) -> None:
    """What nobody can read any more says nothing of where it went on: refused, and no error of the broker's own."""
    page = await _get(rita, _RECORDS, limit=1)
    with writing(run.broker.engine) as connection:
        (good,) = execute(connection, "SELECT groups FROM records WHERE idx = ?", (page["search"],)).one()
        execute(connection, "UPDATE records SET groups = ? WHERE idx = ?", (b"[", page["search"]))
    further = {"limit": 1, "after": page["next"], "search": page["search"]}
    assert (await rita.get(_RECORDS, params=further)).status_code == 400
    with writing(run.broker.engine) as connection:
        execute(connection, "UPDATE records SET groups = ? WHERE idx = ?", (good, page["search"]))
    assert (await rita.get(_RECORDS, params=further)).status_code == 200


@pytest.mark.parametrize("name", ["agent", "owner", "human", "action", "outcome", "model", "policy", "request_id"])
async def test_nobody_asks_by_a_text_without_end(run: Running, rita: httpx2.AsyncClient, name: str) -> None:
    """It would stand in the record of each search; searches and exports refuse it, and nothing is recorded."""
    await _get(rita, _QUERIES)  # a token is at hand
    size = run.broker.audit.size
    for path in (_RECORDS, "/api/v1/audit/export"):
        answer = await rita.get(path, params={name: "x" * 1_001})
        assert (answer.status_code, f"'{name}' is longer than" in answer.json()["detail"]) == (400, True)
    assert run.broker.audit.size == size
    assert (await rita.get(_RECORDS, params={name: "x" * 1_000})).status_code == 200


async def test_a_page_joins_no_search_but_its_own(
    run: Running, admin: httpx2.AsyncClient, rita: httpx2.AsyncClient
) -> None:
    """Another question, another operator's search, another record, no page before it: refused, and nothing is shown."""
    search = (await _get(rita, _RECORDS, agent=AGENT, limit=1))["search"]
    read = run.broker.audit.size
    await _get(rita, f"{_RECORDS}/0")
    own = {"agent": AGENT, "after": 5, "search": search}
    assert (await rita.get(_RECORDS, params=own)).status_code == 200
    size = run.broker.audit.size
    for client, wrong in (
        (rita, own | {"agent": "b"}),
        (rita, own | {"owner": "team-data"}),
        (rita, own | {"search": search - 1}),
        (rita, own | {"search": read}),
        (rita, own | {"search": 0}),
        (rita, own | {"search": 10**9}),
        (rita, {"agent": AGENT, "search": search}),
        (admin, own),
    ):
        answer = await client.get(_RECORDS, params=wrong)
        assert answer.status_code == 400, wrong
        assert "search" in answer.json()["detail"]
    assert run.broker.audit.size == size


async def test_a_search_ends(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An hour after its record, further pages need a new search."""
    clock = FakeClock()
    async with running(tmp_path_factory.mktemp("later"), clock=clock) as run:
        client = await run.operator()
        search = (await _get(client, _RECORDS, limit=1))["search"]
        clock.advance(reads.SEARCH_LIFE_S - 1)
        further = {"after": 2, "search": search}
        assert (await client.get(_RECORDS, params=further)).status_code == 200
        clock.advance(1)
        assert (await client.get(_RECORDS, params=further)).status_code == 400


async def _save(client: httpx2.AsyncClient, name: str, query: object, *, shared: bool = False) -> httpx2.Response:
    return await client.post(_QUERIES, json={"name": name, "query": query, "shared": shared})


async def test_a_private_query_is_its_owners(run: Running, admin: httpx2.AsyncClient, rita: httpx2.AsyncClient) -> None:
    """Kept, listed and run by its owner alone, without a record of its own; what is given beside it goes first."""
    changed = {"kind": "SharedQueryChanged", "limit": 500}
    before = (await _get(admin, _RECORDS, **changed))["records"]
    answer = await _save(rita, "calls", {"kind": "CallAdmitted", "agent": AGENT})
    assert (answer.status_code, answer.json()["record"]) == (200, None)
    assert (await _get(admin, _RECORDS, **changed))["records"] == before
    (listed,) = (await _get(rita, _QUERIES))["queries"]
    assert (listed["name"], listed["shared"], listed["changed_by"]) == ("calls", False, "operator:rita")
    found = await _get(rita, _RECORDS, saved="calls")
    assert {record["kind"] for record in found["records"]} == {"CallAdmitted"}
    assert (await _newest(rita, run))["groups"]["who"]["query"] == {"kind": "CallAdmitted", "agent": AGENT}
    other = await _get(rita, _RECORDS, saved="calls", kind="CallCompleted")
    assert {record["kind"] for record in other["records"]} == {"CallCompleted"}
    assert (await _get(admin, _QUERIES))["queries"] == []
    assert (await admin.get(_RECORDS, params={"saved": "calls"})).status_code == 404
    assert (await _save(admin, "calls", None)).status_code == 404
    assert (await _save(rita, "calls", None)).status_code == 200
    assert (await _get(rita, _QUERIES))["queries"] == []


async def test_a_shared_query_is_everybodys_and_its_change_a_record(
    run: Running, admin: httpx2.AsyncClient, rita: httpx2.AsyncClient
) -> None:
    """Whoever changes or forgets it stands in the record, with what it asks for from then on."""
    changes: tuple[tuple[httpx2.AsyncClient, str, object], ...] = (
        (rita, "rita", {"outcome": "deny"}),
        (admin, "admin", {"agent": AGENT}),
        (rita, "rita", None),
    )
    for client, by, query in changes:
        record = (await _save(client, "everybody", query, shared=True)).json()["record"]
        told = await _get(rita, f"{_RECORDS}/{record}")
        assert (told["kind"], told["agent"]) == ("SharedQueryChanged", f"operator:{by}")
        assert told["groups"]["remedy"] == {"name": "everybody"}
        assert told["groups"]["who"]["query"] == query
        shown = [each["query"] for each in (await _get(admin, _QUERIES))["queries"] if each["name"] == "everybody"]
        assert shown == ([] if query is None else [query])
    assert (await rita.get(_RECORDS, params={"saved": "everybody"})).status_code == 404


async def test_your_own_query_goes_before_a_shared_one(rita: httpx2.AsyncClient) -> None:
    """Of one name, for nobody else's change shall change what you see."""
    await _save(rita, "same", {"kind": "BrokerStarted"}, shared=True)
    await _save(rita, "same", {"kind": "CallAdmitted"})
    found = await _get(rita, _RECORDS, saved="same")
    assert {record["kind"] for record in found["records"]} == {"CallAdmitted"}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"name": "Large", "query": {}}, "name"),
        ({"name": "", "query": {}}, "name"),
        ({"name": "x" * 64, "query": {}}, "name"),
        ({"name": "x", "query": {"after": 1}}, "after"),
        ({"name": "x", "query": {"since_ms": "1"}}, "since_ms"),
        ({"name": "x", "query": {"agent": "x" * 1_001}}, "'agent' is longer than"),
        ({"name": "x"}, "query"),
        ({"name": "x", "query": {}, "shared": 1}, "shared"),
    ],
)
async def test_what_is_no_query_is_not_kept(rita: httpx2.AsyncClient, body: dict[str, Any], told: str) -> None:
    """Refused by the name of what is wrong."""
    answer = await rita.post(_QUERIES, json=body)
    assert answer.status_code == 400
    assert told in answer.json()["detail"]


async def test_saved_queries_are_bounded(run: Running, rita: httpx2.AsyncClient) -> None:
    """One operator fills nothing up; what is there can still be changed."""
    have = len([query for query in (await _get(rita, _QUERIES))["queries"] if not query["shared"]])
    for number in range(MAX_SAVED - have):
        assert (await _save(rita, f"n{number}", {})).status_code == 200
    assert (await _save(rita, "one-more", {})).status_code == 400
    assert (await _save(rita, "n0", {"agent": "b"})).status_code == 200


async def test_an_admin_who_is_no_auditor_reads_and_keeps_nothing(run: Running, admin: httpx2.AsyncClient) -> None:
    """The trail, what it holds, its saved queries and the bundles are the auditor's."""
    told = await run.apply({"operators": {"adam": {"roles": ["admin"], "new_link": True}}}, admin)
    adam = await run.operator("adam", link=told["sign_in_links"]["adam"])
    rest = [f"/api/v1/audit/{path}" for path in ("consistency?old=1&new=2", "schema", "export")]
    for path in (_RECORDS, f"{_RECORDS}/0", f"{_RECORDS}/0/bundle", _QUERIES, *rest):
        assert (await adam.get(path)).status_code == 403
    assert (await _save(adam, "x", {})).status_code == 403


async def test_the_schema_is_shown(run: Running, rita: httpx2.AsyncClient) -> None:
    """Every kind, or one; under the digest that the start's record names."""
    whole = await _get(rita, "/api/v1/audit/schema")
    started = (await _get(rita, _RECORDS, kind="BrokerStarted"))["records"][0]
    assert started["groups"]["remedy"]["schemas"] == whole["digest"]
    one = await _get(rita, "/api/v1/audit/schema", kind="CallAdmitted")
    assert one["kinds"] == {"CallAdmitted": whole["kinds"]["CallAdmitted"]}


_BODY = {"name": "x", "query": {"agent": "a"}, "log": True, "shared": True, "status": "revoked", "why": "a try"}


async def test_no_route_alters_or_deletes_a_record(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Every route that there is, with every method, by an operator with every role: what was recorded stays, byte for
    byte, and whatever was done is recorded behind it."""
    async with running(tmp_path_factory.mktemp("walk")) as run:
        await run.apply(run.world())
        client = await run.operator()
        await run.check_log()
        before = await _rows(run)
        described = (await client.get("/openapi.json")).json()["paths"]
        routes = [route for route in api_routes(app_of(run.broker)._rest) if (route.method, route.path) not in PUBLIC]
        assert {route.method for route in routes} == {"GET", "POST"}
        methods = {path: {route.method for route in routes if route.path == path} for path in (r.path for r in routes)}
        for path, known in methods.items():
            filled = (
                path.replace(":path}", "}").replace("{index}", "0").replace("{id}", "nobody").replace("{hash}", "1")
            )
            for method in ("DELETE", "PUT", "PATCH", "POST", "GET"):
                for body in (None, {}, _fitting(described.get(path, {}).get(method.lower(), {}))):
                    answer = await client.request(method, filled, json=body)
                    assert answer.status_code < 500, f"{method} {path}: {answer.text}"
                    if method not in known:
                        assert answer.status_code in (404, 405), f"{method} {path}: {answer.status_code}"
            assert (await _rows(run))[: len(before)] == before, path
        await run.check_log()


def _fitting(operation: dict[str, Any]) -> dict[str, Any]:
    """A body with those members of `_BODY` that an operation takes."""
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return {name: value for name, value in _BODY.items() if name in schema.get("properties", {})}


async def _rows(run: Running) -> list[tuple[Any, ...]]:
    columns = "idx, at, kind, agent, agent_tag, seq, request_id, entry, leaf, commitments, groups"
    sql = f"SELECT {columns} FROM records ORDER BY idx"
    return await run.broker.read(lambda session: [tuple(row) for row in execute(session.connection(), sql)])
