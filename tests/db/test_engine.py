"""The door to SQL: durability settings, batches of rows, and a database that is full, moved away or replaced."""

from __future__ import annotations

import stat
from contextlib import nullcontext
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from broker.db.engine import insert_rows, open_engine, reading, select_in, writing
from broker.db.sqlite import is_full, sqlite_url
from broker.errors import Unavailable
from tests.faults import CappedDatabase, locked, moved


def _claims(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return [str(row[0]) for row in session.connection().exec_driver_sql("SELECT key FROM claims ORDER BY key")]


def _write(engine: Engine, *keys: str) -> None:
    with writing(engine) as connection:
        insert_rows(connection, "claims", ("key", "value", "expires_at"), [(key, "", 1.0) for key in keys])


@pytest.mark.sqlite
@pytest.mark.parametrize(
    ("pragma", "value"), [("journal_mode", "wal"), ("synchronous", 2), ("foreign_keys", 1), ("secure_delete", 0)]
)
def test_every_connection_is_durable(engine: Engine, pragma: str, value: object) -> None:
    """Full synchronous commits in WAL mode, on the first connection of the pool and on a second one."""
    with engine.connect() as one, engine.connect() as two:
        assert [c.exec_driver_sql(f"PRAGMA {pragma}").scalar() for c in (one, two)] == [value, value]


@pytest.mark.sqlite
def test_the_files_are_the_owners_alone(tmp_path: Path, engine: Engine) -> None:
    """The database and the files beside it can be read by nobody else, whatever the umask lets through."""
    _write(engine, "a")
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob("broker.db*")}
    assert modes == {"broker.db": 0o600, "broker.db-wal": 0o600, "broker.db-shm": 0o600}


@pytest.mark.parametrize("count", [0, 1, 255, 256, 257, 600])
def test_many_rows_go_in_and_come_out(engine: Engine, count: int) -> None:
    """Rows are inserted and selected whole, on either side of what one statement takes."""
    keys = [f"{number:04}" for number in range(count)]
    _write(engine, *keys)
    assert _claims(engine) == keys
    with reading(engine) as session:
        found = select_in(session.connection(), "claims", "key, expires_at", "key", [*keys, "absent"])
    assert sorted(found) == [(key, 1.0) for key in keys]


def test_an_error_leaves_nothing(engine: Engine) -> None:
    """A transaction is whole or not at all."""

    def half() -> None:
        with writing(engine) as connection:
            insert_rows(connection, "claims", ("key", "value", "expires_at"), [("a", "", 1.0)])
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        half()
    assert _claims(engine) == []


def test_a_reader_sees_one_state(engine: Engine) -> None:
    """What is committed while a session reads does not show in it, and the writer does not wait for it."""
    with reading(engine) as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM claims").scalar() == 0
        _write(engine, "a")
        assert session.connection().exec_driver_sql("SELECT count(*) FROM claims").scalar() == 0
    assert _claims(engine) == ["a"]


def test_readers_never_keep_the_writer_waiting(engine: Engine) -> None:
    """However many sessions are open, there is a connection for the one that writes."""
    readers = [engine.connect() for _ in range(40)]
    _write(engine, "a")
    for reader in readers:
        reader.close()
    assert _claims(engine) == ["a"]


@pytest.mark.sqlite
def test_the_writer_gets_its_own_connection_back(engine: Engine) -> None:
    """However many readers there were: another connection would have to read the pages of the indexes anew."""
    with reading(engine) as one, reading(engine) as two:
        assert one.connection().connection.dbapi_connection is not two.connection().connection.dbapi_connection
    used = []
    for _ in range(3):
        with writing(engine) as connection:
            used.append(connection.connection.dbapi_connection)
    assert used == [used[0]] * 3


@pytest.mark.sqlite
@pytest.mark.parametrize("nested", [False, True])
def test_a_full_disk_is_told_from_other_failures(engine: Engine, nested: bool) -> None:
    """Also when the failure ended the savepoint that it happened in, and the database complains of that instead."""

    def fill() -> None:
        with writing(engine) as connection, connection.begin_nested() if nested else nullcontext():
            for number in range(100):
                insert_rows(connection, "claims", ("key", "value", "expires_at"), [(f"{number}", "x" * 3000, 1.0)])

    database = CappedDatabase(engine)
    database.full = True
    with pytest.raises(OperationalError) as failure:
        fill()
    assert is_full(failure.value)
    database.full = False
    _write(engine, "a")
    assert _claims(engine) == ["a"]


def test_a_locked_database_is_not_a_full_one(tmp_path: Path, engine: Engine) -> None:
    """Another process's lock is given up on within a second and does not pass for a full disk."""
    with locked(engine), pytest.raises(OperationalError, match="lock") as failure:
        _write(engine, "a")
    assert not is_full(failure.value)
    assert not is_full(None)


@pytest.mark.sqlite
@pytest.mark.parametrize("what", ["broker.db", "."])
def test_a_database_that_was_moved_is_not_written(tmp_path: Path, what: str) -> None:
    """SQLite would go on writing to the moved file: nothing is written until the file, or its folder, is back."""
    folder = tmp_path / "data"
    folder.mkdir()
    engine = open_engine(sqlite_url(folder))
    with writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE claims (key TEXT, value TEXT, expires_at FLOAT)")
    with moved((folder / what).resolve()), pytest.raises(OperationalError, match="put it back"):
        _write(engine, "lost")
    _write(engine, "kept")
    assert _claims(engine) == ["kept"]
    engine.dispose()


@pytest.mark.sqlite
def test_no_empty_database_takes_the_place_of_a_moved_one(tmp_path: Path, engine: Engine) -> None:
    """A new connection would make an empty file, and mix its journal with the moved one's: it is refused instead."""
    _write(engine, "a")
    engine.dispose()
    with moved(tmp_path / "broker.db"):
        with pytest.raises(Unavailable):
            _claims(engine)
        assert not (tmp_path / "broker.db").exists()
    assert _claims(engine) == ["a"]


@pytest.mark.sqlite
def test_another_database_in_its_place_is_not_written(tmp_path: Path, engine: Engine) -> None:
    """A copy put in the place of the open database is another database, whatever it holds."""
    _write(engine, "a")
    original = tmp_path / "broker.db"
    with moved(original):
        original.write_bytes((tmp_path / "broker.db.aside").read_bytes())
        with pytest.raises(OperationalError, match="replaced"):
            _write(engine, "b")
        original.unlink()
    _write(engine, "c")
    assert _claims(engine) == ["a", "c"]


@pytest.mark.sqlite
def test_what_cannot_be_read_is_unavailable(engine: Engine) -> None:
    """A reader learns that the database failed, as an error of the broker's own."""
    with pytest.raises(Unavailable, match="cannot be read"), reading(engine) as session:
        session.connection().exec_driver_sql("SELECT * FROM missing")
