"""The lock on the data folder, between real processes."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.db.lock import FolderLock
from broker.errors import ConfigurationError, StoreLocked

_HOLD = """
import sys
from pathlib import Path
from broker.db.lock import FolderLock
lock = FolderLock(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def _other_process(folder: Path) -> Iterator[subprocess.Popen[str]]:
    arguments = [sys.executable, "-c", _HOLD, str(folder)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_with_the_firsts_id(tmp_path: Path) -> None:
    """Whoever comes second is told which process holds the folder; killing that one, however hard, frees it."""
    with _other_process(tmp_path / "data") as first:
        with pytest.raises(StoreLocked, match=rf"process {first.pid}; stop it"):
            FolderLock(tmp_path / "data")
        first.kill()
        first.wait()
        with FolderLock(tmp_path / "data"):
            assert (tmp_path / "data" / "lock").read_text() == f"{os.getpid()}\n"


def test_a_second_holder_in_the_same_process_is_refused(tmp_path: Path) -> None:
    """The lock belongs to the holder, not to the process; once it is released, the next may have it."""
    with FolderLock(tmp_path), pytest.raises(StoreLocked, match=str(os.getpid())):
        FolderLock(tmp_path)
    FolderLock(tmp_path).release()


def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    """A missing data folder is made, with its parents, and nobody else can look into it."""
    with FolderLock(tmp_path / "a" / "data"):
        assert stat.S_IMODE((tmp_path / "a" / "data").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "a" / "data" / "lock").stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """A file in the folder's place is a wrong configuration: the text names the key and the path."""
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(ConfigurationError, match=r"storage\.data_dir .*data: cannot be used"):
        FolderLock(tmp_path / "data")
