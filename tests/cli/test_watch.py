"""A watch over a log that misbehaves: each way of it is told once, and a restart forgets nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from broker.cli.alarms import Seen
from broker.cli.kept_files import KeptFile
from broker.errors import ConfigurationError
from broker.formats.note import NoteVerifier
from tests.cli.running import BrokerProcess, Person
from tests.cli.stand_in_log import StandInLog, leaf_of, made, serving
from tests.cli.watched import STALE_S, Watched


def test_a_log_that_grows_is_no_alarm(watched: Watched) -> None:
    """However it grows, within its time."""
    for size in (301, 511, 512, 513, 700):
        watched.log.grow(size)
        assert watched.words(STALE_S - 1) == []


def test_a_fork_is_told_with_both_checkpoints(watched: Watched) -> None:
    """One size and two roots, or a longer log that begins otherwise: once, and never taken for the log from then on."""
    kept = watched.log.note
    right = watched.log.leaves[7]
    watched.log.leaves[7] = leaf_of(made("x", 1))
    watched.log.sign()
    (alarm,) = watched.look()
    assert alarm.what == "log_forked"
    assert "two roots" in alarm.detail
    assert alarm.more == {"kept": kept, "given": watched.log.note}
    watched.log.grow(400)
    assert watched.words() == []  # was told, and still holds
    watched.log.leaves[7] = right
    watched.log.sign()
    assert watched.words() == []
    watched.log.leaves[7] = leaf_of(made("x", 1))
    watched.log.grow(500)
    (alarm,) = watched.look()
    assert "does not continue the 400" in alarm.detail


def test_a_log_that_shrank_is_told(watched: Watched) -> None:
    """With both sizes."""
    del watched.log.leaves[200:]
    watched.log.sign()
    (alarm,) = watched.look()
    assert (alarm.what, "from 300 to 200" in alarm.detail) == ("log_shrank", True)


@pytest.mark.parametrize("how", ["signature", "tile", "other key"])
def test_what_does_not_verify_is_told(watched: Watched, how: str) -> None:
    """A checkpoint or a tile that was altered, and a key that nothing leads to."""
    log = watched.log
    if how == "other key":
        log.replace_key()
        log.statements.clear()
    log.grow(310)
    if how == "signature":
        log.note = log.note.replace("\n310\n", "\n311\n")
    if how == "tile":
        log.altered["/log/tile/0/001.p/54"] = bytes(54 * 32)
    assert watched.words() == ["proof_invalid"]


def test_a_log_that_stands_still_is_told(watched: Watched) -> None:
    """At its time and not before, once, and again if it stands still again; with what the broker says of itself."""
    assert watched.words(STALE_S - 1) == []
    (alarm,) = watched.look(1)
    assert alarm.what == "stale"
    assert "300 entries are the same since 60 s. The broker says that it can record" in alarm.detail
    assert watched.words(1000) == []
    watched.log.grow(301)
    assert watched.words() == []
    assert watched.words(STALE_S) == ["stale"]


@pytest.mark.parametrize("how", ["silent", "no tiles", "nonsense"])
def test_a_log_that_gives_nothing_to_verify_is_told(watched: Watched, how: str) -> None:
    """Whether it does not answer, or answers with what proves nothing: at its time, once, and until it does again."""
    log = watched.log
    log.grow(310)
    log.silent = how == "silent"
    tile = "/log/tile/0/001.p/54"
    if how != "silent":
        log.altered[tile] = b"" if how == "no tiles" else b"x"
    assert watched.words(STALE_S - 1) == []
    assert watched.words(1) == ["no_answer"]
    assert watched.words(1000) == []
    log.silent = False
    log.altered.clear()
    assert watched.words() == []
    log.silent = True
    assert watched.words(STALE_S) == ["no_answer"]


def test_a_clock_that_jumps_back_raises_nothing(watched: Watched) -> None:
    """Nor does it hide a fork."""
    watched.clock.jump(-86_400)
    assert watched.words() == []
    watched.log.leaves[0] = leaf_of(made("x", 1))
    watched.log.grow(301)
    assert watched.words() == ["log_forked"]


def test_a_replaced_key_is_told_once(watched: Watched) -> None:
    """It verifies, and somebody should ask whether it was the operators."""
    new = watched.log.replace_key()
    watched.log.grow(301)
    (alarm,) = watched.look()
    assert (alarm.what, alarm.more) == ("key_replaced", {"key": new})
    watched.log.grow(302)
    assert watched.words() == []


_STATE = {"checkpoint": "", "since": 1.0, "answered": 1.0, "key": "k"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"x": 1}',
        b"{}",
        *(
            json.dumps(_STATE | wrong).encode()
            for wrong in (
                {"checkpoint": 5},
                {"checkpoint": "garbage"},
                {"since": "x"},
                {"told": None},
                {"next": "a"},
                {"last": [1]},
                {"last": {"a": "b"}},
                {"gone": {"x": ["what"]}},
                {"gone": {"5": ["else"]}},
            )
        ),
    ],
)
def test_a_state_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    """Beginning anew by itself would forget the checkpoint that proves a fork; and the log is not to blame for it."""
    (tmp_path / "state").write_bytes(content)
    with serving() as log, pytest.raises(ConfigurationError, match="no state of a watch"):
        Seen.read(KeptFile(tmp_path / "state"), NoteVerifier.parse(log.vkey), 0.0)


def test_a_state_that_another_watch_changed_stays(watched: Watched) -> None:
    """The slower of two watches ends, and sets nothing back."""
    file = KeptFile(watched.file)
    mine = Seen.read(file, NoteVerifier.parse(watched.log.vkey), 0.0)
    watched.log.grow(400)
    assert watched.look() == []
    newer = watched.file.read_bytes()
    with pytest.raises(ConfigurationError, match="another watch has changed this file"):
        mine.write(file)
    assert watched.file.read_bytes() == newer


def _once(log: StandInLog, file: Path, *more: str) -> tuple[str, ...]:
    return ("audit", "watch", "--url", log.url, "--key", log.vkey, "--state", str(file), "--once", *more)


def test_an_outcome_that_there_is_not_is_no_silence(stranger: Person, tmp_path: Path) -> None:
    """A misspelt one would never be told, and nobody would know."""
    asked = ("audit", "watch", "--key", "k", "--state", str(tmp_path / "state"), "--once")
    assert stranger(*asked, "--outcome", "denied").exit_code == 2
    assert stranger(*asked, "--kind", "LogKeyRotates").exit_code == 2
    assert stranger(*asked, "--outcome", "deny", "--kind", "LogKeyRotated").exit_code == 1  # no key is so short


def test_the_command_tells_in_lines_and_by_its_exit_code(stranger: Person, tmp_path: Path) -> None:
    """0 while all is well; 1 with a line of JSON for each alarm, and 1 without a line while it still holds."""
    with serving() as log:
        log.grow(300)
        arguments = _once(log, tmp_path / "state", "--json")
        assert stranger.ok(*arguments) == ""
        del log.leaves[100:]
        log.sign()
        result = stranger(*arguments)
        assert result.exit_code == 1
        told: Any = json.loads(result.stdout)
        assert (told["alarm"], told["given"]) == ("log_shrank", log.note)
        assert isinstance(told["at_ms"], int)
        again = stranger(*arguments)
        assert (again.exit_code, again.stdout) == (1, "")


def test_the_command_reads_records_of_a_broker(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Signed in, against a real broker: a refused change that comes after the first look is told."""
    state = ("--state", str(tmp_path / "s"), "--stale", "1000000")
    arguments = ("audit", "watch", "--key", broker.log_key, *state, "--once", "--kind", "ChangeRefused")
    assert admin.ok(*arguments) == ""
    admin.refused("apply", "-f", "-", input="agents: {watched: {}}\n")
    index = admin.json("audit", "search", "--kind", "ChangeRefused", "--limit", "1")["records"][0]["index"]
    admin.ok("audit", "prove", str(index), "-o", str(tmp_path / "b"))  # waits until it is under a checkpoint
    result = admin(*arguments)
    assert result.exit_code == 1
    assert f"event: Record {index}: ChangeRefused" in result.stdout
