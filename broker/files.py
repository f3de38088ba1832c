"""Files for their owner alone: whole or not there, and durable when a call returns."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from broker.errors import ConfigurationError


def write_private(path: Path, data: bytes) -> None:
    """Writes a file that only its owner can read, whole or not at all, and durable when it returns.

    Raises:
        FileExistsError: the file is there already; nothing is overwritten.
        OSError: it cannot be written, for want of room or rights; nothing of it stays.
    """
    partial = _written(path, data)
    try:
        os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)


def replace_private(path: Path, data: bytes) -> None:
    """Puts a file for its owner alone in the place of another: at any moment the whole old one or the whole new one.

    What it holds is on the disk before its name is; a power cut may bring the old one back, never a half.

    Raises:
        OSError: it cannot be written; the old one stays.
    """
    _written(path, data).replace(path)


def _written(path: Path, data: bytes) -> Path:
    """Writes a new file beside `path`, durably; what a process that died left there may be `path` itself by a link."""
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(partial, flags, 0o600), "wb") as file:
            file.write(data)  # all of it: os.write may take less when the disk is nearly full
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial


def sync_folder(path: Path) -> None:
    """Makes durable which files a folder holds."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def owner_only(path: Path) -> None:
    """Makes sure that nobody but its owner, who runs the broker, can reach a file or folder.

    Raises:
        ConfigurationError: the text says how to mend it.
    """
    try:
        mode = path.stat()
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from error
    if stat.S_IMODE(mode.st_mode) & 0o077:
        raise ConfigurationError(f"{path}: others can read it; run `chmod go= {path}` and consider its keys stolen")
    if mode.st_uid != os.geteuid():
        raise ConfigurationError(f"{path}: belongs to another user; it must belong to the one who runs the broker")
