"""Processes of their own, each of which ends itself, as `kill -9` would, at a chosen place.

A module that is run as `python -m` calls `serve`: everything is imported once, then a process is forked for each line
that it reads, a JSON object with the arguments. Whatever the process dies of, its signal is the answer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from broker import database_url
from broker.db.engine import begin_to_write, open_engine, open_server
from broker.db.sqlite import sqlite_url
from broker.entropy import new_id, system_entropy
from broker.errors import StoreLocked
from tests.child import Child


def serve(run: Callable[..., None]) -> None:
    """Forks a process for each line, one after the other."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            run(**json.loads(line))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        say({"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, "code": os.waitstatus_to_exitcode(status)})


def opened(folder: Path, url: str | None) -> Engine:
    """The database at `url`, or the embedded one of the folder."""
    if url is None:
        return open_engine(sqlite_url(folder))
    for _ in range(500):  # the server lets go of a process that died when it notices
        try:
            engine = open_server(database_url.keywords(url), None, new_id(system_entropy))
            begin_to_write(engine, new_id(system_entropy))
        except StoreLocked:
            time.sleep(0.01)
        else:
            return engine
    raise AssertionError("the server holds on to a process that is dead")


def say(members: dict[str, Any]) -> None:
    """Answers."""
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()


class Dying(Child):
    """The test's side; its module calls `serve`."""

    def run(self, **arguments: object) -> dict[str, Any]:
        """Runs one, until it dies where it must or is done; gives all that it said."""
        self.tell(json.dumps(arguments))
        said: dict[str, Any] = {}
        while "signal" not in said:
            said |= json.loads(self.line())
        return said
