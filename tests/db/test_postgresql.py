"""The database of a server: what it must promise, one broker that writes, and what becomes of a lost connection."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.exc import DBAPIError, OperationalError

from broker.audit import trail
from broker.audit.disclosure import WHOLE
from broker.audit.log import RecordRow
from broker.audit.traits import TraitsRow, note_spans
from broker.db import claims
from broker.db.claims import Claim, take
from broker.db.engine import begin_to_write, execute, insert_rows, open_server, reading, writer_of, writing
from broker.errors import ConfigurationError, StoreLocked, Unavailable
from tests.databases import server
from tests.db.notes import Notes
from tests.faults import break_commit, driver_of, end_sessions, server_down, server_frozen, until

pytestmark = pytest.mark.postgresql


def _setting(engine: Engine, name: str) -> str:
    with writing(engine) as connection:
        return str(execute(connection, f"SELECT current_setting('{name}')").scalar_one())


def _name(engine: Engine) -> str:
    return str(engine.url.database)


def _write(engine: Engine, key: str) -> None:
    with writing(engine) as connection:
        assert take(connection, [[Claim(key, "", 1.0)]]) == [None]


def _keys(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return [str(row[0]) for row in execute(session.connection(), "SELECT key FROM claims ORDER BY key")]


def test_a_commit_is_on_the_disk(engine: Engine) -> None:
    """Whatever the server's default, the connection that writes waits for the disk."""
    with server().session() as session:
        session.execute(f"ALTER DATABASE {_name(engine)} SET synchronous_commit = off".encode())
    end_sessions(engine)
    assert _setting(engine, "synchronous_commit") == "on"


@pytest.mark.parametrize("promise", ["fsync", "full_page_writes"])
def test_a_server_that_would_lose_commits_is_refused(engine: Engine, promise: str) -> None:
    """At the start, and when it comes back like that: the text names the setting, and nothing is written."""
    server().order("stop")
    server().order(f"start -c {promise}=off")
    try:
        with pytest.raises(ConfigurationError, match=rf"{promise} = off .*set {promise} = on"):
            server().open(_name(engine))
        with pytest.raises(ConfigurationError, match=promise):
            _write(engine, "lost")
    finally:
        server().order("stop")
        server().order("start")
    _write(engine, "kept")
    assert _keys(engine) == ["kept"]


def test_a_database_of_another_encoding_is_refused(tmp_path: Path) -> None:
    """Names are no ASCII."""
    name = server().database_for(tmp_path, template="template0 ENCODING 'SQL_ASCII'")
    with pytest.raises(ConfigurationError, match="ENCODING 'UTF8'"):
        server().open(name)


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    """The text says what to look at."""
    keywords = {"host": str(tmp_path), "port": "5432", "user": "broker", "dbname": "broker", "sslmode": "disable"}
    with pytest.raises(ConfigurationError, match=r"storage\.database: the server cannot be used: .*No such file"):
        open_server(keywords, "hunter2", "token")


def test_readers_cannot_write(engine: Engine) -> None:
    """What is read is read only, in one state."""
    with pytest.raises(Unavailable), reading(engine) as session:
        execute(session.connection(), "DELETE FROM claims")


def test_a_second_broker_is_refused(engine: Engine) -> None:
    """While one holds the database the next is told its process and machine, also before the first has written."""
    with pytest.raises(StoreLocked, match=rf"held by broker {os.getpid()} on .*a Unix socket.*stop it"):
        server().open(_name(engine))
    engine.dispose()
    server().open(_name(engine)).dispose()


def test_a_lost_connection_is_replaced(engine: Engine) -> None:
    """An ended session costs nothing that was committed, and the next transaction works."""
    begin_to_write(engine, "first run")
    _write(engine, "before")
    end_sessions(engine)
    _write(engine, "after")
    assert _keys(engine) == ["after", "before"]


def test_a_transaction_whose_connection_is_lost_leaves_nothing(engine: Engine) -> None:
    """What was not committed did not happen."""

    def half() -> None:
        with writing(engine) as connection:
            take(connection, [[Claim("half", "", 1.0)]])
            end_sessions(engine)
            take(connection, [[Claim("whole", "", 1.0)]])

    with pytest.raises(OperationalError):
        half()
    assert _keys(engine) == []


def test_who_was_replaced_never_writes_again(engine: Engine) -> None:
    """A broker that lost its connection, and finds that another began to write meanwhile, is out for good."""
    begin_to_write(engine, "first run")
    end_sessions(engine)
    other = server().open(_name(engine))
    begin_to_write(other, "second run")
    _write(other, "theirs")
    with pytest.raises(StoreLocked):  # while the other one is there
        _write(engine, "mine")
    other.dispose()
    for _ in range(2):  # and when it has gone
        with pytest.raises(Unavailable, match=r"Another broker wrote .*restart this one"):
            _write(engine, "mine")
    assert _keys(engine) == ["theirs"]


def test_the_fence_holds_without_its_row(engine: Engine) -> None:
    """A database from before, or of somebody else's, is no database to go on with."""
    begin_to_write(engine, "first run")
    with writing(engine) as connection:
        execute(connection, "DELETE FROM writer")
    end_sessions(engine)
    with pytest.raises(Unavailable, match="restart this one"):
        _write(engine, "mine")


def test_a_session_left_behind_does_not_lock_its_owner_out(engine: Engine) -> None:
    """When the server still holds the session of a connection that is gone, the same broker ends it and goes on."""
    with writing(engine) as connection:
        socket_of_it = driver_of(connection).pgconn.socket
    held = os.dup(socket_of_it)
    elsewhere, nowhere = socket.socketpair()
    os.dup2(elsewhere.fileno(), socket_of_it)  # so that the server is not told of the end, as when a machine is lost
    try:
        writer_of(engine).dispose()
        _write(engine, "mine")
    finally:
        os.close(held)
        elsewhere.close()
        nowhere.close()
    assert _keys(engine) == ["mine"]


async def test_a_commit_in_doubt_that_landed_is_answered(engine: Engine) -> None:
    """The connection is lost after the COMMIT landed: its caller gets the result, and what waits comes after it."""
    notes = Notes(engine)
    break_commit(engine, lands=True)
    assert await notes.writer.submit("in doubt") == "in doubt at 0"
    assert await notes.writer.submit("next") == "next at 0"
    assert notes.stored() == ["in doubt", "next"]
    assert notes.settled == [None, None]
    notes.writer.close()


async def test_a_commit_in_doubt_that_did_not_land_did_not_happen(engine: Engine) -> None:
    """The connection is lost before the COMMIT landed: its caller is told 503."""
    notes = Notes(engine)
    break_commit(engine, lands=False)
    with pytest.raises(Unavailable):
        await notes.writer.submit("in doubt")
    assert await notes.writer.submit("next") == "next at 0"
    assert notes.stored() == ["next"]
    notes.writer.close()


async def test_what_comes_next_waits_until_the_doubt_is_over(engine: Engine) -> None:
    """It is the batch in doubt that is asked about, and not one that was written after it."""
    notes = Notes(engine)
    broken = break_commit(engine, lands=False)
    in_doubt = asyncio.create_task(notes.writer.submit("in doubt"))
    await until(broken.is_set)
    assert await notes.writer.submit("next") == "next at 0"
    with pytest.raises(Unavailable):
        await in_doubt
    assert notes.stored() == ["next"]
    notes.writer.close()


async def test_nothing_is_written_while_a_commit_is_in_doubt(engine: Engine) -> None:
    """Whoever comes while the server is away is told 503; the one in doubt is told of when it is back."""
    notes = Notes(engine, timeout_s=0.2)
    broken = break_commit(engine, lands=True, then="kill")
    with pytest.raises(Unavailable):
        await notes.writer.submit("in doubt")
    await until(broken.is_set)
    with pytest.raises(Unavailable):
        await notes.writer.submit("meanwhile")
    await asyncio.to_thread(server().order, "start")
    await until(lambda: notes.abandoned == [("in doubt", "in doubt at 0")])
    assert notes.stored() == ["in doubt"]
    notes.writer.close()


async def test_a_silent_server_is_given_up(engine: Engine) -> None:
    """A server that accepts and never answers holds the writer for a bounded time; then all goes on by itself."""
    engine.dispose()
    hasty = server().open(_name(engine), write_s=0.2)
    notes = Notes(hasty, timeout_s=0.1)
    with server_frozen():
        with pytest.raises(Unavailable):
            await notes.writer.submit("silence")
        await until(lambda: notes.writer.failing)
    await until(lambda: not notes.writer._queue.qsize())
    for _ in range(100):
        with suppress(Unavailable):
            assert await notes.writer.submit("after") == "after at 0"
            break
    assert notes.stored() == ["after"]
    notes.writer.close()
    hasty.dispose()


def test_a_server_that_comes_back_is_used(engine: Engine) -> None:
    """Killed at once and started again, it has everything that was committed."""
    begin_to_write(engine, "first run")
    _write(engine, "before")
    with server_down("kill"):
        with pytest.raises(OperationalError):
            _write(engine, "lost")
        with pytest.raises(Unavailable):
            _keys(engine)
    _write(engine, "after")
    assert _keys(engine) == ["after", "before"]


def test_text_with_a_null_is_no_failure(engine: Engine) -> None:
    """The server stores none; a look-up of such a text finds nothing, as on the embedded database."""
    with reading(engine) as session:
        assert trail.search(session, trail.Query(agent="a\0b"), WHOLE) == []
    with writing(engine) as connection:
        execute(connection, "INSERT INTO claims VALUES (?, '', 1)", ("a\0b",))
    _write(engine, "c\0d")
    with pytest.raises(DBAPIError):  # and none of them is taken twice
        _write(engine, "c\0d")
    assert _keys(engine) == ["a\ufffdb", "c\ufffdd"]


def test_what_failed_tells_no_values(engine: Engine) -> None:
    """Errors end up in the log."""
    _write(engine, "secret-key")
    with pytest.raises(DBAPIError) as failure, writing(engine) as connection:
        insert_rows(connection, "claims", ("key", "value", "expires_at"), [("secret-key", "", 1.0)])
    assert "duplicate key" in str(failure.value)
    assert "secret-key" not in str(failure.value)


@pytest.mark.parametrize(
    ("query", "index"),
    [
        (trail.Query(agent="a1"), "ix_records_agent_trait"),
        (trail.Query(human="h1"), "ix_records_human_trait"),
        (trail.Query(kind="K7"), "ix_records_trait"),
        (trail.Query(owner="o7", since_ms=0), "ix_records_trait"),
        (trail.Query(request_id="r 7"), "ix_records_request_id"),
        (trail.Query(after=5_000), "records_pkey"),
    ],
)
def test_a_search_uses_an_index(engine: Engine, query: trail.Query, index: str) -> None:
    """The planner of a log of some size reads no whole table where the embedded database has an index."""
    columns = tuple(RecordRow.model_fields)
    with writing(engine) as connection:
        filler = {"at": 0.0, "entry": b"", "leaf": b"", "commitments": b"", "groups": b"{}".ljust(500)}
        rows = [
            {
                **filler,
                "idx": n,
                "seq": n,
                "agent": f"a{n % 997}",
                "human": f"h{n}" if n % 20 == 1 else "",
                "trait": n % 53 + 1,
                "request_id": f"r {n}",
            }
            for n in range(10_000)
        ]
        combinations = [(n + 1, f"K{n}", f"o{n}", "", "", "", "[]") for n in range(53)]
        insert_rows(connection, "traits", tuple(TraitsRow.model_fields), combinations)
        insert_rows(connection, "records", columns, [tuple(row.get(name, "") for name in columns) for row in rows])
        note_spans(connection, 0, 10_000)
    with server().session(_name(engine)) as session:
        session.execute("ANALYZE")
    seen: list[tuple[str, Any]] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cursor, text, values, *_: seen.append((text, values)))
    with reading(engine) as reader:
        assert trail.search(reader, query, WHOLE)
    asked = [(statement, values) for statement, values in seen if "FROM records" in statement]
    with server().session(_name(engine)) as session:
        plans = [str(session.execute(f"EXPLAIN {said}".encode(), values).fetchall()) for said, values in asked]
    assert not any("Seq Scan on records" in plan for plan in plans)
    assert any(index in plan for plan in plans)


def test_pruning_uses_an_index(engine: Engine) -> None:
    """Finding what has ended among many claims reads no whole table."""
    with writing(engine) as connection:
        wishes = [[Claim(f"{number}", "", float(number))] for number in range(20_000)]
        assert take(connection, wishes) == [None] * 20_000
    with server().session(_name(engine)) as session:
        session.execute("ANALYZE")
        plan = session.execute("EXPLAIN SELECT key FROM claims WHERE expires_at <= 100 LIMIT 2000").fetchall()
    assert "ix_claims_expires_at" in str(plan)
    assert claims.prune(engine, 100.0) == 101
