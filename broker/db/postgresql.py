"""A PostgreSQL server as the database: bounded connections, one that writes, and what the server must promise.

The connection that writes holds an advisory lock for as long as it lives, so a second broker finds it taken. Whoever
loses that connection takes the lock again with the next one, and goes on only if nobody else has written meanwhile
(`broker.db.fence`). Fails closed.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.types.string import StrBinaryDumper, StrDumper
from sqlalchemy import URL, Connection, Engine, event
from sqlmodel import create_engine

from broker.db.fence import Fence
from broker.errors import ConfigurationError, StoreLocked, Unavailable

_LOCK = int.from_bytes(b"broker", "big")
"""The advisory lock's number. It belongs to the one database, as every advisory lock does."""

_READ_S: Final = 10.0
WRITE_S: Final = 4.0
"""What a statement may take, in seconds."""
_GRACE_S = 1.0
"""How much longer the answer may be on its way before the connection counts as lost."""

_NETWORK: Mapping[str, Any] = {
    "connect_timeout": 3,
    "tcp_user_timeout": 4_000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    # What libpq would else take from variables of its own: all that says where to connect is in the settings.
    "hostaddr": "",
    "options": "",
    "gssencmode": "disable",
    "client_encoding": "utf8",
}

_READS = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
_WRITES = "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE"

_SESSION = (
    "SET lock_timeout = 700; SET statement_timeout = {limit_ms}; SET synchronous_commit = on; "
    "SET search_path = public; SET bytea_output = hex; SET extra_float_digits = 1"
)
_PROMISES = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'server_encoding')"
_HOLDER = (
    "SELECT a.pid, coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'a Unix socket') FROM pg_locks l "
    "JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 "
    "AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
    "AND (l.classid::bigint << 32 | l.objid::bigint) = %s"
)


class BoundedConnection(psycopg.Connection[Any]):
    """A connection whose every exchange with the server ends in time: a server that is silent is a server lost.

    The server bounds its statements itself; this is for the server that does not answer at all. What the server adds
    to an error of what was in the row goes no further: errors end up in the log.
    """

    limit_s: float | None = _READ_S + _GRACE_S

    def wait(self, gen: PQGen[Any], interval: float = 0.1, timeout: float | None = None) -> Any:
        """Waits for an answer, as the driver does, and gives the connection up when none comes."""
        try:
            return super().wait(gen, interval, self.limit_s if timeout is None else timeout)
        except errors._WaitTimeout as error:
            self.pgconn.finish()
            raise psycopg.OperationalError("the server does not answer; the connection was given up") from error
        except psycopg.Error as error:
            if error.diag.message_primary:
                error.args = (f"{error.diag.message_primary} ({error.sqlstate})",)
            raise


def open_server(
    keywords: Mapping[str, str], password: str | None, token: str, write_s: float
) -> tuple[Engine, Engine, Fence]:
    """The engine that reads, the engine of the one connection that writes, and the fence before that one.

    Args:
        keywords: where the server is (`broker.database_url`).
        password: for SCRAM alone; the driver looks for no other than this and its own password file.
        token: a random text that tells this opening of the database from every other.
        write_s: how long a statement that writes may take, in seconds.

    Raises:
        StoreLocked: another broker writes to the database; the text names it.
        ConfigurationError: the server cannot be used; the text says why.
    """
    fence = Fence()
    name = f"broker {os.getpid()} on {socket.gethostname()[:30]} {token[:12]}"
    arguments = _arguments(keywords, password, name)
    place = URL.create(
        "postgresql+psycopg", keywords["user"], None, keywords["host"], int(keywords["port"]), keywords["dbname"]
    )

    def reader() -> BoundedConnection:
        return _opened(arguments, _READ_S)

    def writer() -> BoundedConnection:
        if fence.lost:
            raise _lost()
        connection = _opened(arguments, write_s)
        try:
            _check_promises(connection)
            _lock(connection, name, keywords["dbname"])
            _check_fence(connection, fence)
        except BaseException:
            connection.close()
            raise
        return connection

    reads = create_engine(place, creator=reader, max_overflow=-1, pool_pre_ping=True, hide_parameters=True)
    writes = create_engine(place, creator=writer, pool_size=1, max_overflow=0, hide_parameters=True)

    @event.listens_for(reads, "begin")
    def _begin_reading(connection: Connection) -> None:
        connection.exec_driver_sql(_READS)

    @event.listens_for(writes, "begin")
    def _begin_writing(connection: Connection) -> None:
        patient = bool(connection.get_execution_options().get("broker_patient", False))
        driver = connection.connection.driver_connection
        assert isinstance(driver, BoundedConnection)
        driver.limit_s = None if patient else write_s + _GRACE_S
        connection.exec_driver_sql(_WRITES)
        if patient:
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")

    @event.listens_for(reads, "engine_disposed")
    def _disposed(_engine: Engine) -> None:
        writes.dispose()

    try:
        writes.connect().close()
    except psycopg.Error as error:  # pragma: no cover  the engine wraps it
        raise _unreachable(error) from None
    except Exception as error:
        writes.dispose()
        cause = getattr(error, "orig", None)
        if isinstance(cause, psycopg.Error):
            raise _unreachable(cause) from None
        raise
    return reads, writes, fence


@contextmanager
def looking(keywords: Mapping[str, str], password: str | None) -> Iterator[Callable[[], str]]:
    """A connection that only asks; see `broker.db.engine.looking`."""
    try:
        with _opened(_arguments(keywords, password, "broker doctor"), _READ_S) as connection:
            _check_promises(connection)
            yield lambda: str(connection.execute("SHOW server_version").fetchall()[0][0])
    except psycopg.Error as error:
        raise _unreachable(error) from None


def _arguments(keywords: Mapping[str, str], password: str | None, name: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {**_NETWORK, **keywords, "application_name": name, "autocommit": True}
    if password is not None:
        arguments |= {"password": password, "require_auth": "scram-sha-256"}
    return arguments


class _Text(StrDumper):
    """Text as the server takes it: it stores no NUL, so each becomes the replacement character."""

    def dump(self, obj: str) -> Any:
        """The text without NUL."""
        return super().dump(_without_null(obj))


class _BinaryText(StrBinaryDumper):
    """The same, as it stands in arrays."""

    def dump(self, obj: str) -> Any:
        """The text without NUL."""
        return super().dump(_without_null(obj))


def _without_null(text: str) -> str:
    return text.replace("\0", "\N{REPLACEMENT CHARACTER}") if "\0" in text else text


def _opened(arguments: Mapping[str, Any], limit_s: float) -> BoundedConnection:
    connection = BoundedConnection.connect(**arguments)
    connection.limit_s = limit_s + _GRACE_S
    connection.adapters.register_dumper(str, _BinaryText)
    connection.adapters.register_dumper(str, _Text)
    try:
        connection.execute(_SESSION.format(limit_ms=int(limit_s * 1000)).encode())
    except BaseException:
        connection.close()
        raise
    return connection


def _check_promises(connection: BoundedConnection) -> None:
    """A commit that returned is on the disk only if the server writes it there."""
    if connection.info.server_version < 140_000:
        raise ConfigurationError("storage.database: the server is older than PostgreSQL 14; use a newer one")
    settings = dict(connection.execute(_PROMISES).fetchall())
    for name in ("fsync", "full_page_writes"):
        if settings[name] != "on":
            raise ConfigurationError(
                f"storage.database: the server runs with {name} = off and would lose what was answered for; "
                f"set {name} = on in its postgresql.conf and reload it"
            )
    if settings["server_encoding"] != "UTF8":
        raise ConfigurationError("storage.database: make the database with ENCODING 'UTF8'; names are no ASCII")


def _lock(connection: BoundedConnection, name: str, database: str) -> None:
    """Takes the database's lock; a session of this very process that the server still holds open is ended for it."""
    taken = "SELECT pg_try_advisory_lock(%s)"
    if connection.execute(taken, (_LOCK,)).fetchall() == [(True,)]:
        return
    holders = connection.execute(_HOLDER, (_LOCK,)).fetchall()
    for pid, holder, _ in holders:
        if holder == name:
            connection.execute("SELECT pg_terminate_backend(%s, 1000)", (pid,))
    if connection.execute(taken, (_LOCK,)).fetchall() == [(True,)]:
        return
    pid, holder, address = holders[0] if holders else (0, "", "an unknown address")
    raise StoreLocked(
        f"the database {database} is held by {holder.rpartition(' ')[0] or 'another session'}, connected from "
        f"{address} (server process {pid}); stop it, or choose another database"
    )


def _check_fence(connection: BoundedConnection, fence: Fence) -> None:
    if fence.run and connection.execute("SELECT run FROM writer WHERE id = 1").fetchall() != [(fence.run,)]:
        fence.lost = True
        raise _lost()


def _lost() -> Unavailable:
    return Unavailable(
        "Another broker wrote to this database while this one had lost it. Nothing is written any more: restart this "
        "one."
    )


def _unreachable(error: psycopg.Error) -> ConfigurationError:
    why = " ".join(str(error).split()) or type(error).__name__
    return ConfigurationError(
        f"storage.database: the server cannot be used: {why}; look at the address, and at its log"
    )
