"""Erasures in processes of their own, each of which ends itself, as `kill -9` would, before a chosen statement.

`tests.audit.dying` gives it the `folder`, the database's `url` (none for the embedded one), and the `statement`. The
first process makes a log of four records that name two inputs. Each says what it finds, and erases all of it in two
steps; it dies before that statement of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from pathlib import Path

from sqlalchemy import Engine, event

from broker.audit import erasure
from broker.audit.events import Event, Kind
from broker.audit.inputs import Input
from broker.audit.log import AuditLog, Step
from broker.db.engine import execute, reading, writer_of
from tests.audit.dying import opened, say, serve
from tests.audit.logs import AT, open_log, reader, rows
from tests.audit.logs import event as made
from tests.fakes import FakeClock

_INPUTS = [Input(hashlib.sha256(text).hexdigest(), text) for text in (b"a", b"b")]


def _erase(folder: str, url: str | None, statement: int) -> None:
    engine = opened(Path(folder), url)
    log = open_log(engine, Path(folder))
    asyncio.run(_run(engine, log, statement))
    log.close()


async def _run(engine: Engine, log: AuditLog, statement: int) -> None:
    if log.size == 0:
        await log.record(Step(tuple(_record(n) for n in range(4))))
    say({"found": _state(engine)})
    erasure.MAX_BATCH = 2
    _die_before(engine, statement)
    clock, after = FakeClock(AT + 5 * erasure.DAY_S), -1
    while True:
        chosen = erasure.Selection(("decision",), "a", after, AT + 1)
        done = await erasure.erase(log, reader(engine), chosen, "why", by="operator:o", request_id="r", clock=clock)
        if done.next is None:
            break
        after = done.next
    say({"left": _state(engine)})


def _record(n: int) -> Event:
    return made("a", decision={"entities": _INPUTS[n % 2].digest}, inputs=(_INPUTS[n % 2],))


def _state(engine: Engine) -> tuple[int, int, int]:
    """Records that kept their decision, inputs, records of erasures."""
    found = rows(engine)
    with reading(engine) as session:
        inputs = execute(session.connection(), "SELECT count(*) FROM entity_slices").scalar_one()
    whole = sum(b'"decision"' in row["groups"] and row["kind"] == Kind.CALL_REFUSED for row in found)
    return whole, int(inputs), sum(row["kind"] == Kind.RECORDS_ERASED for row in found)


def _die_before(engine: Engine, statement: int) -> None:
    run = 0

    def count(*_: object) -> None:
        nonlocal run
        run += 1
        if run == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    for each in {engine, writer_of(engine)}:
        event.listen(each, "before_cursor_execute", count)
        event.listen(each, "commit", count)


if __name__ == "__main__":
    serve(_erase)
