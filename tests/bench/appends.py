"""Durable appends of prepared entries, beside plain inserts of the same rows and the disk's own fsync."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

from broker.db.engine import reading
from tests.bench.plan import Plan
from tests.bench.records import DiskLog
from tests.bench.results import Result, percentile, spread

CALLERS = 64
RATE_AIM = 20_000.0
P99_AIM_MS = 5.0

HASHES_A_RECORD = 15
"""The entry's leaf, seven commitments, six nodes over them, and one node of the tree."""

_BUILT_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class Interval:
    """What one interval of appends came to: how many a second, the CPU of each, and the wait of all but one percent."""

    per_s: float
    cpu_us: float
    p99_ms: float


async def appended(log: DiskLog, number: int) -> Interval:
    """Appends so many records that were built before, from callers that each wait for their own."""
    prepared = log.prepared(number)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    waited = await log.append_prepared(prepared, CALLERS)
    return _interval(number, time.perf_counter() - begun, time.process_time() - begun_cpu, waited)


async def measured(plan: Plan, log: DiskLog) -> list[Result]:
    """Each kind of append takes turns with its floors."""
    await log.append(500, CALLERS)
    ours: list[Interval] = []
    steps: list[Interval] = []
    inserts: list[Interval] = []
    synced: list[Interval] = []
    built_us: list[float] = []
    hashed_us: list[float] = []
    number = 2 * plan.requests
    rows = newest_rows(log, CALLERS)
    with _plain_table(log.folder / "plain.db") as table:
        for turn in range(plan.rounds):
            ours.append(await appended(log, number))
            inserts.append(_inserted(table, rows, number // CALLERS))
            synced.append(_synced(log.folder / "bare", stored_bytes(rows), max(20, number // CALLERS)))
            steps.append(await _whole_steps(log, number))
            built_us.append(log.building_us(_BUILT_AT_ONCE))
            hashed_us.append(hashing_s(stored_bytes(rows), _BUILT_AT_ONCE) / _BUILT_AT_ONCE * 1e6)
            plan.say(
                f"audit round {turn + 1}/{plan.rounds}: prepared {_told(ours[-1])}; with building and claim "
                f"{_told(steps[-1])}; plain inserts {_told(inserts[-1])}; fsync alone {_told(synced[-1])}"
            )
    log.tree.integrate()
    plan.say(f"audit: {spread([each.per_s for each in ours])} prepared appends/s from {CALLERS} callers")
    append, insert, sync, step = map(_middle, (ours, inserts, synced, steps))
    return [
        Result("audit.appends_per_s", append.per_s, "1/s", "higher", insert.per_s, RATE_AIM),
        Result("audit.append_p99_ms", append.p99_ms, "ms", "lower", insert.p99_ms, P99_AIM_MS),
        Result("audit.append_cpu_us", append.cpu_us, "µs", "lower", insert.cpu_us),
        Result("audit.plain_inserts_per_s", insert.per_s, "1/s", "higher", sync.per_s),
        Result("audit.plain_insert_p99_ms", insert.p99_ms, "ms", "lower", sync.p99_ms),
        Result("audit.record_us", median(built_us), "µs", "lower", median(hashed_us)),
        Result("audit.steps_per_s", step.per_s, "1/s", "higher", insert.per_s),
        Result("audit.step_p99_ms", step.p99_ms, "ms", "lower", insert.p99_ms),
        Result("audit.step_cpu_us", step.cpu_us, "µs", "lower", insert.cpu_us),
    ]


async def grown(plan: Plan, log: DiskLog, sizes: Sequence[int]) -> list[Result]:
    """What an append costs when the log holds so many records, beside plain inserts at the same moment."""
    results = []
    for size in sizes:
        begun = time.perf_counter()
        await log.fill(size)
        filled_s = time.perf_counter() - begun
        found = await appended(log, plan.requests)
        with _plain_table(log.folder / "plain.db") as table:
            insert = _inserted(table, newest_rows(log, CALLERS), plan.requests // CALLERS)
        plan.say(f"audit: at {size:,} records (filled in {filled_s:.0f} s): {_told(found)}; plain {_told(insert)}")
        results.append(Result(f"audit.append_cpu_us.at_{size}", found.cpu_us, "µs", "lower", insert.cpu_us))
        log.tree.integrate()
    return results


def newest_rows(log: DiskLog, number: int) -> list[tuple[Any, ...]]:
    """The last stored records, as the database has them."""
    with reading(log.engine) as session:
        found = session.connection().exec_driver_sql("SELECT * FROM records ORDER BY idx DESC LIMIT ?", (number,))
        return [tuple(row) for row in found]


def stored_bytes(rows: Sequence[Sequence[Any]]) -> bytes:
    """What stored records consist of, one after the other."""
    return b"".join(cell if isinstance(cell, bytes) else str(cell).encode() for row in rows for cell in row)


def hashing_s(group: bytes, size: int) -> float:
    """CPU seconds of as many SHA-256 over as many bytes as `size` records need."""
    piece = group[: len(group) // CALLERS // HASHES_A_RECORD]
    begun = time.process_time()
    for _ in range(size * HASHES_A_RECORD):
        sha256(piece).digest()
    return time.process_time() - begun


async def _whole_steps(log: DiskLog, number: int) -> Interval:
    begun, begun_cpu = time.perf_counter(), time.process_time()
    waited = await log.append(number, CALLERS)
    return _interval(number, time.perf_counter() - begun, time.process_time() - begun_cpu, waited)


@contextmanager
def _plain_table(path: Path) -> Iterator[sqlite3.Connection]:
    """A table with the columns of records and no index, in a database with the broker's durability."""
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "wal_autocheckpoint=1000"):
            connection.execute(f"PRAGMA {pragma}")
        columns = ",".join(f"c{number}" for number in range(14))
        connection.execute(f"CREATE TABLE plain (idx INTEGER PRIMARY KEY, {columns})")
        yield connection
    finally:
        connection.close()
        for file in path.parent.glob(f"{path.name}*"):
            file.unlink()


def _inserted(table: sqlite3.Connection, rows: Sequence[Sequence[Any]], groups: int) -> Interval:
    """Inserts the same rows group after group, each group one statement in a transaction of its own."""
    marks = ",".join(["(NULL" + ",?" * (len(rows[0]) - 1) + ")"] * len(rows))
    cells = [cell for row in rows for cell in row[1:]]
    taken = []
    begun, begun_cpu = time.perf_counter(), time.process_time()
    for _ in range(groups):
        group_begun = time.perf_counter()
        table.execute("BEGIN IMMEDIATE")
        table.execute(f"INSERT INTO plain VALUES {marks}", cells)
        table.execute("COMMIT")
        taken.append(time.perf_counter() - group_begun)
    return _interval(groups * len(rows), time.perf_counter() - begun, time.process_time() - begun_cpu, taken)


def _synced(path: Path, group: bytes, times: int) -> Interval:
    """Writes the same bytes of a whole group to a file and syncs it, again and again."""
    taken = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    begun, begun_cpu = time.perf_counter(), time.process_time()
    try:
        for _ in range(times):
            group_begun = time.perf_counter()
            os.write(file, group)
            os.fsync(file)
            taken.append(time.perf_counter() - group_begun)
    finally:
        os.close(file)
        path.unlink()
    return _interval(times * CALLERS, time.perf_counter() - begun, time.process_time() - begun_cpu, taken)


def _interval(number: int, took_s: float, cpu_s: float, waited_s: Sequence[float]) -> Interval:
    return Interval(number / took_s, cpu_s / number * 1e6, percentile(waited_s, 99) * 1000)


def _middle(rounds: Sequence[Interval]) -> Interval:
    return Interval(*(median(getattr(each, name) for each in rounds) for name in ("per_s", "cpu_us", "p99_ms")))


def _told(interval: Interval) -> str:
    return f"{interval.per_s:,.0f}/s, {interval.cpu_us:.0f} µs, p99 {interval.p99_ms:.1f} ms"
