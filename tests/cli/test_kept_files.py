"""The checkpoint that an auditor keeps: it never goes back, whoever else keeps one, and is on the disk by then."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from broker.cli import kept_files, whole_log
from broker.cli.bundles import LogForked
from broker.cli.kept_files import KeptCheckpoint, KeptFile
from broker.cli.public_log import PublicLog
from broker.errors import BrokerError
from broker.formats import checkpoint
from broker.formats.note import NoteVerifier
from tests.cli.running import Person
from tests.cli.stand_in_log import StandInLog, leaf_of, made, serving


class Keeper:
    """A run of a command that keeps a checkpoint: it begins, takes its time, and keeps."""

    def __init__(self, log: StandInLog, path: Path) -> None:
        self.public = PublicLog(log.url)
        self.pinned = NoteVerifier.parse(log.vkey)
        self.kept = KeptCheckpoint(path)
        self.found = whole_log.verified(self.public, self.pinned, self.kept.note())

    def keep(self) -> int | None:
        """Ends the run."""
        return self.kept.keep(self.found, self.public, self.pinned)


@pytest.fixture
def log() -> Iterator[StandInLog]:
    """A log of 300 entries."""
    with serving() as found:
        found.grow(300)
        yield found


def _size(path: Path) -> int:
    return checkpoint.parse_unverified(path.read_text()).size


def test_a_slow_run_does_not_set_a_newer_one_back(log: StandInLog, tmp_path: Path) -> None:
    """It says that a newer one stays, also of the first run; and a newer one goes before what was kept meanwhile."""
    path = tmp_path / "kept"
    for size in (400, 500):
        slow = Keeper(log, path)
        log.grow(size)
        quick = Keeper(log, path)
        assert quick.keep() is None
        assert slow.keep() == size
        assert _size(path) == size
    slow = Keeper(log, path)
    log.grow(600)
    newer = Keeper(log, path)
    assert slow.keep() is None
    assert newer.keep() is None
    assert _size(path) == 600


@pytest.mark.parametrize("larger_first", [True, False])
def test_two_runs_that_were_told_two_stories_find_it(log: StandInLog, tmp_path: Path, larger_first: bool) -> None:
    """Each of them was told a log that holds; together they show that it forked, and the file stays as it is."""
    path = tmp_path / "kept"
    one = Keeper(log, path)
    log.leaves[7] = leaf_of(made("x", 1))
    log.grow(400)
    other = Keeper(log, path)
    first, last = (other, one) if larger_first else (one, other)
    first.keep()
    before = path.read_text()
    with pytest.raises(LogForked, match="does not continue"):
        last.keep()
    assert path.read_text() == before


def test_many_keepers_at_once_leave_the_newest(log: StandInLog, tmp_path: Path) -> None:
    """None of them fails, and nothing is left beside the file."""
    path = tmp_path / "kept"
    keepers = []
    for size in range(300, 316):
        log.grow(size)
        keepers.append(Keeper(log, path))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Keeper.keep, keepers))
    assert _size(path) == 315
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


def test_many_writers_of_a_file_lose_nothing(tmp_path: Path) -> None:
    """Each write is one that saw the last: counted up by many threads, no number is written twice."""

    def count(_: int) -> None:
        file = KeptFile(tmp_path / "count")
        while not file.replace(str(int(file.read() or b"0") + 1).encode()):
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(count, range(100)))
    assert (tmp_path / "count").read_text() == "100"


def test_what_is_kept_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """First the bytes, then the name, then the folder; a disk that refuses leaves the old one and nothing beside it."""
    file, synced = KeptFile(tmp_path / "kept"), list[tuple[int, bytes]]()
    (tmp_path / "kept").write_bytes(b"old")
    file.read()
    sync = os.fsync

    def recording(opened: int) -> None:
        synced.append((os.fstat(opened).st_ino, (tmp_path / "kept").read_bytes()))
        sync(opened)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            file.replace(b"new")
    assert (tmp_path / "kept").read_bytes() == b"old"
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", recording)
        assert file.replace(b"new")
    place = (tmp_path / "kept").stat().st_ino
    assert synced == [(place, b"old"), (tmp_path.stat().st_ino, b"new")]
    assert [each.name for each in tmp_path.iterdir()] == ["kept"]


@pytest.mark.parametrize("content", [b"", b"\xff\x00 garbage", b"one\n2\n"])
def test_a_kept_file_that_holds_none_is_named(
    log: StandInLog, stranger: Person, tmp_path: Path, content: bytes
) -> None:
    """By each command that reads it, with what to do; the file stays."""
    path = tmp_path / "kept"
    path.write_bytes(content)
    bundle = tmp_path / "bundle"
    bundle.write_text("{}")
    for command in (("checkpoint", "--url", log.url), ("verify", "--log", "--url", log.url), ("verify", str(bundle))):
        said = stranger.refused("audit", *command, "--key", log.vkey, "--checkpoint-state", str(path))
        assert f"{path} holds no checkpoint that could have been kept" in said
        assert "Put a copy of it back" in said
    assert path.read_bytes() == content


def test_a_kept_checkpoint_that_was_altered_does_not_blame_the_log(log: StandInLog) -> None:
    """It may be the file; that is said."""
    note = log.note.replace("\n300\n", "\n299\n")
    with (
        PublicLog(log.url) as public,
        pytest.raises(BrokerError, match=r"in FILE it cannot.*Its file was altered or") as caught,
    ):
        whole_log.verified(public, NoteVerifier.parse(log.vkey), note, Path("FILE"))
    assert "Its file was altered or" in caught.value.detail
    assert caught.value.reason == "proof_invalid"
    assert kept_files.kept_note(Path("kept"), note.encode()) == note
