"""The `broker` command as the play uses it: in processes of their own, each with its owner's folder for a home."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from broker.errors import ConfigurationError
from broker.settings import environment_for_child

_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended: what it was, its exit code, and what it printed."""

    command: str
    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """All that it printed, for a person."""
        return "\n".join(filter(None, (self.out.strip(), self.err.strip())))

    def json(self) -> Any:
        """What it printed with `--json`."""
        return json.loads(self.out)


def program() -> Path:
    """The installed `broker` command of this Python.

    Raises:
        ConfigurationError: the package is not installed.
    """
    path = Path(sysconfig.get_path("scripts"), "broker")
    if not path.is_file():
        raise ConfigurationError(f"There is no command {path}. Install the package: pip install 'broker[server,demo]'.")
    return path


def serve(config: Path, *, out: TextIO, log: TextIO, **variables: str) -> subprocess.Popen[str]:
    """Starts `broker serve`.

    Args:
        config: its configuration; its folder is the home.
        out: gets a line of JSON once the broker answers.
        log: gets what it logs.
        variables: what is added to its environment.
    """
    return subprocess.Popen(  # noqa: S603  our own command
        [str(program()), "serve", "--config", str(config), "--json"],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=log,
        env=_environment(config.parent, **variables),
        text=True,
    )


def run(*arguments: str, home: Path, sealed_from: Path | None = None) -> Ran:
    """Runs one command, and waits for its end; see `run_all`."""
    return run_all([arguments], home=home, sealed_from=sealed_from)[0]


def run_all(commands: Sequence[Sequence[str]], *, home: Path, sealed_from: Path | None = None) -> list[Ran]:
    """Runs commands at the same time, in their owner's folder.

    Args:
        commands: the arguments of each.
        home: where they run, and where the owner's sign-in is kept.
        sealed_from: when given, they run with no network and without this folder; see `sealed`.
    """
    seal = [sys.executable, "-m", "broker.demo.sealed", str(sealed_from)] if sealed_from is not None else []
    running = [
        subprocess.Popen(  # noqa: S603  our own command
            [*seal, str(program()), *arguments],
            cwd=home,
            env=_environment(home),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments in commands
    ]
    try:
        ended = [process.communicate(timeout=_TIMEOUT_S) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()
    return [
        Ran(f"broker {shlex.join(arguments)}", process.returncode, out, err)
        for arguments, process, (out, err) in zip(commands, running, ended, strict=True)
    ]


def _environment(home: Path, **variables: str) -> dict[str, str]:
    # Everybody is on this machine: a proxy that the person uses otherwise has no part in it.
    return environment_for_child(BROKER_HOME=str(home), NO_PROXY="127.0.0.1", no_proxy="127.0.0.1", **variables)
