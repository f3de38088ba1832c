"""A start on stored state that does not fit together is refused: a log never gets a second history."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from broker import migrations
from broker.assembly import Broker, assemble
from broker.audit import trail
from broker.audit.disclosure import WHOLE
from broker.audit.events import Kind
from broker.audit.tree import stored_head
from broker.db.engine import execute, reading, writing
from broker.errors import BrokerError, ConfigurationError, ProofInvalid, Unavailable
from broker.formats import checkpoint
from broker.formats.note import encode_base64
from tests import databases
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
    databases.lose(tmp_path, await _ran_once(tmp_path))
    assert "restore the database" in await _refused(tmp_path, ConfigurationError)


async def test_a_record_removed_while_stopped_is_noticed_at_start(tmp_path: Path) -> None:
    """The start looks before it records anything, for its own record would fill the gap."""
    engine = databases.open_database(tmp_path, data_dir=await _ran_once(tmp_path))
    with writing(engine) as connection:
        execute(connection, "DELETE FROM records WHERE idx = (SELECT max(idx) FROM records)")
    engine.dispose()
    assert "entries were removed" in await _refused(tmp_path, ProofInvalid)


async def test_a_record_removed_while_running_is_said_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """In a line that says what to do; everything is let go of all the same, and nothing is signed over it."""
    broker: Broker = assemble(settings_for(tmp_path), prepare=migrations.upgrade)
    await broker.start()
    with writing(broker.engine) as connection:
        covered = stored_head(connection)
        execute(connection, "DELETE FROM records WHERE idx = (SELECT max(idx) FROM records)")
    await broker.close()
    (line,) = [each for each in caplog.records if each.name == "broker.assembly.broker"]
    assert (line.levelname, line.exc_info) == ("ERROR", None)
    assert line.getMessage().startswith("the last records are not under a checkpoint: ")
    assert "the next start brings them under one, or says what to restore" in line.getMessage()
    engine = databases.open_database(tmp_path, data_dir=tmp_path / "data")
    with reading(engine) as session:
        assert stored_head(session.connection()) == covered
    engine.dispose()
    assert await _refused(tmp_path, ProofInvalid)  # the folder's lock was let go of


async def _older_database(folder: Path) -> Path:
    """A data folder whose broker ran twice and whose database is that of the first run; the second was published."""
    data = await _ran_once(folder)
    older = databases.copied(folder, data)
    await _ran_once(folder)
    databases.lose(folder, data)
    databases.put_back(older, folder, data)
    return data


async def test_an_older_database_beside_newer_checkpoints_is_refused(tmp_path: Path) -> None:
    """Its own head fits it; the checkpoint that was kept beside it does not, and is left as it is."""
    kept = await _older_database(tmp_path) / "checkpoint"
    before = kept.read_text()
    why = await _refused(tmp_path, ConfigurationError)
    assert re.search(r"the database holds \d+ records, and checkpoints of \d+ were published", why)
    assert "--accept-lost-records" in why
    assert kept.read_text() == before


async def test_lost_records_are_accepted_once_and_recorded(tmp_path: Path) -> None:
    """The start's record names the published size and root; from then on the log goes on as any other."""
    data = await _older_database(tmp_path)
    published = checkpoint.parse_unverified((data / "checkpoint").read_text())
    broker: Broker = assemble(settings_for(tmp_path), prepare=migrations.upgrade)
    await broker.start(accept_lost_records=True)
    (started,) = await broker.read(lambda s: trail.search(s, trail.Query(kind=Kind.BROKER_STARTED, limit=1), WHOLE))
    await broker.close()
    lost = started["groups"]["remedy"]["lost"]
    assert (lost["published"], lost["published_root"]) == (published.size, encode_base64(published.root))
    assert lost["held"] == started["index"]
    assert not (data / "untold").exists()
    await _ran_once(tmp_path)


async def test_newer_keys_are_destroyed_only_once_the_loss_is_accepted(tmp_path: Path) -> None:
    """A start that is refused leaves them for the newest database; one that goes on without it has no use for them."""
    data = await _ran_once(tmp_path)
    before = sorted((data / "keys").iterdir())
    older = databases.copied(tmp_path, data)
    async with running(tmp_path) as run:
        told = {"by": "operator:admin", "request_id": "r"}
        await run.broker.log_rotation.rotate("test", compromised=False, **told)
        await run.broker.signing_keys.rotate("test", **told)
        await run.check_log()
    newer = sorted((data / "keys").iterdir())
    assert len(newer) == len(before) + 2
    databases.lose(tmp_path, data)
    databases.put_back(older, tmp_path, data)
    await _refused(tmp_path, ConfigurationError)
    assert sorted((data / "keys").iterdir()) == newer
    broker: Broker = assemble(settings_for(tmp_path), prepare=migrations.upgrade)
    await broker.start(accept_lost_records=True)
    await broker.close()
    assert sorted((data / "keys").iterdir()) == before


async def test_a_crash_after_accepting_hides_no_loss(tmp_path: Path) -> None:
    """What was accepted waits on the disk until it is recorded, though the kept checkpoint is a new one by then."""
    await _older_database(tmp_path)
    broker: Broker = assemble(settings_for(tmp_path), prepare=migrations.upgrade)
    broker._check_continues(True)
    head = broker.tree.head()
    broker.audit.close()
    broker.engine.dispose()
    broker.lock.release()
    (tmp_path / "data" / "checkpoint").write_text(head)
    async with running(tmp_path) as run:
        (started,) = await run.broker.read(
            lambda s: trail.search(s, trail.Query(kind=Kind.BROKER_STARTED, limit=1), WHOLE)
        )
        assert started["groups"]["remedy"]["lost"]["published"] > 0


async def test_another_history_of_the_same_length_is_refused(tmp_path: Path) -> None:
    """A copy that went on by itself elsewhere and came back has enough records, and not those that were published."""
    data = await _older_database(tmp_path)
    kept = (data / "checkpoint").read_text()
    (data / "checkpoint").write_text(_head_of(tmp_path, data))
    for _ in range(2):
        await _ran_once(tmp_path)
    (data / "checkpoint").write_text(kept)
    why = await _refused(tmp_path, ProofInvalid)
    assert "entries were altered or replaced" in why
    assert "--accept-lost-records" not in why


def _head_of(folder: Path, data: Path) -> str:
    engine = databases.open_database(folder, data_dir=data)
    with reading(engine) as session:
        head = stored_head(session.connection())
    engine.dispose()
    assert head is not None
    return head


async def test_a_kept_checkpoint_that_is_gone_or_anothers_is_refused(tmp_path: Path) -> None:
    """Without it nobody can tell whether the database is the newest; another log's says nothing of this one."""
    data = await _ran_once(tmp_path)
    kept = (data / "checkpoint").read_text()
    (data / "checkpoint").unlink()
    assert "the file `checkpoint` is missing" in await _refused(tmp_path, ConfigurationError)
    (data / "checkpoint").touch(mode=0o600)
    (data / "checkpoint").write_text(kept.replace("\n—", "\nx\n—"))
    assert "is not of this log" in await _refused(tmp_path, ConfigurationError)
    (data / "checkpoint").write_text(kept)
    await _ran_once(tmp_path)


async def test_losses_are_not_accepted_beforehand(tmp_path: Path) -> None:
    """The option left in a unit file would accept the next loss unseen: without one it refuses."""
    await _ran_once(tmp_path)
    broker: Broker = assemble(settings_for(tmp_path), prepare=migrations.upgrade)
    with pytest.raises(ConfigurationError, match="no records are lost here"):
        await broker.start(accept_lost_records=True)
    broker.audit.close()
    broker.engine.dispose()
    broker.lock.release()


async def test_a_checkpoint_that_cannot_be_kept_is_not_published(tmp_path: Path) -> None:
    """The file comes first: what somebody outside may hold is never newer than what stands beside the database."""
    async with running(tmp_path) as run:
        head = run.broker.tree.head()
        (tmp_path / "data" / "checkpoint.partial").mkdir()
        await run.broker.sign_in.link("admin")
        with pytest.raises(Unavailable, match="cannot be written"):
            run.broker.tree.integrate()
        assert run.broker.tree.head() == head
        (tmp_path / "data" / "checkpoint.partial").rmdir()
        run.broker.tree.integrate()
        assert run.broker.tree.head() == (tmp_path / "data" / "checkpoint").read_text() != head
