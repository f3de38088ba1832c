"""Faults at the doors: a database without room, held by another process, or moved away."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, event

_NO_CAP = 2**30


async def until(condition: Callable[[], bool]) -> None:
    """Waits, by looking often, for what happens on another thread or in another process."""
    for _ in range(2_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never happened")


class CappedDatabase:
    """A database that may not grow while `full` is set: SQLite answers as on a full disk (SQLITE_FULL).

    What fits into the pages that it has can still be written, as on a disk.

    Args:
        engine: the broker's engine.
    """

    def __init__(self, engine: Engine) -> None:
        self.full = False

        @event.listens_for(engine, "begin")
        def _cap(connection: Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count={1 if self.full else _NO_CAP}")


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Holds the write lock of a database as another process would."""
    other = sqlite3.connect(database, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@contextmanager
def moved(path: Path) -> Iterator[None]:
    """Takes a file or folder out of its place, and puts it back at the end."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)
