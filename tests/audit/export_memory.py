"""`python -m tests.audit.export_memory FOLDER RECORDS`: makes a log, exports it in every format, prints the peak.

A process of its own, for what it holds at its highest is counted for a whole process. Making the log is a process of
its own too: the peak is that of reading alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import orjson
from sqlmodel import Session

from broker import migrations
from broker.audit import export, ocsf
from broker.audit.disclosure import WHOLE
from broker.audit.log import RecordRow
from broker.audit.trail import Query
from broker.cli.export_files import Lines
from broker.cli.parquet import ParquetRows
from broker.db.engine import insert_rows, open_engine, reading, writing
from broker.db.sqlite import sqlite_url
from broker.formats import record

_COLUMNS = tuple(RecordRow.model_fields)
_AGENTS = 50
_BATCH = 10_000
T = TypeVar("T")


def make(folder: Path, count: int) -> None:
    """A database with so many records of a call, each different."""
    engine = open_engine(sqlite_url(folder))
    migrations.upgrade(engine)
    for start in range(0, count, _BATCH):
        with writing(engine) as connection:
            insert_rows(connection, "records", _COLUMNS, list(_rows(start, min(start + _BATCH, count))))
    engine.dispose()


def _rows(start: int, end: int) -> Iterator[tuple[object, ...]]:
    for index in range(start, end):
        digest = hashlib.sha256(str(index).encode()).hexdigest()
        agent, tag, seq = f"agent-{index % _AGENTS}", f"{index % _AGENTS:032x}", index // _AGENTS + 1
        contents = {
            "who": {"agent": agent, "instance": digest[:32], "thumbprint": digest[:43]},
            "for_whom": {"owner": "team"},
            "what": {"action": "call", "operation": "chat.completions", "model": "e/m", "token_id": digest[:22]},
            "decision": {"outcome": "permit", "policies": ["nightly"], "set": digest, "inputs": {"stream": False}},
            "request": {"id": digest[:22], "at_ms": 1_800_000_000_000 + index, "source": "127.0.0.1", "bytes": 77},
            "posture": {"confirmation": "dpop"},
        }
        groups = {name: (digest[:32], orjson.dumps(contents.get(name, "")).decode()) for name in record.GROUPS}
        groups["remedy"] = (digest[:32], "")
        entry = record.entry("CallAdmitted", tag, seq, bytes.fromhex(digest))
        row = {
            "idx": index, "at": 1_800_000_000.0 + index / 1000, "kind": "CallAdmitted", "agent": agent,
            "agent_tag": tag, "seq": seq, "outcome": "permit", "model": "e/m", "request_id": digest[:22],
            "entry": entry, "leaf": bytes.fromhex(digest), "commitments": b"", "groups": orjson.dumps(groups),
            "trait": 0, "human": "",
        }  # fmt: skip
        yield tuple(row[name] for name in _COLUMNS)


async def run(folder: Path, count: int) -> int:
    """Exports the log into every sink there is; gives how many records came."""
    export.PAGES_A_REQUEST = count  # one stream, however long, so that its own end hides nothing
    engine = open_engine(sqlite_url(folder))
    seen = 0

    async def read(page: Callable[[Session], T]) -> T:
        def in_a_session() -> T:
            with reading(engine) as session:
                return page(session)

        return await asyncio.to_thread(in_a_session)

    with Path(os.devnull).open("wb") as nowhere:  # noqa: ASYNC230  nothing else runs on this loop
        sinks = (Lines(nowhere), Lines(nowhere, lambda line: orjson.dumps(ocsf.event(line))), ParquetRows(nowhere))
        at, more = export.Cursor(0, count, bytes(32)), True
        while more:
            async for chunk in export.stream(read, Query(), at, WHOLE):
                *lines, told = map(orjson.loads, chunk.splitlines())
                for sink in sinks:
                    sink.write(lines)
                seen += len(lines)
                at, more = export.Cursor.parse(told["export"]["cursor"]), told["export"].get("more", False)
        for sink in sinks:
            sink.end(str(at))
    engine.dispose()
    return seen


def main(folder: Path, count: int) -> None:
    """Prints records and peak memory in KiB."""
    maker = multiprocessing.get_context("spawn").Process(target=make, args=(folder, count))
    maker.start()
    maker.join()
    assert maker.exitcode == 0
    seen = asyncio.run(run(folder, count))
    print(seen, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # noqa: T201  what it is for


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
