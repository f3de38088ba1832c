"""Embedded storage has one process. A lock on the data folder holds that."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType

from broker.errors import ConfigurationError, StoreLocked


class FolderLock:
    """Holds the data folder for this process until `release` or the end of the process, however it ends.

    The kernel drops the lock with the process (flock), so a crash leaves nothing to clean up. Fails closed: what cannot
    be locked is not opened.

    Args:
        folder: the data folder; created with owner-only permissions when it is missing.

    Raises:
        StoreLocked: another process holds it; the text names its process id.
        ConfigurationError: the folder cannot be made or written.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"storage.data_dir {folder}: cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._file, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StoreLocked(
                f"the data folder {folder} is held by the broker process {holder}; stop it, or choose another folder"
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Gives the folder free."""
        os.close(self._file)

    def __enter__(self) -> FolderLock:
        """Use as a context manager releases at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the folder free."""
        self.release()
