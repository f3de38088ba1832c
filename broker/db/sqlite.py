"""The embedded database: SQLite in the data folder."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import OperationalError
from sqlmodel import create_engine

DATABASE = "broker.db"
"""The embedded database's file in the data folder."""


def sqlite_url(data_dir: Path) -> str:
    """The URL of the embedded database in the data folder."""
    return f"sqlite:///{data_dir / DATABASE}"


def open_embedded(url: str) -> Engine:
    """An engine for the file that `url` names, made for its owner alone when it is missing.

    SQLite runs in WAL mode with full synchronous commits: a commit that returned is on the disk. It would go on writing
    to a file that was moved away, and make an empty one in its place, so nothing is written, and no connection opened,
    unless the file in its place is the one that was there at the start. Fails closed; recovers when it is back.
    """
    arguments = {"check_same_thread": False, "timeout": 0.7}
    engine = create_engine(
        url,
        max_overflow=-1,  # readers never make the writer wait
        pool_use_lifo=True,  # the writer mostly gets its own connection back, whose page cache still holds the indexes
        hide_parameters=True,
        connect_args=arguments,
    )
    path = Path(str(engine.url.database))
    path.touch(mode=0o600)  # SQLite gives the files beside it the same permissions
    opened = os.stat(path)

    def check_in_place() -> None:
        try:
            in_place = os.path.samestat(os.stat(path), opened)
        except OSError:
            in_place = False
        if not in_place:
            raise sqlite3.OperationalError(f"{path} was moved or replaced: put it back, or restart the broker")

    @event.listens_for(engine, "do_connect")
    def _connect(*_: object) -> None:
        check_in_place()

    @event.listens_for(engine, "connect")
    def _configure(connection: sqlite3.Connection, _record: object) -> None:
        connection.isolation_level = None  # the driver begins nothing by itself; see _begin
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", "wal_autocheckpoint=1000"):
            connection.execute(f"PRAGMA {pragma}")
        connection.execute("PRAGMA secure_delete=OFF")  # builds of SQLite differ in it; see `overwriting`

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        if not connection.get_execution_options().get("broker_writes", False):
            connection.exec_driver_sql("BEGIN DEFERRED")
            return
        try:
            check_in_place()
        except sqlite3.OperationalError as error:
            raise OperationalError("BEGIN IMMEDIATE", None, error) from error
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


@contextmanager
def overwriting(connection: Connection) -> Iterator[None]:
    """What is deleted inside is overwritten where it stood, on pages that become free too; it costs time elsewhere.

    Does nothing on a database of another kind.
    """
    if connection.dialect.name != "sqlite":
        yield
        return
    connection.exec_driver_sql("PRAGMA secure_delete=ON")
    try:
        yield
    finally:
        connection.exec_driver_sql("PRAGMA secure_delete=OFF")


def empty_journal(engine: Engine) -> bool:
    """Brings everything into the database's file, and leaves the write-ahead log beside it with no byte.

    Waits for nobody. Returns whether it is done: while others read or write, their log goes on, and its old parts are
    overwritten when it begins anew.
    """
    connection = engine.raw_connection()
    cursor = connection.cursor()
    (wait,) = cursor.execute("PRAGMA busy_timeout").fetchone()
    try:
        cursor.execute("PRAGMA busy_timeout=0")
        return bool(cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    except sqlite3.OperationalError:
        return False
    finally:
        cursor.execute(f"PRAGMA busy_timeout={int(wait)}")
        connection.close()


def is_full(error: BaseException | None) -> bool:
    """Whether a write failed for want of room: somewhere in the chain, for a full disk ends the savepoints too."""
    while error is not None:
        if isinstance(error, sqlite3.OperationalError) and ("full" in str(error) or "disk I/O" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False
