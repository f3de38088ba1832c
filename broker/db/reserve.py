"""A file that holds disk space back, so that a full disk leaves room to record the end of what was begun."""

from __future__ import annotations

import os
from pathlib import Path


class DiskReserve:
    """Space in the data folder that is given up when the disk is full and taken again when there is room.

    Args:
        folder: the data folder.
        size: bytes held back.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self._path = folder / "reserve"
        self._size = size

    def hold(self) -> bool:
        """Takes the space; False when the disk has no room for it. Holding twice changes nothing."""
        if self._path.exists() and self._path.stat().st_size >= self._size:
            return True
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(file, 0, self._size)
            finally:
                os.close(file)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Gives the space to whoever writes next."""
        self._path.unlink(missing_ok=True)
