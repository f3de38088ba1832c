"""`broker backup` and `broker restore` beside a running broker, as processes and in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.formats import checkpoint
from broker.formats.note import NoteVerifier
from tests.cli.running import BrokerProcess, Person, broker_process, run, signed_in


def test_a_running_broker_is_backed_up_and_checked(broker: BrokerProcess, stranger: Person, tmp_path: Path) -> None:
    """By its own process, with the checkpoint to keep; nobody need be signed in, and no secret is shown."""
    folder = tmp_path / "monday"
    told = stranger.json("backup", str(folder), "--data-dir", str(broker.data_dir))
    head = checkpoint.open_signed(told["checkpoint"], NoteVerifier.parse(broker.log_key))
    assert 0 < head.size <= told["records"]
    assert stranger.json("backup", "--verify", str(folder)) == told
    shown = stranger.ok("backup", "--verify", str(folder))
    assert f"re-verified up to the checkpoint of {head.size}" in shown
    assert told["checkpoint"].strip() in shown
    assert "PRIVATE" not in shown
    assert "is there already" in stranger.refused("backup", str(folder), "--data-dir", str(broker.data_dir))


def test_a_backup_is_restored_by_what_the_commands_say(tmp_path: Path, broker: BrokerProcess) -> None:
    """From the printed steps alone: a broker that starts on it signs people in and tells auditors."""
    home = tmp_path / "home"
    assert run("backup", "b", "--data-dir", str(broker.data_dir), home=home).returncode == 0
    done = run("restore", "b", "--data-dir", str(tmp_path / "new" / "data"), home=home)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "is stopped, and stays so",
        "broker serve --data-dir",
        "Suspend and revoke again",
        "replace it again",
        "BrokerStarted",
    ):
        assert words in done.stdout
    again = run("restore", "b", "--data-dir", str(tmp_path / "new" / "data"), home=home)
    assert (again.returncode, again.stdout) == (1, "")
    assert "holds something; name a new folder" in again.stderr
    with broker_process(tmp_path / "new", "--sign-in-link", "admin") as running:
        assert running.log_key.split("+")[2] == broker.log_key.split("+")[2]
        admin = signed_in(tmp_path / "admin", str(running.ready["sign_in_link"]))
        newest = admin.json("audit", "search", "--kind", "BrokerStarted", "--limit", "1")["records"][0]
        assert newest["groups"]["remedy"]["restored"]["size"] > 0


def test_another_users_data_is_not_touched(stranger: Person, tmp_path: Path) -> None:
    """Who is not the owner would leave files there that the broker cannot open."""
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    assert "chmod go=" in stranger.refused("backup", str(tmp_path / "b"), "--data-dir", str(tmp_path / "data"))


def test_records_on_a_server_are_not_backed_up_from_here(
    stranger: Person, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the data folder would hold none of them: the refusal says what copies them, and makes nothing."""
    monkeypatch.setenv("BROKER_STORAGE__DATABASE", "postgresql://broker@/broker?host=/run/postgresql")
    complaint = stranger.refused("backup", str(tmp_path / "b"), "--data-dir", str(tmp_path / "data"))
    assert "pg_dump, or pg_basebackup" in complaint
    assert "the folder keys and the file checkpoint" in complaint
    assert list(tmp_path.glob("b*")) == []
