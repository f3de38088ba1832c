"""What is remembered of the records of erasures: which records each covers, and never that it holds still."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine

from broker.audit import erasures
from broker.audit.erasures import Stored
from broker.audit.events import Kind
from broker.audit.log import Step
from broker.db.engine import execute, reading, writing
from tests.audit.logs import event, open_log

_RANGES = ([[0, 0], [8, 9]], [[3, 5]], [[4, 4], [1, 1], [1, 7]])
"""Of three erasures behind ten records."""
_COVERED = {0: [10], 1: [12], 2: [12], 3: [11, 12], 4: [11, 12], 5: [11, 12], 6: [12], 7: [12], 8: [10], 9: [10]}


@pytest.fixture
async def erased(engine: Engine, tmp_path: Path) -> Engine:
    """A log of ten records and three erasures."""
    log = open_log(engine, tmp_path)
    told = [{"groups": ["who"], "records": each} for each in _RANGES]
    events = [event(f"agent-{n}") for n in range(10)]
    await log.record(Step((*events, *(event("o", Kind.RECORDS_ERASED, remedy=each) for each in told))))
    log.close()
    return engine


def _covering(engine: Engine, *indices: int) -> dict[int, int]:
    with reading(engine) as session:
        found = erasures.of_records(session.connection(), indices)
    return {index: said["who"] for index, said in found.items()}


def _change(engine: Engine, statement: str, *parameters: object) -> None:
    with writing(engine) as connection:
        execute(connection, statement, parameters)


def _looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The records whose content is verified from now on."""
    seen: list[int] = []
    remedy = Stored.remedy

    def noting(self: Stored) -> object:
        seen.append(self.idx)
        return remedy(self)

    monkeypatch.setattr(Stored, "remedy", noting)
    return seen


async def test_a_page_looks_at_the_erasures_that_cover_it(erased: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once each was verified; whichever records are asked for, the answer is the same as it was then."""
    everything = {index: places[0] for index, places in _COVERED.items()}
    assert _covering(erased, *range(13)) == everything
    seen = _looked_at(monkeypatch)
    for index, places in _COVERED.items():
        assert _covering(erased, index) == {index: everything[index]}
        assert sorted(seen) == places
        seen.clear()
    for asked in ([0, 9], [2, 6], [6, 8], [0, 1, 2, 8, 9]):
        assert _covering(erased, *asked) == {index: everything[index] for index in asked}
        assert sorted(seen) == sorted({place for index in asked for place in _COVERED[index]})
        seen.clear()
    assert (_covering(erased, 10, 11, 12), seen) == ({}, [])


@pytest.mark.parametrize("column", ["groups", "entry", "leaf", "commitments"])
async def test_an_erasure_altered_after_it_was_verified_says_nothing(erased: Engine, column: str) -> None:
    """Nor do records that it names now become erased by it; as it was before, it counts again."""
    assert _covering(erased, 0, 2) == {0: 10, 2: 12}
    with reading(erased) as session:
        was = bytes(execute(session.connection(), f"SELECT {column} FROM records WHERE idx = 10").scalar_one())
    altered = was.replace(b"[[0,0],", b"[[0,2],") if column == "groups" else bytes([was[0] ^ 1]) + was[1:]
    assert altered != was
    _change(erased, f"UPDATE records SET {column} = ? WHERE idx = 10", altered)
    assert _covering(erased, 0, 2) == {2: 12}
    _change(erased, f"UPDATE records SET {column} = ? WHERE idx = 10", was)
    assert _covering(erased, 0, 2) == {0: 10, 2: 12}


async def test_an_erasure_that_was_never_whole_is_looked_at_again(erased: Engine) -> None:
    """Once it is put back, it counts."""
    with reading(erased) as session:
        was = bytes(execute(session.connection(), "SELECT groups FROM records WHERE idx = 10").scalar_one())
    groups = orjson.loads(was)
    del groups["remedy"]
    _change(erased, "UPDATE records SET groups = ? WHERE idx = 10", orjson.dumps(groups))
    assert _covering(erased, 0) == {}
    _change(erased, "UPDATE records SET groups = ? WHERE idx = 10", was)
    assert _covering(erased, 0) == {0: 10}


@pytest.mark.parametrize("most", [0, 25, 60])
async def test_what_is_remembered_is_bounded(erased: Engine, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """What is too much is verified each time, and counts just the same."""
    monkeypatch.setattr(erasures, "MOST_KNOWN", most)
    monkeypatch.setattr(erasures, "_known", erasures._Known())
    everything = {index: places[0] for index, places in _COVERED.items()}
    assert _covering(erased, *range(13)) == everything
    seen = _looked_at(monkeypatch)
    assert _covering(erased, 12) == {}
    assert _covering(erased, *range(13)) == everything
    assert len(erasures._known._covered) == {0: 0, 25: 1, 60: 2}[most]
    assert seen


async def test_a_few_erasures_are_read_by_their_index(erased: Engine) -> None:
    """Those asked for and no others, however many there are behind."""

    def read(indices: Sequence[int]) -> list[Any]:
        with reading(erased) as session:
            return sorted(each.idx for each in erasures.stored_at(session.connection(), indices))

    assert (read([10, 12]), read([])) == ([10, 12], [])
