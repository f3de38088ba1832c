"""`broker doctor` as a person runs it: before, beside and without a broker, signed in or not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.build import free_port
from tests.cli.running import BrokerProcess, Person, broker_process, signed_in


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """A broker of this module's own: what others make known to theirs need not be reachable."""
    with broker_process(tmp_path_factory.mktemp("well")) as running:
        yield running


@pytest.fixture(scope="module")
def admin(broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Person:
    """Its only admin."""
    return signed_in(tmp_path_factory.mktemp("admin"), str(broker.ready["sign_in_link"]))


def _options(broker: BrokerProcess, folder: Path) -> list[str]:
    """The configuration of a running broker, as a file."""
    port = broker.issuer.rpartition(":")[2]
    config = folder / "broker.toml"
    config.write_text(f"[server]\nport = {port}\n[storage]\ndata_dir = '{broker.data_dir}'\n")
    return ["--config", str(config)]


def test_a_broker_that_is_well(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Both halves in one table, a line each; nothing fails, so the exit code is 0."""
    told = admin.json("doctor", *_options(broker, tmp_path))
    assert told["ok"] is True
    found = {each["name"]: each for each in told["findings"]}
    assert found["running broker"]["status"] == "ok"
    assert found["clock, the broker's"]["status"] == "ok"
    assert {"data folder", "disk sync", "keys", "recording", "checkpoint", "policies", "approvers"} <= set(found)
    shown = admin.ok("doctor", *_options(broker, tmp_path)).splitlines()
    assert len(shown) == len(told["findings"]) + 1
    assert [line.split("  ")[0].strip() for line in shown[1:]] == [each["status"] for each in told["findings"]]
    assert not any("\x1b" in line for line in shown)


def test_who_is_not_signed_in_sees_the_machine(stranger: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """And is told how to see the rest; that is no failure."""
    found = stranger.json("doctor", *_options(broker, tmp_path))["findings"]
    assert found[-1] == {
        "name": "running broker",
        "status": "not asked",
        "found": "nobody is signed in here",
        "advice": "sign in with broker login LINK",
    }


def test_what_fails_is_exit_code_1_with_what_to_do(stranger: Person, tmp_path: Path) -> None:
    """The whole table all the same."""
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    result = stranger("doctor", "--data-dir", str(tmp_path / "data"))
    assert result.exit_code == 1
    assert "run `chmod go=" in result.stdout
    assert "disk sync" in result.stdout
    told = stranger.json("doctor", "--data-dir", str(tmp_path / "data"), exit_code=1)
    assert told["ok"] is False
    assert [each["name"] for each in told["findings"] if each["status"] == "fail"] == ["data folder"]


def test_a_broker_that_does_not_answer_fails(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Named with where it was looked for."""
    home = tmp_path / "home"
    shutil.copytree(admin.home, home)
    saved = json.loads((home / "login.json").read_text())
    nowhere = f"http://127.0.0.1:{free_port()}"
    (home / "login.json").write_text(json.dumps({**saved, "issuer": nowhere}))
    told = Person(home).json("doctor", *_options(broker, tmp_path), exit_code=1)
    last = told["findings"][-1]
    assert (last["name"], last["status"]) == ("running broker", "fail")
    assert f"No answer from {nowhere}" in last["found"]


def test_another_brokers_configuration_is_told_from_this_ones(admin: Person, tmp_path: Path) -> None:
    """The two halves would be about two brokers."""
    told = admin.json("doctor", "--data-dir", str(tmp_path / "other"))
    (found,) = [each for each in told["findings"] if each["name"] == "running broker"]
    assert found["status"] == "warn"
    assert "the configuration here is of http://127.0.0.1:8420" in found["found"]
