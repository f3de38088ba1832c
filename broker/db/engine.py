"""The one way to the database: open it, read one state of it, write in turns, and say a statement for either kind."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import chain
from types import ModuleType
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import BigInteger, Connection, CursorResult, Engine, Float, Integer, inspect
from sqlalchemy.exc import DatabaseError, DBAPIError, InternalError, OperationalError
from sqlmodel import Session, SQLModel

from broker.db.fence import Fence
from broker.db.sqlite import empty_journal, open_embedded
from broker.errors import ConfigurationError, StoreLocked, Unavailable

BIG_INTEGER = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit column everywhere: SQLite's INTEGER has 64 bits, and only under that name can it be the row's own id."""

FAILURES = (OperationalError, InternalError, Unavailable, StoreLocked, ConfigurationError)
"""What a database raises that is full, locked, gone, or not to be written at the moment: no batch is to blame."""

_ROWS_A_STATEMENT = 256
"""Rows in one INSERT. One statement a batch: each return to Python costs a turn at the interpreter's lock."""


@dataclass(slots=True)
class _Door:
    """How an open database is written: whose turn it is, over which connections, and behind which fence."""

    writes: Engine
    fence: Fence | None = None
    turn: threading.Lock = field(default_factory=threading.Lock)
    """Who writes next in this process: waiting here is fair, where SQLite's own waiting is a lottery."""


_doors: WeakKeyDictionary[Engine, _Door] = WeakKeyDictionary()


class InDoubt(Unavailable):
    """The connection was lost in the middle of a COMMIT: only the database knows whether it landed."""


def open_engine(url: str) -> Engine:
    """The embedded database that an SQLAlchemy URL names; see `broker.db.sqlite`."""
    engine = open_embedded(url)
    _doors[engine] = _Door(engine)
    return engine


def open_server(
    keywords: Mapping[str, str], password: str | None, token: str, *, write_s: float | None = None
) -> Engine:
    """A database of a PostgreSQL server; see `broker.db.postgresql`.

    Raises:
        StoreLocked: another broker writes to it.
        ConfigurationError: it cannot be used, or its driver is not installed.
    """
    postgresql = _driver()
    opened: tuple[Engine, Engine, Fence] = postgresql.open_server(
        keywords, password, token, write_s or postgresql.WRITE_S
    )
    engine, writes, fence = opened
    _doors[engine] = _Door(writes, fence)
    return engine


@contextmanager
def looking(keywords: Mapping[str, str], password: str | None) -> Iterator[Callable[[], str]]:
    """A question to a PostgreSQL server, as often as wanted, which writes nothing and keeps no broker out.

    Yields:
        Asks it once, and gives the server's version.

    Raises:
        ConfigurationError: it cannot be used; the text says why.
    """
    with _driver().looking(keywords, password) as look:
        yield look


def _driver() -> ModuleType:
    try:
        from broker.db import postgresql
    except ImportError as error:
        raise ConfigurationError(
            "storage.database: the driver for PostgreSQL is not installed; run `pip install 'broker[postgresql]'`"
        ) from error
    return postgresql


def is_server(engine: Engine) -> bool:
    """Whether the database has a server of its own, with a disk of its own."""
    return engine.dialect.name == "postgresql"


def writer_of(engine: Engine) -> Engine:
    """The engine of the connections that write; the same one for the embedded database."""
    return _doors[engine].writes


def is_empty(engine: Engine) -> bool:
    """Whether the database holds no table at all, so that this is the first start on it."""
    try:
        with reading(engine) as session:
            return not inspect(session.connection()).get_table_names()
    except DatabaseError:
        return False  # what is no database of ours is not empty either; the schema's history says what is wrong


def begin_to_write(engine: Engine, name: str) -> None:
    """Writes down that this process is the one that writes from now on; another that did so before is out.

    The embedded database needs none of it: the lock on its folder ends with the process alone.

    Args:
        engine: the database, with the newest schema.
        name: a random name for this run of the broker.
    """
    fence = _doors[engine].fence
    if fence is None:
        return
    statement = "INSERT INTO writer (id, run) VALUES (1, ?) ON CONFLICT (id) DO UPDATE SET run = excluded.run"
    with writing(engine) as connection:
        execute(connection, statement, (name,))
    fence.run = name


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session that reads one consistent state; nothing in it is ever committed.

    Raises:
        Unavailable: the database cannot be read.
    """
    try:
        with Session(engine, expire_on_commit=False) as session:
            yield session  # closing it ends the transaction, and leaves what was read usable
    except (OperationalError, InternalError) as error:
        raise Unavailable("The database cannot be read at the moment. Try again in a second.") from error


@contextmanager
def writing(engine: Engine, *, patient: bool = False) -> Iterator[Connection]:
    """A transaction that nobody else writes beside, committed at the end unless an error passes.

    Args:
        engine: the database.
        patient: for the schema's history alone: a statement may take as long as it takes.

    Raises:
        InDoubt: the connection was lost while it was committed.
    """
    door = _doors[engine]
    with door.turn, _begun(door.writes, patient) as connection:
        ended = False
        transaction = connection.get_transaction()
        assert transaction is not None
        try:
            with transaction:
                yield connection
                ended = True
        except DBAPIError as error:
            if ended and error.connection_invalidated:
                raise InDoubt("The database was lost while it stored this. Look whether it is done.") from error
            raise


def _begun(writes: Engine, patient: bool) -> Connection:
    """A connection with a transaction begun; the first try may find that the one kept was lost meanwhile."""
    for attempt in range(2):
        connection = writes.connect().execution_options(broker_writes=True, broker_patient=patient)
        try:
            connection.begin()
        except DBAPIError as error:
            connection.close()
            if attempt or not error.connection_invalidated:
                raise
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    raise AssertionError("unreachable")


def forget_old_pages(engine: Engine) -> None:
    """Leaves nothing of what was overwritten in what the embedded database keeps beside its file, if nobody is busy.

    A server's own files are left alone.
    """
    door = _doors[engine]
    if not is_server(engine):
        with door.turn:
            empty_journal(engine)


def execute(connection: Connection, statement: str, parameters: Sequence[Any] = ()) -> CursorResult[*tuple[Any, ...]]:
    """Runs one statement, written once for every database: `?` stands for each parameter, and for nothing else."""
    return connection.exec_driver_sql(_said(statement, connection.dialect.name), tuple(parameters))


@lru_cache(maxsize=1024)
def _said(statement: str, dialect: str) -> str:
    return statement if dialect == "sqlite" else statement.replace("%", "%%").replace("?", "%s")


@lru_cache(maxsize=1024)
def _insert(table: str, columns: tuple[str, ...], rows: int) -> str:
    row = "(" + ",".join("?" * len(columns)) + ")"
    return f"INSERT INTO {table} ({','.join(columns)}) VALUES " + ",".join([row] * rows)  # noqa: S608  names are ours


@lru_cache(maxsize=64)
def _insert_arrays(table: str, columns: tuple[str, ...], dialect: Any) -> tuple[str, tuple[Callable[[Any], Any], ...]]:
    """One array a column, in the driver's binary form: at 256 rows three times as fast as VALUES.

    The driver takes no array of whole numbers and others, so such a column's values become one kind.
    """
    types = [SQLModel.metadata.tables[table].c[name].type for name in columns]
    arrays = ",".join(f"%b::{type.compile(dialect)}[]" for type in types)
    kinds = tuple(_floats if isinstance(type, Float) else list for type in types)
    return f"INSERT INTO {table} ({','.join(columns)}) SELECT * FROM unnest({arrays})", kinds  # noqa: S608  callers name tables and columns in constants


def _floats(values: Iterable[Any]) -> list[float]:
    return [float(value) for value in values]


def insert_rows(
    connection: Connection,
    table: str,
    columns: tuple[str, ...],
    rows: Sequence[Sequence[Any]],
    *,
    unless_there: bool = False,
) -> None:
    """Inserts many rows with as few statements as possible.

    Args:
        connection: an open transaction.
        table, columns: names from our own table classes, never from outside.
        rows: one sequence of driver values a row, in the order of `columns`.
        unless_there: leaves out those whose key is there already.
    """
    ending = " ON CONFLICT DO NOTHING" if unless_there else ""
    if rows and connection.dialect.name == "postgresql":
        statement, kinds = _insert_arrays(table, columns, connection.dialect)
        arrays = tuple(kind(column) for kind, column in zip(kinds, zip(*rows, strict=True), strict=True))
        connection.exec_driver_sql(statement + ending, arrays)
        return
    for start in range(0, len(rows), _ROWS_A_STATEMENT):
        part = rows[start : start + _ROWS_A_STATEMENT]
        connection.exec_driver_sql(_insert(table, columns, len(part)) + ending, tuple(chain.from_iterable(part)))


def select_in(
    connection: Connection, table: str, columns: str, key: str, values: Iterable[Any]
) -> list[tuple[Any, ...]]:
    """Rows of `table` whose `key` is one of `values`, in no particular order."""
    wanted = list(values)
    found: list[tuple[Any, ...]] = []
    if connection.dialect.name == "postgresql":
        statement = f"SELECT {columns} FROM {table} WHERE {key} = ANY(%b)"  # noqa: S608  names are ours
        return [tuple(row) for row in connection.exec_driver_sql(statement, (wanted,))] if wanted else found
    for start in range(0, len(wanted), _ROWS_A_STATEMENT):
        part = wanted[start : start + _ROWS_A_STATEMENT]
        marks = ",".join("?" * len(part))
        statement = f"SELECT {columns} FROM {table} WHERE {key} IN ({marks})"  # noqa: S608  names are ours
        found += [tuple(row) for row in connection.exec_driver_sql(statement, tuple(part))]
    return found
