"""Backups: whole and checked or not there, made beside a running broker, and the way back is told to auditors."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from alembic import command
from alembic.config import Config

from broker import backup, migrations
from broker.assembly import assemble
from broker.audit import trail
from broker.audit.disclosure import WHOLE
from broker.audit.events import Kind
from broker.backup import BackupRefused
from broker.db.copy import copy_database
from broker.db.engine import open_engine, writing
from broker.db.sqlite import sqlite_url
from broker.entropy import system_entropy
from broker.errors import BrokerError, ConfigurationError, ProofInvalid, Unavailable
from broker.files import write_private
from broker.formats import checkpoint
from broker.formats.note import NoteVerifier, encode_base64
from broker.keys import KeyRing
from tests.build import Running, running, settings_for

pytestmark = pytest.mark.sqlite

_NOW = 1_800_000_000.0
_DIE = """
import os, signal, sys
from pathlib import Path
from broker import backup, migrations
from broker.assembly import assemble

def probe(point):
    if point == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)

getattr(backup, sys.argv[1])(Path(sys.argv[2]), Path(sys.argv[3]), now=1.8e9, probe=probe)
"""


def killed(what: str, source: Path, target: Path, point: str) -> None:
    """Makes or restores a backup in a process that ends itself, as `kill -9` would, at a point."""
    done = subprocess.run([sys.executable, "-c", _DIE, what, source, target, point], check=False, timeout=60)
    assert done.returncode == -9


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a broker that ran, with a world and a token in its log, and stopped."""
    folder = tmp_path_factory.mktemp("template")
    async with running(folder) as run:
        await run.apply(run.world())
        assert (await (await run.agent()).get("/openai/v1/models")).status_code == 200
    return folder / "data"


@pytest.fixture
def data(template: Path, tmp_path: Path) -> Path:
    """The same, of this test alone."""
    shutil.copytree(template, tmp_path / "data")
    return tmp_path / "data"


def _times(folder: Path) -> dict[str, int]:
    """When each file below was written, by its path from there."""
    return {p.relative_to(folder).as_posix(): p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def _modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in [folder, *folder.rglob("*")]}


async def _refused(folder: Path) -> str:
    """Starts a broker on the folder, which must be refused; gives the text."""
    broker = assemble(settings_for(folder), prepare=migrations.upgrade)
    try:
        with pytest.raises(ConfigurationError) as refusal:
            await broker.start()
    finally:
        broker.audit.close()
        broker.engine.dispose()
        broker.lock.release()
    return refusal.value.detail


async def _started_record(run: Running) -> dict[str, object]:
    """What the newest start told."""
    found = await run.broker.read(lambda s: trail.search(s, trail.Query(kind=Kind.BROKER_STARTED, limit=1), WHOLE))
    remedy: dict[str, object] = found[0]["groups"]["remedy"]
    return remedy


async def test_a_backup_is_made_while_the_broker_writes(tmp_path: Path) -> None:
    """One consistent state of a database that is written all the time, and a checkpoint of it under the log's key."""
    async with running(tmp_path, with_jobs=True) as run:
        await run.apply(run.world())
        stop = False

        async def write() -> int:
            written = 0
            while not stop:
                await run.broker.sign_in.link("admin")
                written += 1
            return written

        writing = asyncio.create_task(write())
        targets = [tmp_path / f"backup-{n}" for n in range(3)]
        made = [await asyncio.to_thread(backup.make, tmp_path / "data", target, now=_NOW) for target in targets]
        stop = True
        assert await writing > 0
        await run.check_log()
        for each in made:
            head = checkpoint.open_signed(each.checked.note, NoteVerifier.parse(run.broker.log_key))
            hashes = run.broker.tree.consistency(head.size, run.broker.audit.size)
            assert hashes is not None
            assert backup.verify(each.folder).checked == each.checked
        sizes = [each.checked.records for each in made]
        assert sizes == sorted(sizes)


async def test_a_backup_is_its_owners_alone_and_holds_no_more_than_it_says(tmp_path: Path, data: Path) -> None:
    """It holds private keys; nothing else of the data folder is in it, and the data folder is as it was."""
    before = _times(data)
    made = backup.make(data, tmp_path / "b", now=_NOW, configuration="/etc/broker.toml", secrets=("openai",))
    kept = {name for name in before if name == "broker.db" or name.startswith("keys/")}
    assert set(_times(tmp_path / "b")) == {"manifest.json", *kept}
    assert _modes(tmp_path / "b") == {0o700, 0o600}
    assert not (tmp_path / "b.partial").exists()
    assert _times(data) == before
    assert (made.manifest["configuration"], made.manifest["secrets"]) == ("/etc/broker.toml", ["openai"])


async def test_a_restored_broker_goes_on_and_says_so(tmp_path: Path, data: Path) -> None:
    """Same keys, same log, same world; the first record names the size and root that the backup reached, once."""
    made = backup.make(data, tmp_path / "b", now=_NOW)
    backup.restore(tmp_path / "b", tmp_path / "new" / "data", now=_NOW + 60)
    assert stat.S_IMODE((tmp_path / "new" / "data").stat().st_mode) == 0o700
    async with running(tmp_path / "new") as run:
        assert await _started_record(run) | {
            "restored": {
                "size": made.checked.head.size,
                "root": encode_base64(made.checked.head.root),
                "records": made.checked.records,
                "backup_at_ms": int(_NOW * 1000),
                "restored_at_ms": int(_NOW * 1000) + 60_000,
            }
        } == await _started_record(run)
        assert run.broker.log_key == made.manifest["log_key"]
        assert "platform" in run.broker.directory.attesters
        run.checkpoint = made.checked.note  # the log continues what the backup reached
        await run.check_log()
    async with running(tmp_path / "new") as run:
        assert "restored" not in await _started_record(run)


async def test_a_restore_in_the_place_of_newer_records_is_told_from_one_elsewhere(tmp_path: Path, data: Path) -> None:
    """Whoever puts the restored database beside the newer checkpoint is refused: that loss must be accepted. Then the
    record tells both.
    """
    backup.make(data, tmp_path / "b", now=_NOW)
    async with running(tmp_path):
        pass
    backup.restore(tmp_path / "b", tmp_path / "new" / "data", now=_NOW)
    shutil.copy(data / "checkpoint", tmp_path / "new" / "data" / "checkpoint")
    assert re.search("checkpoints of [0-9]+ were published", await _refused(tmp_path / "new"))
    broker = assemble(settings_for(tmp_path / "new"), prepare=migrations.upgrade)
    await broker.start(accept_lost_records=True)
    (started,) = await broker.read(lambda s: trail.search(s, trail.Query(kind=Kind.BROKER_STARTED, limit=1), WHOLE))
    await broker.close()
    assert {"restored", "lost"} <= started["groups"]["remedy"].keys()


async def test_keys_that_come_meanwhile_are_in_the_backup(tmp_path: Path, data: Path) -> None:
    """The keys are copied after the database: a key made between the two is there."""

    def rotate(point: str) -> None:
        if point == "database":
            made = KeyRing(tmp_path / "other", system_entropy, log_origin="x/log")
            (file,) = (tmp_path / "other").glob("token-*.pem")
            write_private(data / "keys" / file.name, file.read_bytes())
            rotated.append(made.current.kid)

    rotated: list[str] = []
    backup.make(data, tmp_path / "b", now=_NOW, probe=rotate)
    assert (tmp_path / "b" / "keys" / f"token-{rotated[0]}.pem").exists()


@pytest.mark.parametrize("log", [True, False])
async def test_a_key_that_ends_meanwhile_begins_the_backup_anew(tmp_path: Path, log: bool) -> None:
    """The copied database speaks of a key that ended before the keys were copied: both are copied anew."""
    async with running(tmp_path) as run:
        loop, ended = asyncio.get_running_loop(), list[str]()

        async def end() -> None:
            told = {"by": "operator:admin", "request_id": "r"}
            if log:
                await run.broker.log_rotation.rotate("test", compromised=True, **told)
            else:
                await run.broker.signing_keys.contain(run.broker.keys.current.kid, "test", **told)

        def stolen(point: str) -> None:
            if point == "database" and not ended:
                ended.append(point)
                asyncio.run_coroutine_threadsafe(end(), loop).result()

        made = await asyncio.to_thread(backup.make, tmp_path / "data", tmp_path / "b", now=_NOW, probe=stolen)
        assert made.manifest["log_key"] == run.broker.log_key
        assert f"keys/token-{run.broker.keys.current.kid}.pem" in made.manifest["files"]


async def test_the_data_of_the_version_before_is_backed_up_and_restored(tmp_path: Path, data: Path) -> None:
    """Whoever installs this version backs up before the first start, or goes back to a backup of the one before."""
    engine, config = open_engine(sqlite_url(data)), Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    with writing(engine) as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    engine.dispose()
    backup.make(data, tmp_path / "b", now=_NOW)
    backup.restore(tmp_path / "b", tmp_path / "new" / "data", now=_NOW)
    async with running(tmp_path / "new") as run:
        assert "restored" in await _started_record(run)
        await run.check_log()


async def test_a_restore_into_the_folder_where_one_stands(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder may be named as `.`, too."""
    backup.make(data, tmp_path / "b", now=_NOW)
    (tmp_path / "new" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "new" / "data")
    backup.restore(tmp_path / "b", Path(), now=_NOW)
    monkeypatch.undo()
    assert (tmp_path / "new" / "data" / "broker.db").exists()


def _flip(path: Path) -> None:
    found = bytearray(path.read_bytes())
    found[len(found) // 2] ^= 1
    path.write_bytes(found)


def _sql(statement: str) -> Callable[[Path], None]:
    """Changes the database of a backup, and its manifest so that the files fit it again."""

    def change(folder: Path) -> None:
        with sqlite3.connect(folder / "broker.db") as connection:
            connection.execute(statement)
        connection.close()
        _reseal(folder)

    return change


def _reseal(folder: Path) -> None:
    manifest = orjson.loads((folder / "manifest.json").read_bytes())
    for name in manifest["files"]:
        path = folder / name
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": backup._digest(path)}
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest))


def _damage(folder: Path) -> None:
    """Makes an index point at what is not there, which only an integrity check sees."""
    with sqlite3.connect(folder / "broker.db") as connection:
        connection.execute("PRAGMA writable_schema=ON")
        connection.execute("DELETE FROM sqlite_master WHERE type = 'index' AND name LIKE 'ix_records%'")
    connection.close()
    _reseal(folder)


def _another_log_key(folder: Path) -> None:
    KeyRing(folder.parent / "other", system_entropy, log_origin="x/log")
    shutil.copy(folder.parent / "other" / "log.pem", folder / "keys" / "log.pem")
    _reseal(folder)


ALTERED: dict[str, tuple[Callable[[Path], object], str]] = {
    "a byte of the database": (lambda f: _flip(f / "broker.db"), "is not what was written"),
    "a byte of a key": (lambda f: _flip(f / "keys" / "tag.key"), "is not what was written"),
    "no key": (lambda f: (f / "keys" / "tag.key").unlink(), "keys/tag.key: is missing"),
    "one file more": (lambda f: (f / "keys" / "token-x.pem").touch(), "keys/token-x.pem: is not in the manifest"),
    "no manifest": (lambda f: (f / "manifest.json").unlink(), "is no backup"),
    "another version": (lambda f: (f / "manifest.json").write_text('{"version":2}'), "another version than 1"),
    "half a manifest": (lambda f: (f / "manifest.json").write_text('{"version":1}'), "`made_at_ms` is missing"),
    "a record removed": (_sql("DELETE FROM records WHERE idx = 1"), "Record 2: it does not follow the one before"),
    "a record given to another": (
        _sql("UPDATE records SET agent_tag = 'x' WHERE idx = 1"),
        "Record 1: it does not follow",
    ),
    "the last record removed": (
        _sql("DELETE FROM records WHERE idx = (SELECT max(idx) FROM records)"),
        "do not hash to the checkpoint",
    ),
    "a leaf replaced": (_sql("UPDATE records SET leaf = zeroblob(32) WHERE idx = 1"), "Record 1: it is not the one"),
    "a group replaced": (
        _sql("UPDATE records SET groups = replace(groups, 'exchange', 'exchangf')"),
        "is not what the entry commits to",
    ),
    "no checkpoint": (_sql("DELETE FROM log_head"), "holds no checkpoint"),
    "another log's key": (_another_log_key, "the manifest names another"),
    "pages that nothing leads to": (_damage, "The database is damaged"),
}


@pytest.mark.parametrize("name", ALTERED)
async def test_an_altered_backup_is_neither_verified_nor_restored(name: str, tmp_path: Path, data: Path) -> None:
    """Each layer is checked by itself: files, keys, pages, records, tree. Nothing is left where it was to go."""
    folder = tmp_path / "b"
    backup.make(data, folder, now=_NOW)
    change, words = ALTERED[name]
    change(folder)
    with pytest.raises(BrokerError) as unverified:
        backup.verify(folder)
    with pytest.raises(BrokerError) as unrestored:
        backup.restore(folder, tmp_path / "new", now=_NOW)
    assert words in unverified.value.detail
    assert words in unrestored.value.detail
    assert not (tmp_path / "new").exists()


async def test_nothing_is_overwritten(tmp_path: Path, data: Path) -> None:
    """Neither by a backup nor by a restore; an empty folder will do, and what others left in the way is left."""
    (tmp_path / "b").mkdir()
    backup.make(data, tmp_path / "b", now=_NOW)
    with pytest.raises(BackupRefused, match="is there already and holds something"):
        backup.make(data, tmp_path / "b", now=_NOW)
    with pytest.raises(BackupRefused, match="is there already and holds something"):
        backup.restore(tmp_path / "b", data, now=_NOW)
    (tmp_path / "new.partial").mkdir()
    (tmp_path / "new.partial" / "thesis.tex").touch()
    with pytest.raises(BackupRefused, match="not left by an earlier run; move it"):
        backup.restore(tmp_path / "b", tmp_path / "new", now=_NOW)
    assert (tmp_path / "new.partial" / "thesis.tex").exists()
    with pytest.raises(BackupRefused, match=r"holds no broker\.db"):
        backup.make(tmp_path, tmp_path / "none", now=_NOW)


async def test_too_little_room_is_said_before_anything_is_copied(tmp_path: Path, data: Path) -> None:
    """How much it needs and how much there is."""
    disk = os.statvfs(tmp_path)
    os.truncate(data / "broker.db", disk.f_bavail * disk.f_frsize + 2**30)  # a hole, larger than what is free
    with pytest.raises(BackupRefused, match=r"needs [0-9]+ MB of disk, and [0-9]+ MB are free there"):
        backup.make(data, tmp_path / "b", now=_NOW)
    assert not (tmp_path / "b").exists()
    assert not (tmp_path / "b.partial").exists()


def test_a_copy_of_what_is_no_database_is_refused(tmp_path: Path) -> None:
    """In a sentence that names the file."""
    (tmp_path / "broker.db").write_text("nothing of the kind, and long enough to be read as a header of one")
    with pytest.raises(Unavailable, match=r"broker\.db: cannot be copied"):
        copy_database(tmp_path / "broker.db", tmp_path / "copy.db")


@pytest.mark.parametrize("point", ["database", "keys", "manifest", "checked"])
async def test_a_backup_that_dies_leaves_nothing_that_looks_like_one(point: str, tmp_path: Path, data: Path) -> None:
    """Killed anywhere: no folder of that name, the data is unharmed, and the next run makes a whole one."""
    killed("make", data, tmp_path / "b", point)
    assert not (tmp_path / "b").exists()
    assert backup.make(data, tmp_path / "b", now=_NOW).checked.records > 0
    assert not (tmp_path / "b.partial").exists()
    async with running(tmp_path) as run:
        await run.check_log()


async def test_what_changes_after_it_was_checked_is_not_restored(tmp_path: Path, data: Path) -> None:
    """Each file is held against the manifest once more as it is copied."""
    backup.make(data, tmp_path / "b", now=_NOW)

    def change(point: str) -> None:
        if point == "checked":
            _flip(tmp_path / "b" / "keys" / "tag.key")

    with pytest.raises(ProofInvalid, match=r"keys/tag\.key: changed while it was copied"):
        backup.restore(tmp_path / "b", tmp_path / "new", now=_NOW, probe=change)
    assert not (tmp_path / "new").exists()


async def test_what_came_into_its_place_meanwhile_stays(tmp_path: Path, data: Path) -> None:
    """A folder of that name that somebody made and filled while the copy was made is not replaced."""

    def another(point: str) -> None:
        if point == "checked":
            (tmp_path / "b").mkdir()
            (tmp_path / "b" / "thesis.tex").touch()

    with pytest.raises(BackupRefused, match="cannot be made of"):
        backup.make(data, tmp_path / "b", now=_NOW, probe=another)
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("point", ["checked", "copied", "noted"])
async def test_a_restore_that_dies_leaves_nothing_that_starts(point: str, tmp_path: Path, data: Path) -> None:
    """Killed anywhere: no data folder, the backup is as it was, and the next run restores it."""
    made = backup.make(data, tmp_path / "b", now=_NOW)
    (tmp_path / "new").mkdir()
    killed("restore", tmp_path / "b", tmp_path / "new" / "data", point)
    assert not (tmp_path / "new" / "data").exists()
    assert backup.verify(tmp_path / "b").checked == made.checked
    backup.restore(tmp_path / "b", tmp_path / "new" / "data", now=_NOW)
    async with running(tmp_path / "new") as run:
        assert "restored" in await _started_record(run)
        await run.check_log()


async def test_a_start_that_dies_after_a_restore_tells_it_the_next_time(tmp_path: Path, data: Path) -> None:
    """What is to be told goes away only once it is recorded."""
    backup.make(data, tmp_path / "b", now=_NOW)
    backup.restore(tmp_path / "b", tmp_path / "new" / "data", now=_NOW)
    told = (tmp_path / "new" / "data" / "untold").read_bytes()
    async with running(tmp_path / "new"):
        assert not (tmp_path / "new" / "data" / "untold").exists()
    (tmp_path / "new" / "data" / "untold").write_bytes(told[:-1])
    os.chmod(tmp_path / "new" / "data" / "untold", 0o600)
    assert "restore the backup once more" in await _refused(tmp_path / "new")


async def test_keys_replaced_while_they_are_copied_are_copied_in_one_state(tmp_path: Path, data: Path) -> None:
    """A folder that changes under the copy is copied again; one that never stands still is refused."""
    nonce = data / "keys" / "nonce.key"
    times = 0

    def replace(point: str) -> None:
        nonlocal times
        if point == "looking again" and times > 0:
            times -= 1
            nonce.write_bytes(system_entropy(32))

    times = 2
    backup.make(data, tmp_path / "b", now=_NOW, probe=replace)
    assert times == 0
    assert (tmp_path / "b" / "keys" / "nonce.key").read_bytes() == nonce.read_bytes()
    times = 1000
    with pytest.raises(BackupRefused, match="make the backup when nobody replaces keys"):
        backup.make(data, tmp_path / "c", now=_NOW, probe=replace)


async def test_records_that_wait_are_backed_up_with_their_seals(tmp_path: Path, data: Path) -> None:
    """A broker goes on from them; without the seals it would not, so a copy of that is not taken for good."""
    broker = assemble(settings_for(tmp_path), prepare=migrations.upgrade)
    await broker.start()
    await asyncio.gather(*(broker.sign_in.link("admin") for _ in range(2)))
    backup.make(data, tmp_path / "b", now=_NOW)
    broker.audit.close()
    broker.engine.dispose()
    broker.lock.release()
    backup.restore(tmp_path / "b", tmp_path / "new" / "data", now=_NOW)
    async with running(tmp_path / "new") as run:
        await run.check_log()
    with sqlite3.connect(data / "broker.db") as connection:
        connection.execute("DELETE FROM seals")
    connection.close()
    with pytest.raises(ProofInvalid, match="were not written by this broker"):
        backup.make(data, tmp_path / "c", now=_NOW)
    assert not (tmp_path / "c").exists()


async def test_a_log_that_was_altered_before_is_not_backed_up_as_good(tmp_path: Path, data: Path) -> None:
    """The copy is checked at once, not when it is needed; nothing of the name is there."""
    with sqlite3.connect(data / "broker.db") as connection:
        connection.execute("UPDATE records SET leaf = zeroblob(32) WHERE idx = 1")
    connection.close()
    with pytest.raises(ProofInvalid, match="Record 1"):
        backup.make(data, tmp_path / "b", now=_NOW)
    assert not (tmp_path / "b").exists()
