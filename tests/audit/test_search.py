"""Search by everything: exact whatever is combined, also over records of an older broker, and by seeks alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from broker.audit import erasure, package, search, trail, traits
from broker.audit.disclosure import WHOLE
from broker.audit.events import Event, Kind
from broker.audit.log import Step
from broker.audit.search import Query, described_query
from broker.audit.traits import MAX_TRAITS, SPAN
from broker.audit.tree import AuditTree
from broker.db.engine import execute, insert_rows, reading, writing
from broker.errors import InvalidRequest, Unavailable
from broker.formats.note import NoteSigner
from tests.audit.logs import AT, SEALS, open_log, reader, rows, signed_by
from tests.audit.logs import event as made
from tests.fakes import FakeClock

_NAMES = {
    "agent": ("a", "b", "operator:ada"),
    "kind": (Kind.CALL_ADMITTED, Kind.CALL_REFUSED, Kind.TOKEN_ISSUED),
    "owner": ("", "team-x", "team-y"),
    "subject": ("", "ada", "job"),
    "approved_by": ("", "ada", "otto"),
    "action": ("call", "exchange"),
    "outcome": ("permit", "deny"),
    "model": ("", "e/small", "e/large", "*"),
    "policies": ((), ("p",), ("p", "q"), ("pq",)),
    "rules": ((), ("r",)),
    "request_id": ("r1", "r2"),
    "at": (AT, AT + 1, AT + 2, AT - 5),
}


def _event(told: Mapping[str, Any]) -> Event:
    return made(
        told["agent"],
        told["kind"],
        at=told["at"],
        request_id=told["request_id"],
        for_whom={"owner": told["owner"], "subject": told["subject"]},
        what={"action": told["action"], "model": told["model"]},
        decision={"outcome": told["outcome"], "policies": list(told["policies"])},
        posture={"rules": list(told["rules"])},
        remedy={"approved_by": told["approved_by"]},
    )


def _fits(told: Mapping[str, Any], query: Query) -> bool:
    """What a query means, said again in the plainest way."""
    people = (told["agent"].removeprefix("operator:") if told["agent"].startswith("operator:") else "",)
    human = told["subject"] or told["approved_by"]
    at_ms = told["at"] * 1000
    return (
        all(
            not wanted or wanted == told[name]
            for name, wanted in (
                ("agent", query.agent), ("kind", query.kind), ("owner", query.owner), ("action", query.action),
                ("outcome", query.outcome), ("model", query.model), ("request_id", query.request_id),
            )
        )
        and (not query.human or query.human in (*people, human))
        and (not query.policy or query.policy in (*told["policies"], *told["rules"]))
        and (query.since_ms is None or at_ms >= query.since_ms)
        and (query.until_ms is None or at_ms < query.until_ms)
    )  # fmt: skip


_told = st.lists(st.fixed_dictionaries({name: st.sampled_from(values) for name, values in _NAMES.items()}), max_size=25)
_moment = st.none() | st.sampled_from([int(AT + plus) * 1000 for plus in (-5, 0, 1, 2, 3)])
_queries = st.builds(
    Query,
    agent=st.sampled_from(["", "", *_NAMES["agent"], "operator:otto"]),
    kind=st.sampled_from(["", "", *map(str, _NAMES["kind"])]),
    outcome=st.sampled_from(["", "", "permit", "deny", "other"]),
    model=st.sampled_from(["", "", "e/small", "*", "none"]),
    request_id=st.sampled_from(["", "", "r1"]),
    since_ms=_moment,
    until_ms=_moment,
    limit=st.sampled_from([1, 3, 50]),
    oldest_first=st.booleans(),
    owner=st.sampled_from(["", "", "team-x"]),
    human=st.sampled_from(["", "", "ada", "otto", "job"]),
    action=st.sampled_from(["", "", "call"]),
    policy=st.sampled_from(["", "", "p", "q", "r", '"']),
)


def _found(engine: Engine, query: Query) -> list[int]:
    """Every page of a query, one after the other."""
    found: list[int] = []
    after: int | None = None
    while True:
        with reading(engine) as session:
            asked = {**query.described(), "after": after, "limit": query.limit}
            page = search.indices(session, Query(**asked))  # type: ignore[arg-type]  # as `described` gave them
        if not page:
            return found
        found += page
        after = page[-1]


def _empty(engine: Engine) -> None:
    with writing(engine) as connection:
        for table in ("records", "seals", "traits", "spans"):
            connection.exec_driver_sql(f"DELETE FROM {table}")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(_told, st.lists(_queries, min_size=1, max_size=8))
def test_whatever_is_combined_is_found_exactly(
    engine: Engine, tmp_path: Path, told: list[dict[str, Any]], queries: list[Query]
) -> None:
    """Any records, any query, in pages: what fits and nothing else, in order; also sorted in after the fact."""
    _empty(engine)
    log = open_log(engine, tmp_path)
    if told:
        asyncio.run(log.record(Step(tuple(map(_event, told)))))
    log.close()
    for again in (False, True):
        if again:
            with writing(engine) as connection:
                execute(connection, "UPDATE records SET trait = 0, human = ''")
                execute(connection, "DELETE FROM traits")
            assert traits.sort_in(engine) == len(told)
        for query in queries:
            wanted = [index for index, each in enumerate(told) if _fits(each, query)]
            assert _found(engine, query) == (wanted if query.oldest_first else wanted[::-1]), query


def _many(engine: Engine, number: int, **columns: Any) -> None:
    """Rows of records without traits, as an older broker leaves them."""
    groups = orjson.dumps({"what": ("00" * 16, '{"action":"call"}')})
    filler = {"kind": "CallAdmitted", "agent": "a", "agent_tag": "t", "outcome": "permit", "model": "m", **columns}
    names = ("idx", "seq", "at", *filler, "request_id", "entry", "leaf", "commitments", "groups")
    values = [(n, n, AT + n, *filler.values(), f"r{n}", b"", b"", b"", groups) for n in range(number)]
    with writing(engine) as connection:
        insert_rows(connection, "records", names, values)


def test_what_an_older_broker_wrote_is_sorted_in_at_the_next_start(engine: Engine, tmp_path: Path) -> None:
    """Its rows name no combination and no span; opening the log makes both, and every record is found by time."""
    number = 2 * SPAN + 3
    _many(engine, number)
    assert _found(engine, Query(action="call", limit=500)) == []
    open_log(engine, tmp_path).close()
    assert len(_found(engine, Query(action="call", limit=500))) == number
    with reading(engine) as session:
        assert [n for (n,) in execute(session.connection(), "SELECT n FROM spans ORDER BY n")] == [0, 1]
    for at in (0, SPAN - 1, SPAN, number - 1):
        moment = int(AT + at) * 1000
        assert _found(engine, Query(since_ms=moment, until_ms=moment + 1)) == [at]


async def test_spans_grow_with_the_log(engine: Engine, tmp_path: Path) -> None:
    """Each is written with the record that makes it whole, and holds the earliest and the latest moment in it."""
    log = open_log(engine, tmp_path)
    jumping = [made(at=AT - n if n % 2 else AT + n) for n in range(SPAN + 1)]
    await log.record(Step(tuple(jumping[:10])))
    await log.record(Step(tuple(jumping[10:])))
    log.close()
    with reading(engine) as session:
        (span,) = execute(session.connection(), "SELECT n, first_at, last_at FROM spans").all()
    assert tuple(span) == (0, AT - SPAN + 1, AT + SPAN - 2)
    assert _found(engine, Query(until_ms=int(AT - SPAN + 2) * 1000)) == [SPAN - 1]


async def test_a_combination_that_did_not_land_is_no_number(engine: Engine, tmp_path: Path) -> None:
    """When a transaction fails, the combinations of it are forgotten with it: later records are found all the same."""
    broken = [True]

    def probe(point: str) -> None:
        if point == "applied" and broken[0]:
            raise OperationalError("COMMIT", None, Exception("disk trouble"))

    log = open_log(engine, tmp_path, probe=probe)
    admitted = made("a", Kind.CALL_ADMITTED, what={"action": "call"})
    with pytest.raises(Unavailable):
        await log.record(Step((admitted,)))
    broken[0] = False
    await log.record(Step((admitted,)))
    log.close()
    assert _found(engine, Query(action="call")) == [row["idx"] for row in rows(engine)] != []


async def test_names_of_models_fill_nothing_up(engine: Engine, tmp_path: Path) -> None:
    """Agents choose names of models that do not exist: their combinations are bounded, and each name is still found."""
    log = open_log(engine, tmp_path)
    with writing(engine) as connection:
        columns = ("id", "kind", "owner", "action", "outcome", "model", "policies")
        filler = [(n, "CallRefused", "", "", "", f"m{n}", "[]") for n in range(1, MAX_TRAITS + 1)]
        insert_rows(connection, "traits", columns, filler)
    await log.record(Step(tuple(made(what={"model": f"new-{n % 5}"}) for n in range(20))))
    log.close()
    assert _found(engine, Query(model="new-3", limit=2)) == [18, 13, 8, 3]
    with reading(engine) as session:
        assert execute(session.connection(), "SELECT count(*) FROM traits").scalar() == MAX_TRAITS + 1


async def test_an_erased_group_is_searched_by_no_more(engine: Engine, tmp_path: Path) -> None:
    """Erasing takes what a group said out of the index with it, and the day that is left of a moment is found."""
    log = open_log(engine, tmp_path)
    told = made(for_whom={"owner": "team", "subject": "ada"}, what={"action": "call"})
    await log.record(Step((told,) * SPAN))
    assert len(_found(engine, Query(human="ada"))) == len(_found(engine, Query(owner="team"))) == SPAN
    clock = FakeClock(AT + 5 * 86_400)
    chosen = erasure.Selection(("for_whom", "request"), "a", SPAN - 3, AT + 1)
    await erasure.erase(log, reader(engine), chosen, "asked for", by="operator:o", request_id="r", clock=clock)
    await log.record(Step((made(for_whom={"owner": "new"}),)))  # a combination new to the log, beside those of erasure
    log.close()
    assert len(_found(engine, Query(human="ada"))) == len(_found(engine, Query(owner="team"))) == SPAN - 2
    assert len(_found(engine, Query(action="call", limit=500))) == SPAN
    assert _found(engine, Query(owner="new")) == [SPAN + 1]
    day_ms = int(AT // 86_400 * 86_400) * 1000
    assert _found(engine, Query(since_ms=day_ms, until_ms=day_ms + 1)) == [SPAN - 1, SPAN - 2]


async def test_a_combination_that_was_erased_everywhere_is_gone(engine: Engine, tmp_path: Path) -> None:
    """At once, from the table and from the writer's memory: a record that has it next is found by it again."""
    log = open_log(engine, tmp_path)
    await log.record(Step((made(for_whom={"owner": "team"}),)))
    clock, chosen = FakeClock(AT + 5 * 86_400), erasure.Selection(("for_whom",), "a", -1, AT + 1)
    erasing = erasure.erase(log, reader(engine), chosen, "why", by="operator:o", request_id="r", clock=clock)
    await asyncio.gather(erasing, log.record(Step((made("b", for_whom={"owner": "other"}),))))
    with reading(engine) as session:
        owners = [owner for (owner,) in execute(session.connection(), "SELECT owner FROM traits WHERE owner <> ''")]
    assert owners == ["other"]
    await log.record(Step((made(for_whom={"owner": "team"}),)))
    log.close()
    assert _found(engine, Query(owner="team")) == [3]


def test_no_combination_outlives_its_records(engine: Engine, tmp_path: Path) -> None:
    """A name that was erased everywhere is gone from the combinations, too, with the next start."""
    _many(engine, 1)
    with writing(engine) as connection:
        execute(connection, "INSERT INTO traits VALUES (7, 'CallAdmitted', 'erased', '', '', '', '[]')")
    open_log(engine, tmp_path).close()
    with reading(engine) as session:
        assert [owner for (owner,) in execute(session.connection(), "SELECT owner FROM traits")] == [""]


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"agents": "a"}, "agents"),
        ({"after": 3}, "after"),
        ({"below": 3}, "below"),
        ({"limit": 3}, "limit"),
        ({"agent": 3}, "agent"),
        ({"since_ms": True}, "since_ms"),
        ({"since_ms": "1"}, "since_ms"),
        ({"kind": "Nothing"}, "Nothing"),
    ],
)
def test_a_described_query_is_checked(members: dict[str, object], told: str) -> None:
    """What is no member of a query, of one page only, of another type, or no kind, is refused by its name."""
    with pytest.raises(InvalidRequest, match=told):
        described_query(members)


@given(_queries)
def test_a_query_is_told_and_read_again(query: Query) -> None:
    """What records and saved queries tell of a query makes the same query, but for what is of one page."""
    again = described_query(query.described())
    assert again.described() == query.described()
    assert (again.limit, again.after) == (Query().limit, None)


@pytest.fixture
def plans(engine: Engine) -> Iterator[list[str]]:
    """How SQLite would run each statement that is run from now on."""
    seen: list[str] = []

    def explain(connection: Any, _cursor: Any, text: str, values: Any, *_: Any) -> None:
        if "records" in text and not text.startswith("EXPLAIN"):
            raw = connection.connection.driver_connection
            seen.extend(str(row[-1]) for row in raw.execute(f"EXPLAIN QUERY PLAN {text}", tuple(values)))

    event.listen(engine, "before_cursor_execute", explain)
    yield seen
    event.remove(engine, "before_cursor_execute", explain)


@pytest.mark.sqlite
@pytest.mark.parametrize(
    "query",
    [
        Query(agent="a"),
        Query(agent="a", kind="CallAdmitted", since_ms=int(AT) * 1000),
        Query(human="ada", outcome="deny"),
        Query(owner="team", policy="p"),
        Query(model="m", until_ms=int(AT + 9) * 1000, oldest_first=True),
        Query(request_id="r1", agent="a"),
        Query(),
    ],
    ids=str,
)
def test_no_search_reads_the_whole_log(engine: Engine, tmp_path: Path, plans: list[str], query: Query) -> None:
    """Each statement over the records goes by an index, and sorts nothing."""
    _many(engine, SPAN + 5)
    open_log(engine, tmp_path).close()
    plans.clear()
    with reading(engine) as session:
        trail.search(session, query, WHOLE)
    reads = [line for line in plans if "records" in line]
    assert reads
    assert all(line.startswith("SEARCH records USING") for line in reads), reads
    assert not any("TEMP B-TREE FOR ORDER BY" in line for line in plans), plans


@pytest.mark.sqlite
async def test_no_page_of_a_principal_sorts_all_its_records(engine: Engine, tmp_path: Path, plans: list[str]) -> None:
    """Neither of a package nor of an erasure: each goes on in an index, or a long trail would take its square."""
    log = open_log(engine, tmp_path)
    for agent in ("a", "b", "a", "a"):
        await log.record(Step((made(agent),)))
    tree = AuditTree(engine, signed_by(NoteSigner("log", Ed25519PrivateKey.generate())), SEALS)
    tree.integrate()
    plans.clear()
    with reading(engine) as session:
        found = [
            [row.idx for row in erasure.find(session, erasure.Selection(("who",), "a", after, AT + 1), log.tag("a"))]
            for after in (-1, 0, 1, 2, 3)
        ]
        made_of = package.begin(session, tree, package.Scope(agent="a"), log.tag("a"), WHOLE, now=AT)
    assert b"".join(package.written(made_of, engine, tree, lambda *_: {}))
    log.close()
    assert found == [[0, 2, 3], [2, 3], [2, 3], [3], []]
    assert sum("agent_tag=? AND seq>?" in line for line in plans) > len(found)
    assert not any("TEMP B-TREE FOR ORDER BY" in line for line in plans), plans
