"""A file that holds disk space back, so that a full disk leaves room to record the end of what was begun."""

from __future__ import annotations

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)


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
        """Takes the space; False when the disk has no room for it. Holding twice changes nothing.

        As much again must be free: what was just given up does not count as room, or the broker would go to and fro.
        """
        try:
            if self._path.exists() and self._path.stat().st_size >= self._size:
                return True
            disk = os.statvfs(self._path.parent)
            if disk.f_bavail * disk.f_frsize < 2 * self._size:
                return False
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
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:  # told by the thread that writes, which must go on
            log.error("the disk reserve cannot be given up: %s", error)
