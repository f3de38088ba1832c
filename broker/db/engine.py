"""The database engine, and the few statements that must be fast or differ between databases."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import BigInteger, Connection, Engine, Integer, event
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, create_engine

from broker.errors import Unavailable

DATABASE = "broker.db"
"""The embedded database's file in the data folder."""

_turns: WeakKeyDictionary[Engine, threading.Lock] = WeakKeyDictionary()
_turns_lock = threading.Lock()

_ROWS_A_STATEMENT = 256
"""Rows in one INSERT. One statement a batch: each return to Python costs a turn at the interpreter's lock."""


BIG_INTEGER = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit column everywhere: SQLite's INTEGER has 64 bits, and only under that name can it be the row's own id."""


def open_engine(url: str) -> Engine:
    """An engine for `url` with the broker's durability settings.

    SQLite runs in WAL mode with full synchronous commits: a commit that returned is on the disk. It would go on writing
    to a file that was moved away, and make an empty one in its place, so nothing is written, and no connection opened,
    unless the file in its place is the one that was there at the start. Fails closed; recovers when it is back.

    Args:
        url: an SQLAlchemy URL; see `sqlite_url`. The file is made, for its owner alone, when it is missing.
    """
    arguments = {"check_same_thread": False, "timeout": 0.7}
    engine = create_engine(
        url, max_overflow=-1, hide_parameters=True, connect_args=arguments
    )  # readers never make the writer wait
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


def sqlite_url(data_dir: Path) -> str:
    """The URL of the embedded database in the data folder."""
    return f"sqlite:///{data_dir / DATABASE}"


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that reads one consistent state; nothing in it is ever committed.

    Raises:
        Unavailable: the database cannot be read.
    """
    try:
        with Session(engine, expire_on_commit=False) as session:
            yield session  # closing it ends the transaction, and leaves what was read usable
    except OperationalError as error:
        raise Unavailable("The database cannot be read at the moment. Try again in a second.") from error


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A transaction that holds the write lock from its start, committed at the end unless an error passes."""
    with _turn(engine), engine.connect().execution_options(broker_writes=True) as connection, connection.begin():
        yield connection


def _turn(engine: Engine) -> threading.Lock:
    """Who writes next in this process: waiting here is fair, where SQLite's own waiting is a lottery."""
    with _turns_lock:
        return _turns.setdefault(engine, threading.Lock())


def is_full(error: BaseException | None) -> bool:
    """Whether a write failed for want of room: somewhere in the chain, for a full disk ends the savepoints too."""
    while error is not None:
        if isinstance(error, sqlite3.OperationalError) and ("full" in str(error) or "disk I/O" in str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@lru_cache(maxsize=1024)
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    row = "(" + ",".join("?" * len(columns)) + ")"
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES " + ",".join([row] * rows)  # noqa: S608  names are ours


def insert_rows(connection: Connection, table: str, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
    """Inserts many rows with as few statements as possible.

    Args:
        connection: an open transaction.
        table, columns: names from our own table classes, never from outside.
        rows: one sequence of driver values a row, in the order of `columns`.
    """
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        part = rows[start : start + _ROWS_A_STATEMENT]
        connection.exec_driver_sql(_insert(table, columns, len(part)), tuple(chain.from_iterable(part)))


def select_in(
    connection: Connection, table: str, columns: str, key: str, values: Iterable[Any]
) -> list[tuple[Any, ...]]:
    """Rows of `table` whose `key` is one of `values`, in no particular order."""
    wanted = list(values)
    found: list[tuple[Any, ...]] = []
    for start in range(0, len(wanted), _ROWS_A_STATEMENT):
        part = wanted[start : start + _ROWS_A_STATEMENT]
        marks = ",".join("?" * len(part))
        statement = f"SELECT {columns} FROM {table} WHERE {key} IN ({marks})"  # noqa: S608  names are ours
        found += [tuple(row) for row in connection.exec_driver_sql(statement, tuple(part))]
    return found
