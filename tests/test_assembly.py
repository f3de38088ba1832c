"""A start on stored state that does not fit together is refused: a log never gets a second history."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from broker import migrations
from broker.assembly import Broker, assemble
from broker.errors import BrokerError, ConfigurationError, ProofInvalid
from tests.build import running, settings_for


async def _ran_once(folder: Path) -> Path:
    """The data folder of a broker that ran and stopped in good order."""
    async with running(folder) as run:
        await run.check_log()
    return folder / "data"


async def _refused(folder: Path, kind: type[BrokerError]) -> str:
    """Starts a broker on the folder, which must be refused; gives the text."""
    broker: Broker = assemble(settings_for(folder), prepare=migrations.upgrade)
    try:
        with pytest.raises(kind) as refusal:
            await broker.start()
    finally:
        broker.audit.close()
        broker.engine.dispose()
        broker.lock.release()
    return str(refusal.value)


async def test_a_lost_database_begins_no_second_log(tmp_path: Path) -> None:
    """Keys whose log has begun, beside no database, are refused: the same key would sign two histories."""
    for file in (await _ran_once(tmp_path)).glob("broker.db*"):
        file.unlink()
    assert "restore the database" in await _refused(tmp_path, ConfigurationError)


async def test_a_record_removed_while_stopped_is_noticed_at_start(tmp_path: Path) -> None:
    """The start looks before it records anything, for its own record would fill the gap."""
    database = await _ran_once(tmp_path) / "broker.db"
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM records WHERE idx = (SELECT max(idx) FROM records)")
    connection.close()
    assert "entries were removed" in await _refused(tmp_path, ProofInvalid)
