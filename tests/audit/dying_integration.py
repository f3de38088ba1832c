"""Integrations in processes of their own, each of which ends itself, as `kill -9` would, at a chosen line.

`python -m tests.audit.dying_integration` imports everything once, then forks a process for each line it reads: a JSON
object with the `folder`, the database's `url` (none for the embedded one), the log's private `key` in hex, and the
`line`. The process appends records, says how many are durable, and integrates; it dies at that line, counted over all
that it runs from the sight of what is stored to what is published. Whatever it dies of, its signal is the answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from broker import database_url
from broker.audit.log import Step
from broker.audit.published import PublishedCheckpoint
from broker.audit.tree import AuditTree, stored_head
from broker.db.engine import begin_to_write, open_engine, open_server, reading
from broker.db.sqlite import sqlite_url
from broker.entropy import new_id, system_entropy
from broker.errors import StoreLocked
from broker.formats import checkpoint
from broker.formats.note import NoteSigner
from tests.audit.logs import event, open_log, signed_by

ORIGIN = "dying.example/log"
RECORDS = 3
"""Records that each process appends before it integrates."""

_ROOT = Path(__file__).parents[2]
_TRACED = {
    "integrate": "tree.py",
    "_swap": "tree.py",
    "keep": "published.py",
    "replace_private": "files.py",
    "sign": "checkpoint.py",
    "writing": "engine.py",
}
"""Functions from the sight of what is stored to what is published, and the files that they stand in."""


def main() -> None:
    """Forks a process for each line, one after the other."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _integrate(**json.loads(line))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        _say(
            {"signal": os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, "code": os.waitstatus_to_exitcode(status)}
        )


def _integrate(folder: str, url: str | None, key: str, line: int) -> None:
    place = Path(folder)
    engine = _opened(place, url)
    signer = NoteSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)))
    tree = AuditTree(engine, signed_by(signer), PublishedCheckpoint(place))
    lost = tree.lost() if (place / "checkpoint").exists() else None
    with reading(engine) as session:
        head = stored_head(session.connection())
    log = open_log(engine, place)
    asyncio.run(_append(log))
    _say({"durable": log.size, "lost": str(lost) if lost is not None else None, "head": head})
    log.close()
    killer = _Killer(line)
    sys.settrace(killer.enter)
    made = tree.integrate()
    sys.settrace(None)
    assert made is not None
    _say({"lines": killer.passed, "size": checkpoint.parse_unverified(made).size})


async def _append(log: Any) -> None:
    await log.record(Step(tuple(event(f"agent-{n}") for n in range(RECORDS))))


def _opened(folder: Path, url: str | None) -> Engine:
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


class _Killer:
    """Counts lines, and ends the process at one of them."""

    def __init__(self, line: int) -> None:
        self._line = line
        self.passed = 0

    def enter(self, frame: FrameType, _event: str, _argument: object) -> Any:
        """Whether a function's lines count."""
        code = frame.f_code
        return self._at if _TRACED.get(code.co_name) == Path(code.co_filename).name else None

    def _at(self, _frame: FrameType, kind: str, _argument: object) -> Any:
        if kind == "line":
            self.passed += 1
            if self.passed == self._line:
                os.kill(os.getpid(), signal.SIGKILL)
        return self._at


def _say(members: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(members) + "\n")
    sys.stdout.flush()


class DyingIntegrations:
    """The test's side. `close` it at the end."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.audit.dying_integration"],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(self, folder: Path, url: str | None, key: bytes, line: int) -> dict[str, Any]:
        """Runs one, until it dies at its `line` or has integrated; gives all that it said."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps({"folder": str(folder), "url": url, "key": key.hex(), "line": line}) + "\n"
        )
        self._process.stdin.flush()
        said: dict[str, Any] = {}
        while "signal" not in said:
            said |= json.loads(self._process.stdout.readline())
        return said

    def close(self) -> None:
        """Ends everything that was started here."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


if __name__ == "__main__":
    main()
