"""The two databases that the same tests run on: embedded SQLite in the test's folder, or one of a PostgreSQL server.

A test says where its data is, by a folder, as production does; which database belongs to the folder follows from the
kind that the test runs on (`tests/conftest.py`). The server is started when the first test needs it, one for each
process of pytest, and its databases are copies of a template.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import psycopg
from sqlalchemy import Engine

from broker import database_url, migrations
from broker.db.engine import open_engine, open_server
from broker.db.sqlite import DATABASE, sqlite_url
from broker.entropy import new_id, system_entropy

SQLITE, POSTGRESQL = "sqlite", "postgresql"
KINDS = (SQLITE, POSTGRESQL)
_ROOT = Path(__file__).parents[1]
_MEMORY = Path("/dev/shm")  # noqa: S108  where syncing costs nothing; the folder made in it is the owner's alone
_ROOM = 2 * 1024**3
_now = [SQLITE]


def use(kind: str) -> None:
    """What the next tests run on."""
    _now[0] = kind


def kind() -> str:
    """What the tests run on now."""
    return _now[0]


class Server:
    """A PostgreSQL server, kept by a process that ends it when this one ends, however it ends.

    The broker is given what `docs/postgresql.md` gives it: a role of no power, which owns one database.
    """

    def __init__(self) -> None:
        roomy = _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > _ROOM
        self.folder = Path(tempfile.mkdtemp(prefix="broker-pg-", dir=_MEMORY if roomy else None))
        self._keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.postgresql_keeper", str(self.folder)],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._answer() == "ready"
        self._made: dict[str, Path] = {}
        with self.session() as session:
            session.execute("CREATE ROLE broker LOGIN")
            session.execute("CREATE DATABASE migrated OWNER broker")
        engine = self.open("migrated")
        migrations.upgrade(engine)
        engine.dispose()

    def url(self, database: str) -> str:
        """What the settings say for one of its databases."""
        return f"postgresql://broker@/{database}?host={self.folder}"

    def open(self, database: str, *, write_s: float | None = None) -> Engine:
        """The engine of one of its databases."""
        token = new_id(system_entropy)
        return open_server(database_url.keywords(self.url(database)), None, token, write_s=write_s)

    def session(self, database: str = "postgres") -> psycopg.Connection:
        """A session of an administrator's, who commits each statement."""
        return psycopg.connect(host=str(self.folder), user="postgres", dbname=database, autocommit=True)

    def database_for(self, folder: Path, *, template: str = "template0", tablespace: str = "pg_default") -> str:
        """The database that belongs to a folder; made at the first use."""
        name = "t" + hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:20]
        if name not in self._made:
            self._made[name] = folder.resolve()
            options = f"OWNER broker TEMPLATE {template} STRATEGY FILE_COPY TABLESPACE {tablespace}"
            with self.session() as session:
                session.execute(f"CREATE DATABASE {name} {options}".encode())
        return name

    def drop(self, folder: Path, *, below: bool = True) -> None:
        """Takes away the database of a folder, and those of everything in it."""
        place = folder.resolve()
        done = [name for name, made in self._made.items() if made == place or (below and made.is_relative_to(place))]
        if done:
            with self.session() as session:
                for name in done:
                    session.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
                    del self._made[name]

    def order(self, text: str) -> None:
        """Stops, starts, kills, freezes or thaws the server; see `tests.postgresql_keeper`."""
        assert self._keeper.stdin is not None
        self._keeper.stdin.write(text + "\n")
        self._keeper.stdin.flush()
        assert self._answer() == "done"

    def close(self) -> None:
        """Ends the server."""
        assert self._keeper.stdin is not None
        assert self._keeper.stdout is not None
        self._keeper.stdin.close()
        self._keeper.wait()
        self._keeper.stdout.close()

    def _answer(self) -> str:
        assert self._keeper.stdout is not None
        return self._keeper.stdout.readline().strip()


@cache
def server() -> Server:
    """The server of this process of pytest."""
    return Server()


def stored_bytes(folder: Path, data_dir: Path) -> bytes:
    """Everything that a broker stored: the files of its data folder, and every value of a database elsewhere."""
    found = [path.read_bytes() for path in data_dir.rglob("*") if path.is_file()]
    if kind() == POSTGRESQL:
        with server().session(server().database_for(folder)) as session:
            for (table,) in session.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall():
                for row in session.execute(f"SELECT * FROM {table}".encode()):
                    found += [value if isinstance(value, bytes) else str(value).encode() for value in row]
    return b"\0".join(found)


def close() -> None:
    """Ends the server, if there is one."""
    if server.cache_info().currsize:
        server().close()
        server.cache_clear()


def drop(folder: Path) -> None:
    """Takes away what the tests of a folder left on the server."""
    if server.cache_info().currsize:
        server().drop(folder)


def copied(folder: Path, data_dir: Path) -> str:
    """Copies the database of a folder, as it is, as by hand; gives what `put_back` takes."""
    if kind() == SQLITE:
        return str(shutil.copy(data_dir / DATABASE, folder / "copied.db"))
    return server().database_for(folder / "copied", template=server().database_for(folder))


def lose(folder: Path, data_dir: Path) -> None:
    """The database of a folder is gone; what comes in its place is empty."""
    for file in data_dir.glob(f"{DATABASE}*"):
        file.unlink()
    if kind() == POSTGRESQL:
        server().drop(folder, below=False)


def put_back(copy: str, folder: Path, data_dir: Path) -> None:
    """A copy becomes the database of a folder that has lost its own."""
    if kind() == SQLITE:
        shutil.copy(copy, data_dir / DATABASE)
    else:
        server().database_for(folder, template=copy)


def url_for(folder: Path) -> str | None:
    """What `storage.database` says for a data folder: None for embedded storage."""
    return None if kind() == SQLITE else server().url(server().database_for(folder))


def open_database(folder: Path, *, migrated: bool = False, data_dir: Path | None = None) -> Engine:
    """The engine of the database that belongs to a folder, empty unless `migrated`; embedded in `data_dir` if given."""
    if kind() == POSTGRESQL:
        return server().open(server().database_for(folder, template="migrated" if migrated else "template0"))
    engine = open_engine(sqlite_url(data_dir or folder))
    if migrated:
        migrations.upgrade(engine)
    return engine
