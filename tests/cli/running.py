"""A broker as a process, and a person's command line in front of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from broker.cli.app import app
from tests.build import free_port

PROGRAM = str(Path(sys.executable).with_name("broker"))


@dataclass(frozen=True)
class Person:
    """Somebody with a configuration folder of their own; calling it runs a command in this process."""

    home: Path

    def __call__(self, *arguments: str, input: str | None = None) -> Result:
        """Runs `broker ARGUMENTS`."""
        env = {"BROKER_HOME": str(self.home)}
        return CliRunner().invoke(app, arguments, input=input, env=env, catch_exceptions=False)

    def ok(self, *arguments: str, input: str | None = None) -> str:
        """Runs a command that must succeed; gives what it printed."""
        result = self(*arguments, input=input)
        assert result.exit_code == 0, f"{arguments}: {result.output}"
        return result.stdout

    def refused(self, *arguments: str, input: str | None = None) -> str:
        """Runs a command that must end with exit code 1 and print no result; gives its complaint."""
        result = self(*arguments, input=input)
        assert result.exit_code == 1, f"{arguments}: {result.output}"
        assert result.stdout == ""
        return result.stderr

    def json(self, *arguments: str, exit_code: int = 0) -> Any:
        """Runs a command with `--json`; gives the one document that it printed."""
        result = self(*arguments, "--json")
        assert result.exit_code == exit_code, f"{arguments}: {result.output}"
        assert result.stderr == ""
        return json.loads(result.stdout)


@dataclass(frozen=True)
class BrokerProcess:
    """A running broker: what it said of itself when it was ready, and its data folder."""

    ready: Mapping[str, Any]
    data_dir: Path

    @property
    def issuer(self) -> str:
        """Where it answers."""
        return str(self.ready["issuer"])

    @property
    def log_key(self) -> str:
        """The log's key as it is pinned."""
        return str(self.ready["log_key"])


def environment(home: Path) -> dict[str, str]:
    """The variables of a process that has nothing of this one's."""
    return {"PATH": os.defpath, "BROKER_HOME": str(home)}


def run(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Runs `broker ARGUMENTS` as a process of its own, in its home folder."""
    home.mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [PROGRAM, *arguments],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def broker_process(folder: Path, *options: str) -> Iterator[BrokerProcess]:
    """Runs `broker serve` until the block ends; it says in a line of JSON when it is ready."""
    folder.mkdir(parents=True, exist_ok=True)
    data_dir = folder / "data"
    command = [PROGRAM, "serve", "--json", "--port", str(free_port()), "--data-dir", str(data_dir), *options]
    with (
        (folder / "log.txt").open("w") as log,
        subprocess.Popen(
            command, env=environment(folder), cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()  # ends at once if the process does
        try:
            assert line, (folder / "log.txt").read_text()
            yield BrokerProcess(json.loads(line), data_dir)
        finally:
            process.terminate()
            process.wait(timeout=30)


def signed_in(home: Path, link: str) -> Person:
    """A person who spent a sign-in link."""
    person = Person(home)
    person.ok("login", link)
    return person
