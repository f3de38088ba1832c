"""Reading the log: every filter of a search, pages without holes, one record, and the calls that were left open."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from broker.audit import export, trail
from broker.audit.disclosure import WHOLE, Disclosure
from broker.audit.events import CALL_ENDS, Kind
from broker.audit.log import RecordRow, Step
from broker.audit.trail import MAX_PAGE, Query
from broker.db.engine import execute, reading, writing
from broker.errors import NotFound
from broker.formats import record
from tests.audit.logs import AT, event, open_log, rows

_PERMIT, _DENY = {"outcome": "permit"}, {"outcome": "deny"}


def _fill(engine: Engine, folder: Path, *events: Any) -> None:
    log = open_log(engine, folder)
    for start in range(0, len(events), 100):
        asyncio.run(log.record(Step(tuple(events[start : start + 100]))))
    log.close()


@pytest.fixture
def mixed(engine: Engine, tmp_path: Path) -> Engine:
    """A log of six records, a second apart, that differ in everything."""
    _fill(
        engine,
        tmp_path,
        event("broker", Kind.BROKER_STARTED, at=AT, request_id="start"),
        event("a", Kind.TOKEN_ISSUED, at=AT + 1, request_id="r1", decision=_PERMIT),
        event("a", Kind.CALL_ADMITTED, at=AT + 2, request_id="r2", decision=_PERMIT, what={"model": "e/small"}),
        event("a", Kind.CALL_COMPLETED, at=AT + 3, request_id="r2", what={"model": "e/small"}),
        event("b", Kind.CALL_REFUSED, at=AT + 4, request_id="r3", decision=_DENY, what={"model": "e/large"}),
        event("b", Kind.TOKEN_REFUSED, at=AT + 5, request_id="r4", decision=_DENY),
    )
    return engine


def _search(engine: Engine, query: Query) -> list[int]:
    with reading(engine) as session:
        return [found["index"] for found in trail.search(session, query, WHOLE)]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (Query(), [5, 4, 3, 2, 1, 0]),
        (Query(oldest_first=True), [0, 1, 2, 3, 4, 5]),
        (Query(agent="a"), [3, 2, 1]),
        (Query(agent="A"), []),
        (Query(agent="%"), []),
        (Query(agent="' OR '1'='1"), []),
        (Query(kind="CallRefused"), [4]),
        (Query(kind="Call"), []),
        (Query(outcome="deny"), [5, 4]),
        (Query(model="e/small"), [3, 2]),
        (Query(request_id="r2"), [3, 2]),
        (Query(agent="a", outcome="permit", model="e/small"), [2]),
        (Query(agent="b", model="e/small"), []),
        (Query(since_ms=int(AT + 4) * 1000), [5, 4]),
        (Query(since_ms=int(AT + 4) * 1000 + 1), [5]),
        (Query(until_ms=int(AT + 1) * 1000), [0]),
        (Query(until_ms=int(AT + 1) * 1000 + 1), [1, 0]),
        (Query(since_ms=int(AT + 2) * 1000, until_ms=int(AT + 4) * 1000), [3, 2]),
        (Query(since_ms=0, until_ms=0), []),
        (Query(after=3), [2, 1, 0]),
        (Query(after=3, oldest_first=True), [4, 5]),
        (Query(after=0), []),
        (Query(limit=2), [5, 4]),
        (Query(limit=0), [5]),
        (Query(agent="a", after=3, limit=1), [2]),
    ],
    ids=str,
)
def test_a_search_finds_exactly_what_was_asked_for(mixed: Engine, query: Query, expected: list[int]) -> None:
    """Each filter alone and together, exact and without patterns; `since` included, `until` not."""
    assert _search(mixed, query) == expected


@pytest.mark.parametrize("oldest_first", [False, True])
def test_pages_follow_each_other_without_a_hole(engine: Engine, tmp_path: Path, oldest_first: bool) -> None:
    """Asking on with the last index of each page gives every record once, also while records are appended."""
    _fill(engine, tmp_path, *(event("a" if number % 3 else "b") for number in range(50)))
    found: list[int] = []
    after: int | None = None
    while page := _search(engine, Query(agent="a", after=after, limit=7, oldest_first=oldest_first)):
        found += page
        after = page[-1]
        if len(found) == 14:
            _fill(engine, tmp_path, event("a"))
    wanted = [number for number in range(50) if number % 3]
    assert found == ([*wanted, 50] if oldest_first else wanted[::-1])


def test_a_page_is_bounded(engine: Engine, tmp_path: Path) -> None:
    """However much is asked for, no more than `MAX_PAGE` records come at once."""
    _fill(engine, tmp_path, *(event() for _ in range(MAX_PAGE + 1)))
    assert len(_search(engine, Query(limit=10**9))) == MAX_PAGE


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(1_700_000_000, 1_900_000_000))
def test_a_record_is_found_at_the_time_it_shows(engine: Engine, tmp_path: Path, at: float) -> None:
    """The millisecond that a record shows finds it, whatever the clock's fraction was."""
    _fill(engine, tmp_path, event(at=at), event(at=1837135154.0279999))
    for index in _search(engine, Query(limit=2)):
        with reading(engine) as session:
            shown = trail.read(session, index, WHOLE)
        assert shown["at_ms"] == shown["groups"]["request"]["at_ms"]
        assert index in _search(engine, Query(since_ms=shown["at_ms"], until_ms=shown["at_ms"] + 1))


def test_a_reader_is_told_nothing_of_what_is_withheld(mixed: Engine) -> None:
    """Not even that it is gone, nor a column that was copied from it."""
    with writing(mixed) as connection:
        execute(connection, "UPDATE records SET groups = ? WHERE idx = 2", (b"{}",))
    little = Disclosure(frozenset({"posture"}))
    with reading(mixed) as session:
        whole, part = (trail.read(session, 2, shown) for shown in (WHOLE, little))
        row = session.get(RecordRow, 2)
    assert (whole["missing"], part["missing"]) == (list(record.GROUPS), ["posture"])
    assert row is not None
    line = orjson.loads(export.line(row, little))
    columns = ("agent", "outcome", "model", "request_id")
    assert [getattr(row, name) for name in columns] == ["a", "permit", "e/small", "r2"]
    assert [line[name] for name in columns] == [""] * 4


def test_a_record_is_shown_with_its_exact_bytes(mixed: Engine) -> None:
    """Index, names, number, the groups by name, and the entry as it is in the tree."""
    with reading(mixed) as session:
        shown = trail.read(session, 4, WHOLE)
    entry = shown.pop("entry")
    assert shown == {
        "index": 4,
        "erased": {},
        "missing": [],
        "kind": "CallRefused",
        "agent": "b",
        "seq": 1,
        "at_ms": int(AT + 4) * 1000,
        "groups": {
            "what": {"model": "e/large"},
            "decision": {"outcome": "deny"},
            "request": {"id": "r3", "at_ms": int(AT + 4) * 1000},
        },
        "withheld": [],
    }
    assert base64.b64decode(entry) == rows(mixed)[4]["entry"]
    assert record.parse_entry(base64.b64decode(entry)).seq == 1


@pytest.mark.parametrize("index", [-1, 6])
def test_a_record_that_is_not_there_is_not_found(mixed: Engine, index: int) -> None:
    """Outside the log there is nothing."""
    with reading(mixed) as session, pytest.raises(NotFound, match=f"no record {index}"):
        trail.read(session, index, WHOLE)


def _open(engine: Engine) -> list[tuple[int, str, str, str]]:
    with reading(engine) as session:
        return trail.open_calls(session)


def test_calls_left_open_are_found(engine: Engine, tmp_path: Path) -> None:
    """Of the last run every admitted call without an end, with what its closing record needs."""
    admitted = [event("a", Kind.CALL_ADMITTED, request_id=f"{n}", what={"model": f"m{n}"}) for n in range(5)]
    ends = [event("a", kind, request_id=f"{n}") for n, kind in enumerate(sorted(CALL_ENDS))]
    _fill(engine, tmp_path, event("broker", Kind.BROKER_STARTED), *admitted, *ends)
    assert _open(engine) == [(4, "a", "3", "m3"), (5, "a", "4", "m4")]


def test_nothing_is_open_in_an_empty_log(engine: Engine) -> None:
    """The first start finds nothing to close."""
    assert _open(engine) == []


def test_calls_are_closed_once(engine: Engine, tmp_path: Path) -> None:
    """A start that died half way through closing leaves the rest to the next one; after it nothing is open."""
    started = event("broker", Kind.BROKER_STARTED)
    _fill(engine, tmp_path, started, *(event("a", Kind.CALL_ADMITTED, request_id=f"{n}") for n in range(2)))
    _fill(engine, tmp_path, event("a", Kind.CALL_ABANDONED, request_id="0"))
    assert [request_id for _, _, request_id, _ in _open(engine)] == ["1"]
    _fill(engine, tmp_path, event("a", Kind.CALL_ABANDONED, request_id="1"), started)
    assert _open(engine) == []
