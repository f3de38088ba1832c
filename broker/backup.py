"""Backups: a consistent copy of everything that a broker needs to go on, made while it runs, and its way back.

A backup is a folder: the database, the keys folder as it is on disk, and `manifest.json` with the size and SHA-256 of
each file and the checkpoint that the copy reaches to. It holds the broker's private keys: whoever reads it can sign as
this broker. The configuration, and the secrets that it names, are not in it.

Both ways work in `NAME.partial` beside the target, which takes the target's name when it is whole, checked and on the
disk. A process that dies on any line leaves the target as it was; the next run clears what it left.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import inspect

from broker.audit import published, untold
from broker.audit.log_keys import LogKeys
from broker.audit.recheck import Rechecked, recheck
from broker.db.copy import check_integrity, copy_database, open_copy
from broker.db.engine import reading
from broker.db.sqlite import DATABASE
from broker.db.writer import no_probe
from broker.entropy import system_entropy
from broker.errors import BrokerError, ConfigurationError, Malformed, ProofInvalid
from broker.files import replace_private, sync_folder
from broker.formats import canonical_json, note
from broker.formats.note import NoteVerifier
from broker.keys import KeyRing, Unlock
from broker.tokens import signing_keys

KEYS = "keys"
MANIFEST = "manifest.json"
_VERSION = 1
_MAX_MANIFEST_BYTES = 1024 * 1024
_CHUNK = 1024 * 1024
_TRIES = 5
_OURS = frozenset({DATABASE, f"{DATABASE}-journal", KEYS, MANIFEST, published.FILE, untold.FILE})
"""What may stand in a folder that an earlier run left behind, which is cleared."""

Probe = Callable[[str], None]
Progress = Callable[[str], None]


class BackupRefused(BrokerError):
    """A backup or a restore that was not made; nothing was changed."""

    reason = "backup"


SERVERS_OWN = (
    "storage.database: the records are on a server, which its own means copy: pg_dump, or pg_basebackup with archived "
    "WAL. After that, copy the folder keys and the file checkpoint out of storage.data_dir, and keep the three together"
)
"""Why a broker on a server is not backed up from here, and what to do. See docs/postgresql.md."""


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was checked. Only `verify` builds one.

    Args:
        folder: where it is.
        manifest: as it was written.
        checked: its log, re-verified from its records.
    """

    folder: Path
    manifest: Mapping[str, Any]
    checked: Rechecked

    def told(self) -> dict[str, object]:
        """What there is to say of it."""
        return {
            "folder": str(self.folder),
            "made_at_ms": self.manifest["made_at_ms"],
            "records": self.checked.records,
            "checkpoint": self.checked.note,
            "log_key": self.manifest["log_key"],
            "configuration": self.manifest["configuration"],
            "secrets": self.manifest["secrets"],
            "bytes": sum(file["bytes"] for file in self.manifest["files"].values()),
        }


def make(
    data_dir: Path,
    target: Path,
    *,
    now: float,
    configuration: str = "",
    secrets: tuple[str, ...] = (),
    unlock: Unlock | None = None,
    probe: Probe = no_probe,
) -> Backup:
    """Copies a data folder, of a broker that runs or not, and checks the copy.

    The database comes first and the keys after it: a key that is made in between is one too many, while one that the
    database already speaks of must not be missing. One that ends in between is, and then both are copied again, once.

    Args:
        data_dir: the data folder.
        target: a folder that is not there yet.
        now: seconds since the epoch.
        configuration: the configuration's file, which is named in the manifest and not copied.
        secrets: the names of the secrets that it names.
        unlock: what opens the keys, if they are sealed; they stay sealed in the backup.
        probe: a test seam: called with "database", "looking again", "keys", "manifest" and "checked".

    Raises:
        BackupRefused: the target is there, there is no database, or no room.
        Unavailable, ConfigurationError, ProofInvalid: what was copied cannot be used.
    """
    if not (data_dir / DATABASE).is_file():
        raise BackupRefused(f"{data_dir}: holds no {DATABASE}; name the broker's data folder with --data-dir")
    target = target.resolve()
    partial = _begin(target, _size_of(data_dir))
    try:
        log_key = _copy_broker(data_dir, partial, unlock, probe)
    except ConfigurationError:  # a key may have ended after the database was copied, which still speaks of it
        (partial / DATABASE).unlink(missing_ok=True)
        log_key = _copy_broker(data_dir, partial, unlock, probe)
    manifest = {
        "version": _VERSION,
        "made_at_ms": int(now * 1000),
        "log_key": log_key,
        "configuration": configuration,
        "secrets": list(secrets),
        "files": {
            name: {"bytes": path.stat().st_size, "sha256": _digest(path)}
            for name, path in sorted(_files(partial).items())
        },
    }
    replace_private(partial / MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    probe("manifest")
    made = verify(partial, unlock)
    probe("checked")
    _finish(partial, target)
    return Backup(target, made.manifest, made.checked)


def verify(folder: Path, unlock: Unlock | None = None) -> Backup:
    """Checks a backup whole: files, keys, database, and the log from its records up to its checkpoint.

    That shows that it is what was written, and fits together. Who could change the backup could also make another; for
    that, compare the checkpoint with one that was kept elsewhere.

    Args:
        folder: the backup.
        unlock: what opens its keys, if they are sealed.

    Raises:
        ProofInvalid, ConfigurationError, Malformed: the text says what does not fit.
        BackupRefused: there is no backup.
    """
    manifest = _manifest(folder)
    found = _files(folder)
    found.pop(MANIFEST, None)
    if set(found) != set(manifest["files"]):
        odd = sorted(set(found) ^ set(manifest["files"]))[0]
        raise ProofInvalid(f"{folder / odd}: is {'not in the manifest' if odd in found else 'missing'}.")
    for name, path in found.items():
        if {"bytes": path.stat().st_size, "sha256": _digest(path)} != manifest["files"][name]:
            raise ProofInvalid(f"{path}: is not what was written: its bytes were changed or lost.")
    vkey, tag_key = _own_keys(folder, unlock)
    if vkey != manifest["log_key"]:
        raise ProofInvalid(f"{folder / KEYS}: holds the log's key {vkey}, and the manifest names another.")
    engine = open_copy(folder / DATABASE)
    try:
        check_integrity(engine)
        return Backup(folder, manifest, recheck(engine, NoteVerifier.parse(vkey), tag_key))
    finally:
        engine.dispose()


def restore(folder: Path, target: Path, *, now: float, unlock: Unlock | None = None, probe: Probe = no_probe) -> Backup:
    """Checks a backup, and makes a data folder of it. Its broker's first start records that, and up to where it went.

    Args:
        folder: a backup.
        target: the new data folder: not there yet, or empty.
        now: seconds since the epoch.
        unlock: what opens its keys, if they are sealed.
        probe: a test seam: called with "checked", "copied" and "noted".

    Raises:
        As `verify`; BackupRefused: the target holds something, or there is no room.
    """
    target = target.resolve()
    backup = verify(folder, unlock)
    probe("checked")
    partial = _begin(target, _size_of(folder))
    for name, path in _files(folder).items():
        if name != MANIFEST:
            (partial / name).parent.mkdir(mode=0o700, exist_ok=True)
            if _copy(path, partial / name) != backup.manifest["files"][name]["sha256"]:
                raise ProofInvalid(f"{path}: changed while it was copied.")
    probe("copied")
    head = backup.checked.head
    replace_private(partial / published.FILE, backup.checked.note.encode())
    restored = {
        "size": head.size,
        "root": note.encode_base64(head.root),
        "records": backup.checked.records,
        "backup_at_ms": backup.manifest["made_at_ms"],
        "restored_at_ms": int(now * 1000),
    }
    replace_private(partial / untold.FILE, orjson.dumps({"restored": restored}))
    probe("noted")
    _finish(partial, target)
    return backup


def _begin(target: Path, size: int) -> Path:
    """The folder to work in, new, with room for `size` bytes on its disk."""
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise BackupRefused(f"{target}: is there already and holds something; name a new folder")
    partial = target.with_name(target.name + ".partial")
    if partial.exists():
        if not partial.is_dir() or any(path.name not in _OURS for path in partial.iterdir()):
            raise BackupRefused(f"{partial}: is in the way, and not left by an earlier run; move it")
        shutil.rmtree(partial)
    partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    disk = os.statvfs(partial.parent)
    if (room := disk.f_bavail * disk.f_frsize) < size:
        mb = 1024 * 1024
        raise BackupRefused(f"{target}: needs {size // mb + 1} MB of disk, and {room // mb} MB are free there")
    partial.mkdir(mode=0o700)
    return partial


def _finish(partial: Path, target: Path) -> None:
    """Gives what is whole its name, durably; refuses to take the place of anything that has come meanwhile."""
    for folder in (partial / KEYS, partial):
        sync_folder(folder)
    try:
        partial.rename(target)
    except OSError as error:
        raise BackupRefused(f"{target}: cannot be made of {partial}: {error.strerror}") from error
    sync_folder(target.parent)


def _copy_broker(data_dir: Path, partial: Path, unlock: Unlock | None, probe: Probe) -> str:
    """Copies the database and then the keys, and sees that they fit; gives what verifiers of the log pin."""
    copy_database(data_dir / DATABASE, partial / DATABASE)
    probe("database")
    _copy_keys(data_dir / KEYS, partial / KEYS, probe)
    probe("keys")
    return _own_keys(partial, unlock)[0]


def _copy_keys(source: Path, target: Path, probe: Probe) -> None:
    """Copies the keys folder in one state of it, though keys may be replaced meanwhile."""
    for _ in range(_TRIES):
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(mode=0o700)
        try:
            names = {name for name in _files(source) if not name.endswith(".partial")}
            copied = {}
            for name in names:
                (target / name).parent.mkdir(mode=0o700, exist_ok=True)
                copied[name] = _copy(source / name, target / name)
            probe("looking again")
            now = {name: _digest(path) for name, path in _files(source).items() if not name.endswith(".partial")}
        except FileNotFoundError:
            continue  # replaced while it was copied
        if copied == now:
            return
    raise BackupRefused(f"{source}: changes all the time; make the backup when nobody replaces keys")


def _own_keys(folder: Path, unlock: Unlock | None) -> tuple[str, bytes]:
    """What verifiers of the log pin, and what keys its pseudonyms, once every key of the database is opened."""
    ring = KeyRing(folder / KEYS, system_entropy, log_origin="", make=False, unlock=unlock)
    engine = open_copy(folder / DATABASE)
    try:
        with reading(engine) as session:
            connection, log_keys = session.connection(), LogKeys(ring.log_signers, ring.first_log_signer)
            if inspect(connection).has_table("signing_keys"):  # else of a broker whose keys were never replaced
                if lives := signing_keys.stored(session):
                    signing_keys.show(lives, ring)
                log_keys.load(connection)
            return log_keys.vkey, ring.tag_key
    finally:
        engine.dispose()


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        data = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise BackupRefused(f"{folder}: is no backup: its {MANIFEST} cannot be read: {error.strerror}") from error
    found: Any = canonical_json.parse(data, max_bytes=_MAX_MANIFEST_BYTES)
    if not isinstance(found, dict) or found.get("version") != _VERSION:
        raise Malformed(f"{folder / MANIFEST}: is of another version than {_VERSION}; use the broker that wrote it.")
    shape = {"made_at_ms": int, "log_key": str, "configuration": str, "secrets": list, "files": dict}
    for name, kind in shape.items():
        if not isinstance(found.get(name), kind):
            raise Malformed(f"{folder / MANIFEST}: `{name}` is missing or of another type.")
    if any(not isinstance(file, dict) or set(file) != {"bytes", "sha256"} for file in found["files"].values()):
        raise Malformed(f"{folder / MANIFEST}: `files` gives `bytes` and `sha256` of each file.")
    return found


def _files(folder: Path) -> dict[str, Path]:
    """Every file below a folder, by its path from there."""
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _size_of(folder: Path) -> int:
    """What a copy of the folder's database and keys can take at most, with room for the files beside them."""
    wal = folder / f"{DATABASE}-wal"
    parts = [folder / DATABASE, wal, *_files(folder / KEYS).values()]
    return sum(path.stat().st_size for path in parts if path.exists()) + _CHUNK


def _copy(source: Path, target: Path) -> str:
    """Copies one file for its owner alone, durably; gives the SHA-256 of what was written."""
    digest = hashlib.sha256()
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with source.open("rb") as reader, open(os.open(target, flags, 0o600), "wb") as writer:
        while data := reader.read(_CHUNK):
            digest.update(data)
            writer.write(data)
        writer.flush()
        os.fsync(writer.fileno())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
