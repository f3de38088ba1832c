"""What `broker doctor` sees on the machine: each check with what is well, what soon will not be, and what is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from broker.clock import SystemClock
from broker.entropy import system_entropy
from broker.health import machine
from broker.health.finding import Finding
from broker.health.machine import Place, judged
from broker.keys import KeyRing
from broker.settings import Settings
from tests.build import running, settings_for
from tests.fakes import FakeClock
from tests.faults import server_down
from tests.test_premises import certificate

_NOW = datetime(2026, 6, 1, tzinfo=UTC)


def _found(check: machine.Check, settings: Settings, now: float = _NOW.timestamp()) -> Finding:
    """The one finding of a check."""
    (found,) = check(Place(settings, FakeClock(now)))
    return found


def _examined(config: Path | None = None, data_dir: Path | None = None) -> dict[str, Finding]:
    _, found = machine.examine(config, data_dir, SystemClock())
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: finding for finding in found}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BROKER_CONFIG", raising=False)


def test_before_the_first_start_everything_is_well(tmp_path: Path) -> None:
    """Nothing is made: not the data folder, and no file is left."""
    found = _examined()
    assert {finding.status for finding in found.values()} <= {"ok", "warn"}
    assert found["keys"].found == "none yet; the first start makes them"
    assert list(tmp_path.iterdir()) == []


async def test_beside_a_running_broker_nothing_is_touched(tmp_path: Path) -> None:
    """Its folder is as it was afterwards, and what is in use is found."""
    async with running(tmp_path) as run:
        before = {path.name for path in run.broker.settings.storage.data_dir.iterdir()}
        found = _examined(data_dir=run.broker.settings.storage.data_dir)
        assert {finding.status for finding in found.values()} <= {"ok", "warn"}
        assert run.broker.keys.log_origin in found["keys"].found
        assert "32 MB held back" in found["disk room"].found
        assert {path.name for path in run.broker.settings.storage.data_dir.iterdir()} == before
        await run.check_log()


def test_a_configuration_that_cannot_be_loaded_is_all_there_is_to_say(tmp_path: Path) -> None:
    """In the words of the start."""
    (tmp_path / "broker.toml").write_text("[server]\nport = 0\n")
    found = _examined()
    assert list(found) == ["configuration"]
    assert found["configuration"].status == "fail"
    assert "key `server.port`" in found["configuration"].found


def test_what_refuses_the_next_start_is_shown_with_the_rest(tmp_path: Path) -> None:
    """Every check of the start by its name; one that fails hides none of the others."""
    (tmp_path / "broker-data").mkdir(mode=0o755)
    (tmp_path / "broker-data").chmod(0o755)
    (tmp_path / "broker.toml").write_text("[outgoing]\nca_file = 'none.pem'\n")
    found = _examined()
    assert {name for name, finding in found.items() if finding.status == "fail"} == {
        "trusted files",
        "authorities",
        "data folder",
    }
    assert "run `chmod go= broker-data`" in found["data folder"].found


def test_a_secret_is_named_and_never_shown(tmp_path: Path) -> None:
    """Present or not."""
    (tmp_path / "k").write_text("sk-very-secret")
    (tmp_path / "k").chmod(0o600)
    (tmp_path / "broker.toml").write_text("[secrets.openai]\nfile = 'k'\norigins = ['https://a.example']\n")
    found = _examined()
    assert (found["secrets"].status, found["secrets"].found) == ("ok", "present: openai")
    assert "sk-very" not in str(found)
    (tmp_path / "k").write_text("")
    assert _examined()["secrets"].status == "fail"


@pytest.mark.parametrize(("days", "status"), [(31, "ok"), (30, "ok"), (29, "warn"), (0, "warn")])
def test_a_certificate_that_ends_soon_is_told(days: int, status: str, tmp_path: Path) -> None:
    """From thirty days on; that it has ended is refused by the start's own check."""
    certificate("broker.example", start=_NOW)
    found = Settings.model_validate({"server": {"tls_cert": "cert.pem", "tls_key": "key.pem"}})
    now = (_NOW + timedelta(days=90 - days)).timestamp() - 1
    assert _found(machine.certificate, found, now).status == status


def test_a_clock_behind_what_was_written_is_told(tmp_path: Path) -> None:
    """Its tokens and proofs would be judged by a time that was already."""
    settings = settings_for(tmp_path)
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "broker.db").touch()
    os.utime(tmp_path / "data" / "broker.db", (_NOW.timestamp(), _NOW.timestamp()))
    assert _found(machine.clock, settings, _NOW.timestamp() - 1).status == "ok"
    found = _found(machine.clock, settings, _NOW.timestamp() - 60)
    assert (found.status, found.found) == ("fail", "60 s behind the newest file of the data folder")


def test_a_clock_that_jumps_is_told(tmp_path: Path) -> None:
    """The clock of the wall against the one that never goes back."""

    class Stepped(FakeClock):
        def now(self) -> float:
            self.jump(1.0)
            return super().now()

    _, found = machine.examine(None, None, Stepped())
    assert next(finding for finding in found if finding.name == "clock, steady").status == "warn"


@pytest.mark.parametrize(
    ("middle", "worst", "status"),
    [(0.003, 0.449, "ok"), (0.003, 0.45, "warn"), (0.899, 0.899, "warn"), (0.9, 0.9, "fail")],
)
def test_a_slow_disk_is_told_by_what_it_allows(middle: float, worst: float, status: str) -> None:
    """Against the time that a commit has."""
    found = judged(middle, worst, 0.9)
    assert found.status == status
    assert f"at most {1 / middle:,.0f} commits a second" in found.found


def test_a_disk_that_cannot_be_written_fails(tmp_path: Path) -> None:
    """A name that is taken is another doctor's; a folder that is a file is nobody's."""
    settings = settings_for(tmp_path)
    (tmp_path / ".broker-doctor").touch()
    assert _found(machine.sync, settings).status == "warn"
    (tmp_path / ".broker-doctor").unlink()
    assert _found(machine.sync, settings).status == "ok"
    assert not (tmp_path / ".broker-doctor").exists()


@pytest.mark.postgresql
async def test_a_server_is_asked_instead_of_the_disk(tmp_path: Path) -> None:
    """Beside the running broker, which goes on; and when it is away the finding says what to look at."""
    async with running(tmp_path) as run:
        found = _found(machine.server, run.broker.settings, SystemClock().now())
        assert found.status == "ok"
        assert found.found.startswith("PostgreSQL 18.")
        assert [*machine.room(Place(run.broker.settings, SystemClock()))] == []
        assert [*machine.sync(Place(run.broker.settings, SystemClock()))] == []
        await run.check_log()
        with server_down("stop"):
            found = _found(machine.server, run.broker.settings, SystemClock().now())
        assert found.status == "fail"
        assert "storage.database: the server cannot be used" in found.found


def test_keys_that_others_can_read_or_that_are_missing_fail(tmp_path: Path) -> None:
    """In the words of the door to keys."""
    settings = settings_for(tmp_path)
    KeyRing(tmp_path / "data" / "keys", system_entropy, log_origin="x/log")
    assert _found(machine.keys, settings, SystemClock().now()).found.endswith(
        "0 days old; log x/log; not sealed on the disk"
    )
    (tmp_path / "data" / "keys" / "log.pem").chmod(0o644)
    assert "others can read it" in _found(machine.keys, settings).found
    (tmp_path / "data" / "keys" / "log.pem").unlink()
    assert _found(machine.keys, settings).status == "fail"
    assert not (tmp_path / "data" / "keys" / "log.pem").exists()


@pytest.mark.parametrize(("reserve_mb", "status"), [(8, "ok"), (4096, "warn")])
def test_disk_room_is_told_against_the_reserve(reserve_mb: int, status: str, tmp_path: Path) -> None:
    """Ten reserves free are well; a start needs two."""
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize // 2**20
    settings = settings_for(tmp_path)
    storage = settings.storage.model_copy(update={"reserve_mb": free // (100 if status == "ok" else 5)})
    found = _found(machine.room, settings.model_copy(update={"storage": storage}))
    assert found.status == status
    assert found.found.startswith(tuple("0123456789"))
    more = settings.storage.model_copy(update={"reserve_mb": free})
    assert _found(machine.room, settings.model_copy(update={"storage": more})).status == "fail"


def test_every_check_says_what_to_do_about_what_is_not_well() -> None:
    """A finding without advice is well."""
    checks: list[Callable[[], Finding]] = [lambda: judged(1, 1, 0.9), lambda: judged(0.01, 0.5, 0.9)]
    for make in checks:
        assert make().advice
    assert replace(judged(0.01, 0.01, 0.9)).advice == ""
