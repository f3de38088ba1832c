"""Files that an auditor keeps from run to run: whole, durable, and never set back by a run that began earlier."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker.cli import bundles
from broker.cli.public_log import PublicLog
from broker.cli.whole_log import Verified
from broker.entropy import new_id, system_entropy
from broker.errors import ConfigurationError, Malformed
from broker.files import sync_folder
from broker.formats import checkpoint
from broker.formats.note import NoteVerifier
from broker.formats.tiles import TiledTree


class KeptFile:
    """A file that is replaced only by a run that has seen what it holds.

    Args:
        path: where.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: bytes | None = None

    def read(self) -> bytes | None:
        """What it holds, None if there is none.

        Raises:
            Malformed: it is too large to be one of ours.
        """
        self._seen = bundles.read(self.path) if self.path.exists() else None
        return self._seen

    def replace(self, data: bytes) -> bool:
        """Puts something in the place of what was read, durably, at any moment the whole old or the whole new one.

        Returns:
            False, and nothing is done, if somebody else has changed the file since.
        """
        with _alone_in(self.path.parent):
            if (bundles.read(self.path) if self.path.exists() else None) != self._seen:
                return False
            _replace(self.path, data)
            self._seen = data
            return True


class KeptCheckpoint:
    """The newest checkpoint that an auditor knows of a log.

    Args:
        path: its file.
    """

    def __init__(self, path: Path) -> None:
        self._file = KeptFile(path)

    def note(self) -> str | None:
        """What is kept, signed, and not verified here; None if nothing is kept yet.

        Raises:
            ConfigurationError: it is no checkpoint; the text says what to do.
        """
        data = self._file.read()
        return kept_note(self._file.path, data) if data is not None else None

    def keep(self, found: Verified, log: PublicLog, pinned: NoteVerifier) -> int | None:
        """Keeps the checkpoint of a log that was verified against the one of `note`.

        Another run may have kept one meanwhile: the log must continue that, too, and the newer of both stays.

        Args:
            found: the log.
            log: where it came from.
            pinned: a key of it.

        Returns:
            The size of the newer one that stays; None if the given one is kept.

        Raises:
            ProofInvalid: the log told the other run something else; the file stays.
        """
        while not self._file.replace(found.note.encode()):
            note = self.note()
            if note is None:
                continue
            other = bundles.opened(note, pinned, log.successions())
            if other.size <= found.head.size:
                bundles.check_growth(other, found.head, found.tree.root_at)
            else:
                bundles.check_growth(found.head, other, TiledTree(other, log).root_at)
                return other.size
        return None


def kept_note(path: Path, data: bytes) -> str:
    """The checkpoint in a file, signed, and not verified here.

    Raises:
        ConfigurationError: it is none; the text says what to do.
    """
    text = data.decode("utf-8", "replace")
    try:
        checkpoint.parse_unverified(text)
    except Malformed as error:
        raise ConfigurationError(
            f"{path} holds no checkpoint that could have been kept: {error.detail} Put a copy of it back. Without one, "
            "move it away to begin anew, and nothing that was changed in the log before that will be noticed."
        ) from error
    return text


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Waits until no other process replaces a file in this folder; the kernel ends it with the process (flock)."""
    opened = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)


def _replace(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.{new_id(system_entropy)}.partial")
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync_folder(path.parent)
