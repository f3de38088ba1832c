"""The re-verification of all that is stored finds what no proof tells: by what a record is searched, what is back."""

from __future__ import annotations

import math

import pytest

from broker.db.engine import execute, reading
from tests.audit.logs import AT, open_log
from tests.audit.stored_log import INNER, OUTER, Stored, erase


@pytest.mark.parametrize(
    ("column", "planted"),
    [("agent", f"agent-{INNER % 3}"), ("outcome", "permit"), ("model", "m"), ("request_id", "r"), ("human", "ada"),
     ("at", AT), ("at", math.inf)],
)  # fmt: skip
async def test_what_was_erased_is_not_searched_by(stored: Stored, column: str, planted: object) -> None:
    """A name or a moment that somebody puts back into a column is found, though nothing is there to hold it against."""
    await erase(stored, "who", "for_whom", "what", "decision", "request", "remedy")
    assert stored.recheck() == ""
    stored.change(f"UPDATE records SET {column} = ? WHERE idx = ?", planted, INNER)
    assert stored.recheck() == f"Record {INNER}: it is searched by what it does not say: a column was altered."


@pytest.mark.parametrize("at", [math.inf, -math.inf, 1e300])
async def test_a_time_that_is_none_is_found(stored: Stored, at: float) -> None:
    """What cannot be reckoned with is no reason to stop without naming the record."""
    stored.change("UPDATE records SET at = ? WHERE idx = ?", at, INNER)
    assert stored.recheck() == f"Record {INNER}: it is searched by what it does not say: a column was altered."


@pytest.mark.parametrize("index", [INNER, OUTER])
async def test_a_record_that_searches_pass_by_is_found(stored: Stored, index: int) -> None:
    """It counts as one that an older broker wrote: searches by what many share do not come by it; a start mends it."""
    stored.change("UPDATE records SET trait = 0 WHERE idx = ?", index)
    assert stored.recheck().startswith(f"Record {index}: searches pass it by")
    open_log(stored.engine, stored.folder).close()
    assert stored.recheck() == ""


async def test_an_erasure_that_was_undone_is_found(stored: Stored) -> None:
    """Salt and content verify, and columns fit them again: but the record of the erasure says that they are gone."""
    columns = ("groups", "agent", "at", "request_id", "human", "trait")
    with reading(stored.engine) as session:
        statement = f"SELECT {','.join(columns)} FROM records WHERE idx = {INNER}"
        was = execute(session.connection(), statement).one()
    await erase(stored, "who", "request")
    stored.change(f"UPDATE records SET {','.join(f'{each} = ?' for each in columns)} WHERE idx = {INNER}", *was)
    assert stored.recheck().startswith(f"Record {INNER}: who, request was erased, as RecordsErased says, and is there")
    await erase(stored, "who", "request")
    assert stored.recheck() == ""
