"""What decisions were made from: stored once under its digest, no later than the first record that names it."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import pytest
from sqlalchemy import Engine

from broker.audit import inputs
from broker.audit.inputs import Input
from broker.audit.log import AuditLog, Step
from broker.db.engine import execute, reading, writing
from broker.errors import BrokerError, Conflict
from tests.audit.logs import check_rows, event, kinds, open_log


def named(text: str) -> Input:
    """An input of this text."""
    return Input(hashlib.sha256(text.encode()).hexdigest(), text.encode())


A, B = named("a"), named("b")


def stored(engine: Engine) -> dict[str, bytes]:
    """Everything that is stored, by digest."""
    with reading(engine) as session:
        rows = session.connection().exec_driver_sql("SELECT digest, content FROM entity_slices")
        return {str(digest): bytes(content) for digest, content in rows}


@pytest.fixture
def log(engine: Engine, tmp_path: Path) -> AuditLog:
    """A log that is closed by the tests that must."""
    return open_log(engine, tmp_path)


async def test_what_many_records_name_is_stored_once(engine: Engine, log: AuditLog, tmp_path: Path) -> None:
    """In one batch and in the next, and by the next run of the broker."""
    await asyncio.gather(*(log.record(Step((event(inputs=(A, B)), event(inputs=(A,))))) for _ in range(20)))
    await log.record(Step((event(inputs=(B,)),)))
    log.close()
    again = open_log(engine, tmp_path)
    await again.record(Step((event(inputs=(A, named("c"))),)))
    again.close()
    assert stored(engine) == dict([A, B, named("c")])
    assert len(kinds(engine)) == 42
    check_rows(engine)


async def test_what_a_refused_step_names_is_not_stored(engine: Engine, log: AuditLog) -> None:
    """Its record is not there, so nobody names it; and the next one that does stores it."""

    def refuse(_session: object) -> None:
        raise Conflict("no")

    with pytest.raises(BrokerError):
        await log.record(Step((event(inputs=(A,)),), change=refuse))
    assert stored(engine) == {}
    await log.record(Step((event(inputs=(A,)),)))
    log.close()
    assert stored(engine) == dict([A])


async def test_what_a_lost_transaction_named_is_stored_by_the_next(engine: Engine, tmp_path: Path) -> None:
    """A commit that failed is not taken for one that stored it."""
    failing = True

    def probe(point: str) -> None:
        if failing and point == "applied":
            raise OSError("no")

    log = open_log(engine, tmp_path, probe=probe)
    with pytest.raises(BrokerError):
        await log.record(Step((event(inputs=(A,)),)))
    failing = False
    await log.record(Step((event(inputs=(A,)),)))
    log.close()
    assert stored(engine) == dict([A])
    assert len(kinds(engine)) == 1


def test_what_is_not_there_is_left_out(engine: Engine) -> None:
    """Erased, or never stored."""
    with writing(engine) as connection:
        execute(connection, "INSERT INTO entity_slices (digest, content) VALUES (?, ?)", A)
    with reading(engine) as session:
        assert inputs.stored(session.connection(), [A.digest, B.digest]) == dict([A])
