"""Integrations in processes of their own, each of which ends itself, as `kill -9` would, at a chosen line.

`tests.audit.dying` gives it the `folder`, the database's `url` (none for the embedded one), the log's private `key` in
hex, and the `line`. The process appends records, says how many are durable, and integrates; it dies at that line,
counted over all that it runs from the sight of what is stored to what is published.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from broker.audit.log import Step
from broker.audit.published import PublishedCheckpoint
from broker.audit.tree import AuditTree, stored_head
from broker.db.engine import reading
from broker.formats import checkpoint
from broker.formats.note import NoteSigner
from tests.audit.dying import opened, say, serve
from tests.audit.logs import SEALS, event, open_log, signed_by

ORIGIN = "dying.example/log"
RECORDS = 3
"""Records that each process appends before it integrates."""

_TRACED = {
    "integrate": "tree.py",
    "_swap": "tree.py",
    "forget": "seals.py",
    "keep": "published.py",
    "replace_private": "files.py",
    "sign": "checkpoint.py",
    "writing": "engine.py",
}
"""Functions from the sight of what is stored to what is published, and the files that they stand in."""


def _integrate(folder: str, url: str | None, key: str, line: int) -> None:
    place = Path(folder)
    engine = opened(place, url)
    signer = NoteSigner(ORIGIN, Ed25519PrivateKey.from_private_bytes(bytes.fromhex(key)))
    tree = AuditTree(engine, signed_by(signer), SEALS, PublishedCheckpoint(place))
    lost = tree.lost() if (place / "checkpoint").exists() else None
    with reading(engine) as session:
        head = stored_head(session.connection())
    log = open_log(engine, place)
    asyncio.run(_append(log))
    say({"durable": log.size, "lost": str(lost) if lost is not None else None, "head": head})
    log.close()
    killer = _Killer(line)
    sys.settrace(killer.enter)
    made = tree.integrate()
    sys.settrace(None)
    assert made is not None
    say({"lines": killer.passed, "size": checkpoint.parse_unverified(made).size})


async def _append(log: Any) -> None:
    await log.record(Step(tuple(event(f"agent-{n}") for n in range(RECORDS))))


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


if __name__ == "__main__":
    serve(_integrate)
