"""Exports of the log: every record once, cursors that go on, and gaps that are named."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine
from sqlmodel import Session

from broker.audit import export, ranges
from broker.audit.continuity import Continuity, Gap
from broker.audit.disclosure import WHOLE
from broker.audit.events import Event, Kind
from broker.audit.export import Cursor
from broker.audit.log import Step
from broker.audit.trail import Query
from broker.audit.tree import AuditTree
from broker.db.engine import execute, reading, writing
from broker.errors import Conflict, Malformed, NotFound, Unavailable
from broker.formats import merkle, note
from broker.formats.merkle import leaf_hash
from broker.formats.note import NoteSigner
from tests.audit.logs import SEALS, event, open_log, signed_by
from tests.audit.packages import erase

SIGNER = NoteSigner("broker.example/log", Ed25519PrivateKey.generate())
AGENTS = 7
T = TypeVar("T")


def _grow(engine: Engine, folder: Path, count: int, **groups: Any) -> AuditTree:
    """Records so many events of a few agents, and brings the tree up to them."""
    log = open_log(engine, folder)
    events = tuple(event(f"agent-{n % AGENTS}", Kind.CALL_ADMITTED, **groups) for n in range(count))
    asyncio.run(log.record(Step(events)))
    log.close()
    tree = AuditTree(engine, signed_by(SIGNER), SEALS)
    tree.integrate()
    return tree


def _export(
    engine: Engine, start: Cursor, query: Query | None = None, before_page: Callable[[int], object] = lambda _n: None
) -> tuple[list[Any], dict[str, Any]]:
    """The records of an export, and its last line."""
    pages = 0

    async def read(page: Callable[[Session], T]) -> T:
        nonlocal pages
        before_page(pages)
        pages += 1
        with reading(engine) as session:
            return page(session)

    async def collect(chunks: AsyncIterator[bytes]) -> list[Any]:
        return [orjson.loads(line) async for chunk in chunks for line in chunk.splitlines()]

    lines = asyncio.run(collect(export.stream(read, query or Query(), start, WHOLE)))
    assert "export" in lines[-1]
    return [each for each in lines if "export" not in each], lines[-1]["export"]


def _delete(engine: Engine, *indices: int) -> None:
    with writing(engine) as connection:
        for index in indices:
            execute(connection, "DELETE FROM records WHERE idx = ?", (index,))


@pytest.mark.parametrize("count", [1, export.PAGE - 1, export.PAGE, export.PAGE + 1, 2 * export.PAGE])
def test_every_record_is_exported_once(engine: Engine, tmp_path: Path, count: int) -> None:
    """In order, at every edge of a page; what was exported hashes to the root in its cursor."""
    tree = _grow(engine, tmp_path, count)
    records, end = _export(engine, export.begin(tree, ""))
    assert [each["index"] for each in records] == list(range(count))
    root = merkle.root_of([leaf_hash(note.decode_base64(each["entry"])) for each in records])
    assert end == {"cursor": f"{count}:{count}:{root.hex()}", "more": False}


def test_the_next_export_begins_where_the_last_ended(engine: Engine, tmp_path: Path) -> None:
    """No record twice and none left out; when nothing is new, nothing comes, and the cursor stays good."""
    tree = _grow(engine, tmp_path, 30)
    first, end = _export(engine, export.begin(tree, ""))
    nothing, same = _export(engine, export.begin(tree, end["cursor"]))
    assert (nothing, same["cursor"]) == ([], end["cursor"])
    tree = _grow(engine, tmp_path, 40)
    second, _ = _export(engine, export.begin(tree, same["cursor"]))
    assert [each["index"] for each in first + second] == list(range(70))


def test_an_export_ends_at_the_checkpoint(engine: Engine, tmp_path: Path) -> None:
    """Records that nothing signs for yet are left for the next one."""
    tree = _grow(engine, tmp_path, 5)
    log = open_log(engine, tmp_path)
    asyncio.run(log.record(Step((event("late"),))))
    log.close()
    records, end = _export(engine, export.begin(tree, ""))
    assert len(records) == 5
    tree.integrate()
    assert [each["agent"] for each in _export(engine, export.begin(tree, end["cursor"]))[0]] == ["late"]


def test_every_line_of_the_exports_own_covers_what_is_before_it(engine: Engine, tmp_path: Path) -> None:
    """Whoever stops at any of these cursors goes on from there with the next record."""
    count = 2 * export.PAGE + 3
    tree = _grow(engine, tmp_path, count)

    async def read(page: Callable[[Session], T]) -> T:
        with reading(engine) as session:
            return page(session)

    async def cursors() -> list[tuple[int, str]]:
        found, seen = [], 0
        async for chunk in export.stream(read, Query(), export.begin(tree, ""), WHOLE):
            *lines, told = map(orjson.loads, chunk.splitlines())
            seen += len(lines)
            found.append((seen, told["export"]["cursor"]))
        return found

    found = asyncio.run(cursors())
    assert [seen for seen, _ in found] == [export.PAGE, 2 * export.PAGE, count]
    for seen, cursor in found:
        rest, _ = _export(engine, export.begin(tree, cursor))
        assert [each["index"] for each in rest] == list(range(seen, count))


def test_a_request_has_an_end(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After so many pages it says that there is more, and the next request brings the rest."""
    monkeypatch.setattr(export, "PAGES_A_REQUEST", 2)
    tree = _grow(engine, tmp_path, 2 * export.PAGE + 1)
    first, end = _export(engine, export.begin(tree, ""))
    assert (len(first), end["more"]) == (2 * export.PAGE, True)
    second, end = _export(engine, export.begin(tree, end["cursor"]))
    assert ([each["index"] for each in second], end["more"]) == ([2 * export.PAGE], False)


def test_a_page_holds_few_bytes(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However large its records are: it ends before them, its cursor says where, and nothing is left out."""
    tree = _grow(engine, tmp_path, 10)
    with reading(engine) as session:
        sizes = [len(groups) for (groups,) in execute(session.connection(), "SELECT groups FROM records ORDER BY idx")]
        monkeypatch.setattr(export, "MAX_BYTES", sum(sizes[:3]))
        monkeypatch.setattr(ranges, "MAX_BYTES", sum(sizes[:3]))
        assert [each["index"] for each in ranges.read_range(session, 0, 10, WHOLE)] == [0, 1, 2]
        monkeypatch.setattr(ranges, "MAX_BYTES", 1)
        assert [each["index"] for each in ranges.read_range(session, 4, 10, WHOLE)] == [4]
    monkeypatch.setattr(export, "PAGES_A_REQUEST", 1)
    first, end = _export(engine, export.begin(tree, ""))
    assert ([each["index"] for each in first], end["more"]) == ([0, 1, 2], True)
    monkeypatch.setattr(export, "MAX_BYTES", 1)
    second, end = _export(engine, export.begin(tree, end["cursor"]))
    assert ([each["index"] for each in second], end["more"]) == ([3], True)
    monkeypatch.setattr(export, "PAGES_A_REQUEST", 100)
    rest, end = _export(engine, export.begin(tree, end["cursor"]))
    assert ([each["index"] for each in rest], end["more"]) == (list(range(4, 10)), False)


def test_filters_are_those_of_a_search(engine: Engine, tmp_path: Path) -> None:
    """Only what fits comes, and the cursor is behind everything that was looked at."""
    tree = _grow(engine, tmp_path, 100)
    records, end = _export(engine, export.begin(tree, ""), Query(agent="agent-3", limit=1, oldest_first=True, after=90))
    assert [each["index"] for each in records] == list(range(3, 100, AGENTS))
    assert end["cursor"].startswith("100:100:")


def test_a_removed_record_stops_the_export(engine: Engine, tmp_path: Path) -> None:
    """With its place; what is before it is exported, and the cursor is at the gap."""
    tree = _grow(engine, tmp_path, export.PAGE + 20)
    start = export.begin(tree, "")
    missing = export.PAGE + 9
    _delete(engine, missing)
    records, end = _export(engine, start)
    assert [each["index"] for each in records] == list(range(missing))
    assert end["error"] == "gap"
    assert f"Record {missing} is missing" in end["detail"]
    assert end["cursor"].startswith(f"{missing}:")
    beyond, _ = _export(engine, Cursor(missing + AGENTS + 1, start.size, start.root))
    assert beyond[0]["index"] == missing + AGENTS + 1


@pytest.mark.parametrize("last", [export.PAGE, export.PAGE + 1])
def test_a_log_that_was_cut_short_stops_the_export(engine: Engine, tmp_path: Path, last: int) -> None:
    """Records under the checkpoint that are gone at the end are missed as well, at the edge of a page too."""
    tree = _grow(engine, tmp_path, export.PAGE + 2)
    start = export.begin(tree, "")
    _delete(engine, *range(last, export.PAGE + 2))
    records, end = _export(engine, start)
    assert len(records) == last
    assert end["error"] == "gap"
    assert f"Record {last} is missing, and all after it" in end["detail"]


def test_a_gap_in_an_agents_numbers_stops_the_export(engine: Engine, tmp_path: Path) -> None:
    """Also where the number before is in an export that was made already."""
    tree = _grow(engine, tmp_path, 40)
    start = export.begin(tree, "")
    with writing(engine) as connection:
        execute(connection, "UPDATE records SET seq = seq + 1000 WHERE agent = ? AND idx >= 20", ("agent-2",))
    for begin in (start, Cursor(20, start.size, start.root)):
        records, end = _export(engine, begin)
        assert records[-1]["index"] == 22
        assert end["error"] == "gap"
        assert "Before record 23" in end["detail"]
        assert "its number 1003 is missing" in end["detail"]


def test_a_number_that_comes_twice_is_a_gap() -> None:
    """Forwards is the only way; a number seen before cannot follow itself."""
    continuity = Continuity(3)
    continuity.follow(3, "a", 7)
    continuity.follow(4, "a", 8)
    with pytest.raises(Gap, match="record 5"):
        continuity.follow(5, "a", 8)
    with pytest.raises(Gap, match="Record 5 is missing: record 4 came"):
        continuity.follow(4, "b", 1)
    with pytest.raises(Gap, match="Before record 5"):
        continuity.follow(5, "b", 2, lambda _tag, _seq: 6)


def test_a_database_that_is_lost_leaves_a_place_to_go_on(engine: Engine, tmp_path: Path) -> None:
    """The last line says why, and its cursor is behind the last page that is whole."""
    tree = _grow(engine, tmp_path, 2 * export.PAGE)

    def lose(page: int) -> None:
        if page == 1:
            raise Unavailable("The database cannot be read at the moment.")

    records, end = _export(engine, export.begin(tree, ""), before_page=lose)
    assert (len(records), end["error"]) == (export.PAGE, "unavailable")
    rest, _ = _export(engine, export.begin(tree, end["cursor"]))
    assert rest[0]["index"] == export.PAGE


def test_another_log_is_not_taken_for_the_same(engine: Engine, tmp_path: Path) -> None:
    """A cursor of more entries than there are, or of other ones, is refused: the log was restored or replaced."""
    tree = _grow(engine, tmp_path, 8)
    good = export.begin(tree, "")
    assert export.begin(tree, str(good)) == good
    for other in (Cursor(8, 9, good.root), Cursor(8, 8, bytes(32)), Cursor(4, 7, good.root), Cursor(0, 0, good.root)):
        with pytest.raises(Conflict, match="was restored or replaced"):
            export.begin(tree, str(other))


def test_a_cursor_that_cannot_be_checked_is_not_followed(engine: Engine, tmp_path: Path) -> None:
    """Where so much is gone that the root of before cannot be made, it says what is missing."""
    tree = _grow(engine, tmp_path, 8)
    cursor = export.begin(tree, "")
    _delete(engine, 3)
    with pytest.raises(Conflict, match="lacks hashes from 0 to 8") as caught:
        export.begin(tree, str(cursor))
    assert caught.value.reason == "gap"


@pytest.mark.parametrize("text", ["8", "8:8", "9:8:" + "0" * 64, "8:8:" + "0" * 63, "-1:8:" + "0" * 64, "x", "8:8:8:8"])
def test_what_is_no_cursor_is_refused(engine: Engine, tmp_path: Path, text: str) -> None:
    """An index alone, half a root, or a place beyond its checkpoint."""
    tree = _grow(engine, tmp_path, 1)
    with pytest.raises(Malformed, match="no cursor"):
        export.begin(tree, text)


def test_a_log_without_a_checkpoint_has_no_export(engine: Engine) -> None:
    """Nothing is signed for yet."""
    with pytest.raises(NotFound):
        export.begin(AuditTree(engine, signed_by(SIGNER), SEALS), "")


def test_a_line_holds_the_record(engine: Engine, tmp_path: Path) -> None:
    """Every member; a group that was erased is told apart from one that the record never had."""
    what = {"action": "call", "model": "e/m", "note": "a line\nbreak \u2028 and more"}
    tree = _grow(engine, tmp_path, 1, what=what, decision={"outcome": "permit"}, who={"agent": "agent-0"})
    log = open_log(engine, tmp_path)
    asyncio.run(erase(log, engine, "who"))
    log.close()
    ((found,), _) = _export(engine, export.begin(tree, ""))
    assert list(found) == [
        "index", "at_ms", "kind", "agent", "agent_tag", "seq", "outcome", "model", "request_id", "groups", "withheld",
        "entry",
    ]  # fmt: skip
    at = event().at
    assert found["groups"] == {
        "what": what,
        "decision": {"outcome": "permit"},
        "request": {"id": "r", "at_ms": int(at * 1000)},
    }
    assert found["withheld"] == ["who"]
    assert (found["outcome"], found["model"], found["seq"]) == ("permit", "e/m", 1)
    assert isinstance(event(), Event)
