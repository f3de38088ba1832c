"""What holds for every command: help, JSON, exit codes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from broker.cli.app import app
from tests.build import free_port
from tests.cli.running import BrokerProcess, Person, run


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that does something, with its path."""
    below = getattr(command, "commands", {})
    for name, child in below.items():
        yield from commands(child, (*path, name))
    if not below or getattr(command, "invoke_without_command", False):
        yield path, command


EVERY = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("path", EVERY, ids=" ".join)
def test_every_command_shows_an_example_and_can_speak_json(path: tuple[str, ...], stranger: Person) -> None:
    """`--help` exits 0 with an example that begins as the command does, and there is `--json`."""
    shown = " ".join(stranger.ok(*path, "--help").split())
    assert "Example" in shown
    assert "broker " + " ".join(path) in shown.partition("Example")[2]
    assert "--json" in shown


def test_the_commands_are_those_of_the_design() -> None:
    """Nobody who knows the list looks for a command in vain."""
    assert {path[0] for path in EVERY} >= {"serve", "login", "apply", "agents", "attesters", "policy", "audit", "keys"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["unknown"],
        ["agents"],
        ["agents", "show"],
        ["agents", "suspend", "triage"],
        ["apply"],
        ["apply", "--dry-run", "list"],
        ["apply", "-f", "broker.yaml", "--fail-on-difference"],
        ["backup"],
        ["restore", "backup"],
        ["policy", "test", "no-such-folder"],
        ["audit", "search", "--kind", "Nothing"],
        ["audit", "search", "--outcome", "maybe"],
        ["audit", "search", "--since", "yesterday"],
        ["audit", "search", "--limit", "0"],
        ["audit", "show", "-1"],
        ["audit", "verify", "no-such-file", "--key", "k"],
        ["audit", "verify"],
        ["audit", "checkpoint", "--checkpoint-state", "f"],
        ["serve", "--port", "many"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], stranger: Person) -> None:
    """Whatever is asked wrongly is said before anything is done, and told apart from a refusal."""
    result = stranger(*arguments)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["agents", "list"],
        ["apply", "list"],
        ["attesters", "list"],
        ["policy", "show"],
        ["audit", "search"],
        ["audit", "checkpoint"],
        ["keys", "show"],
    ],
    ids=" ".join,
)
def test_who_is_not_signed_in_is_told_how(arguments: list[str], stranger: Person) -> None:
    """One line that names the command to run; the same as JSON for machines."""
    complaint = stranger.refused(*arguments)
    assert "broker login" in complaint
    assert complaint.count("\n") == 1
    assert "broker login" in stranger.json(*arguments, exit_code=1)["detail"]


def test_a_broker_that_does_not_answer_is_named(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """No traceback of the network's, but where nobody answered and what to look at."""
    home = tmp_path / "home"
    shutil.copytree(admin.home, home)
    saved = json.loads((home / "login.json").read_text())
    nowhere = f"http://127.0.0.1:{free_port()}"
    (home / "login.json").write_text(json.dumps({**saved, "issuer": nowhere}))
    person = Person(home)
    complaint = person.refused("agents", "list")
    assert f"No answer from {nowhere}" in complaint
    assert complaint.count("\n") == 1
    assert person.json("keys", "show", exit_code=1)["error"] == "unreachable"


def test_a_command_works_as_a_process_of_its_own(admin: Person, broker: BrokerProcess) -> None:
    """The installed `broker` program does what the tests do in their own process."""
    done = run("keys", "show", "--log", home=admin.home)
    assert (done.returncode, done.stdout, done.stderr) == (0, broker.log_key + "\n", "")


def test_a_second_broker_on_the_same_data_says_who_holds_it(broker: BrokerProcess, tmp_path: Path) -> None:
    """Exit code 1 and one line; the running broker is left alone."""
    done = run("serve", "--port", str(free_port()), "--data-dir", str(broker.data_dir), home=tmp_path / "h")
    assert done.returncode == 1
    assert "is held by the broker process" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_port_that_is_taken_is_refused_in_one_line(broker: BrokerProcess, tmp_path: Path) -> None:
    """Exit code 1, no sign-in link for a broker that nobody can reach, and no traceback."""
    port = broker.issuer.rpartition(":")[2]
    done = run("serve", "--json", "--port", port, "--data-dir", str(tmp_path / "data"), home=tmp_path / "h")
    assert done.returncode == 1
    assert done.stderr == ""
    told = json.loads(done.stdout)
    assert told["error"] == "configuration"
    assert f"Cannot listen on 127.0.0.1:{port}" in told["detail"]


@pytest.mark.parametrize("link", ["nonsense", "http://127.0.0.1:8420/login", "ftp://127.0.0.1/login#code"])
def test_what_is_no_link_is_refused_before_anything_is_sent(link: str, stranger: Person) -> None:
    """A link without its code is what a shell leaves when it is not quoted; the text says so."""
    assert "quote it" in stranger.refused("login", link)
    assert not stranger.home.exists()


def test_a_link_works_once(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """A spent link signs nobody in, and leaves no key behind."""
    second = Person(tmp_path / "second")
    assert "unknown, used or too old" in second.refused("login", str(broker.ready["sign_in_link"]))
    assert not second.home.exists()
