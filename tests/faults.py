"""Faults at the doors: a database without room, held by another process, moved away, or lost with its server."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import Connection, Engine, event

from broker.db.engine import writer_of
from tests import databases

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
def locked(engine: Engine) -> Iterator[None]:
    """Holds a database against every writer as another process would."""
    if engine.dialect.name == "postgresql":
        with databases.server().session(str(engine.url.database)) as other, other.transaction():
            for (table,) in other.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
                other.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
            yield
        return
    holder = sqlite3.connect(str(engine.url.database), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        holder.execute("ROLLBACK")
        holder.close()


@contextmanager
def moved(path: Path) -> Iterator[None]:
    """Takes a file or folder out of its place, and puts it back at the end."""
    aside = path.with_name(path.name + ".aside")
    path.rename(aside)
    try:
        yield
    finally:
        aside.rename(path)


@contextmanager
def server_down(how: str) -> Iterator[None]:
    """The PostgreSQL server is stopped or killed, and started again at the end."""
    databases.server().order(how)
    try:
        yield
    finally:
        databases.server().order("start")


@contextmanager
def server_frozen() -> Iterator[None]:
    """The PostgreSQL server accepts, and answers nothing, until the end."""
    databases.server().order("freeze")
    try:
        yield
    finally:
        databases.server().order("thaw")


def driver_of(connection: Connection) -> psycopg.Connection[Any]:
    """PostgreSQL's driver behind a connection."""
    found = connection.connection.driver_connection
    assert isinstance(found, psycopg.Connection)
    return found


def end_sessions(engine: Engine) -> None:
    """Ends every session of a PostgreSQL database, as an operator does."""
    with databases.server().session() as session:
        session.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", (engine.url.database,)
        )


def break_commit(engine: Engine, *, lands: bool, then: str = "") -> threading.Event:
    """Loses the connection in the middle of the next COMMIT: after it was carried out, or before.

    Args:
        engine: a PostgreSQL database.
        lands: whether the server carries it out.
        then: what becomes of the whole server, instead of the sessions alone: "stop" or "kill".

    Returns:
        Set once all that has happened.
    """
    begun, done = threading.Event(), threading.Event()

    @event.listens_for(writer_of(engine), "commit")
    def _commit(connection: Connection) -> None:
        if begun.is_set():
            return
        begun.set()
        if lands:
            driver_of(connection).execute("COMMIT")
            driver_of(connection).execute("BEGIN")
        if then:
            databases.server().order(then)
        else:
            end_sessions(engine)
        done.set()

    return done
