"""Copies of the embedded database: made while the broker runs, opened without touching a byte of them."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import Engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool
from sqlmodel import create_engine

from broker.db.engine import reading
from broker.errors import ProofInvalid, Unavailable

_WAIT_S = 10.0


def copy_database(source: Path, target: Path) -> None:
    """Copies one consistent state of a database that others may be writing; durable when it returns.

    Everything is copied in one step, for a commit of another process would begin a copy in several anew. Readers keep
    no writer waiting, so the broker goes on meanwhile.

    Args:
        source: the database; it must exist.
        target: a new file, made for its owner alone.

    Raises:
        Unavailable: it cannot be read, or there is no room for the copy.
        OSError: the new file is there already, or cannot be made.
    """
    os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    try:
        with (
            closing(sqlite3.connect(_uri(source, "mode=rw"), uri=True, timeout=_WAIT_S)) as reader,
            closing(sqlite3.connect(target, isolation_level=None)) as writer,
        ):
            reader.backup(writer)
            writer.execute("PRAGMA journal_mode=DELETE")  # one file, and nothing beside it
    except sqlite3.Error as error:
        raise Unavailable(f"{source}: cannot be copied to {target}: {error}") from error
    with target.open("rb") as file:
        os.fsync(file.fileno())


def open_copy(path: Path) -> Engine:
    """An engine that reads a copy and changes nothing, nor anything beside it."""
    uri = _uri(path, "mode=ro&immutable=1")
    return create_engine(
        "sqlite://", creator=lambda: sqlite3.connect(uri, uri=True, check_same_thread=False), poolclass=NullPool
    )


def check_integrity(engine: Engine) -> None:
    """Reads every page of a database, and every entry of its indexes.

    Raises:
        ProofInvalid: something does not fit; the text is SQLite's own.
    """
    try:
        with reading(engine) as session:
            found = [str(row[0]) for row in session.connection().exec_driver_sql("PRAGMA integrity_check(5)")]
    except (DatabaseError, Unavailable) as error:
        raise ProofInvalid(f"The database cannot be read: {getattr(error, 'orig', None) or error.__cause__}") from error
    if found != ["ok"]:
        raise ProofInvalid(f"The database is damaged: {'; '.join(found)}")


def _uri(path: Path, how: str) -> str:
    return f"file:{quote(str(path.resolve()))}?{how}"
