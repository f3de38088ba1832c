"""A log in a database, and what each of the checks says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from broker.audit import erasure
from broker.audit.erasure import DAY_S
from broker.audit.log import Step
from broker.audit.log_keys import LogKeys
from broker.audit.published import Lost, PublishedCheckpoint
from broker.audit.recheck import recheck
from broker.audit.tree import AuditTree
from broker.cli import whole_log
from broker.db.engine import execute, writing
from broker.errors import BrokerError
from tests.audit.logs import AT, SEALS, TAG_KEY, PublicBytes, event, open_log, reader
from tests.audit.test_tree import VERIFIER
from tests.fakes import FakeClock

SIZE = 600
INNER = 37
"""A record under a whole tile, over which a hash is stored."""
OUTER = 599
"""The last record, under no stored hash."""


@dataclass
class Stored:
    """A log of 600 records of three agents in a database, with the checkpoint that an auditor kept."""

    engine: Engine
    folder: Path
    keys: LogKeys
    kept: str = ""

    @property
    def tree(self) -> AuditTree:
        """Its tree, as a process begins with it."""
        return AuditTree(self.engine, self.keys, SEALS, PublishedCheckpoint(self.folder))

    async def append(self, number: int) -> None:
        """Appends records."""
        log = open_log(self.engine, self.folder)
        await log.record(Step(tuple(event(f"agent-{n % 3}", what={"n": n}) for n in range(number))))
        log.close()

    def change(self, statement: str, *parameters: Any) -> None:
        """What somebody who can write the database does."""
        with writing(self.engine) as connection:
            execute(connection, statement, parameters)

    def start(self) -> str:
        """What a start says: nothing, or why it is refused."""
        return _said(self.tree.lost)

    async def integration(self) -> str:
        """What an integration says once there is something new."""
        await self.append(1)
        return _said(self.tree.integrate)

    def recheck(self) -> str:
        """What the re-verification of everything stored says."""
        return _said(lambda: recheck(self.engine, VERIFIER, TAG_KEY))

    def outsider(self, *, records: bool = False) -> str:
        """What an auditor says who has the kept checkpoint, verifies every tile, and perhaps every record."""

        def check() -> None:
            log: Any = PublicBytes(self.tree, self.engine)
            found = whole_log.verified(log, VERIFIER, self.kept)
            whole_log.check_tiles(found.tree, lambda _: None)
            if records:
                size = found.head.size
                whole_log.check_records(found.tree, 0, size, log.pages(size), lambda _: None, log.erasures)

        return _said(check)


def _said(check: Callable[[], object]) -> str:
    try:
        found = check()
    except BrokerError as error:
        return error.detail
    return str(found) if isinstance(found, Lost) else ""


async def erase(stored: Stored, *groups: str) -> None:
    """Erases groups of the inner record and of its agent's later ones, and has it covered by a checkpoint."""
    log, clock = open_log(stored.engine, stored.folder), FakeClock(AT + 5 * DAY_S)
    chosen = erasure.Selection(groups, f"agent-{INNER % 3}", INNER - 1, AT + 1)
    await erasure.erase(log, reader(stored.engine), chosen, "why", by="operator:o", request_id="r", clock=clock)
    log.close()
    stored.tree.integrate()
