"""The disk reserve: real space, given up once, and taken again only when there is room beyond it."""

from __future__ import annotations

import os
from pathlib import Path

from broker.db.reserve import DiskReserve

_MB = 1024 * 1024
_FAR_TOO_MUCH = 2**60


def test_the_space_is_really_taken(tmp_path: Path) -> None:
    """The blocks are allocated, not only promised; holding twice changes nothing, releasing gives them back."""
    reserve = DiskReserve(tmp_path, _MB)
    assert reserve.hold()
    assert reserve.hold()
    found = (tmp_path / "reserve").stat()
    assert found.st_size == _MB
    assert found.st_blocks * 512 >= _MB
    reserve.release()
    reserve.release()
    assert not (tmp_path / "reserve").exists()
    assert reserve.hold()


def test_a_disk_without_room_is_not_held(tmp_path: Path) -> None:
    """When it does not fit, nothing of it stays behind."""
    assert not DiskReserve(tmp_path, _FAR_TOO_MUCH).hold()
    assert not (tmp_path / "reserve").exists()


def test_what_was_given_up_does_not_count_as_room(tmp_path: Path) -> None:
    """A disk that is full but for a released reserve is still full: no going to and fro."""
    disk = os.statvfs(tmp_path)
    fits_once = int(disk.f_bavail * disk.f_frsize * 0.7)
    assert not DiskReserve(tmp_path, fits_once).hold()
    assert not (tmp_path / "reserve").exists()


def test_a_folder_that_is_gone_holds_nothing(tmp_path: Path) -> None:
    """Neither holding nor releasing throws: the writer's thread tells the reserve, and must go on."""
    reserve = DiskReserve(tmp_path / "gone", _MB)
    assert not reserve.hold()
    (tmp_path / "file").write_text("in the way")
    DiskReserve(tmp_path / "file", _MB).release()
