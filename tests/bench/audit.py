"""The audit log on a disk: durable appends beside the host's own fsync, search, and the check of a whole log."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from hashlib import sha256
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import Any

from broker.audit import trail
from broker.audit.disclosure import WHOLE
from broker.audit.events import Kind
from broker.audit.trail import Query
from broker.cli import whole_log
from broker.db.engine import reading
from broker.formats.note import NoteVerifier
from tests.audit.logs import PublicBytes
from tests.bench import records
from tests.bench.plan import Plan
from tests.bench.records import DiskLog
from tests.bench.results import Result, percentile, spread

CALLERS = 64
SIZE = 200_000
SIZE_FULL = 1_000_000
"""Records that search and verification meet."""

_SEARCHES = 40
_READ_AT_ONCE = 10_000
_HASHES_A_RECORD = 15
"""The entry's leaf, seven commitments, six nodes over them, and one node of the tree."""


async def run(plan: Plan) -> list[Result]:
    """Appends in rounds beside the host's, then fills the log up, searches it and checks it."""
    with records.on_disk() as log:
        results = await _appends(plan, log)
        size = SIZE_FULL if plan.full else SIZE
        begun = time.perf_counter()
        while (missing := size - log.audit.size) > 0:
            await log.append(min(missing, 2 * _READ_AT_ONCE), 4 * CALLERS)
            log.tree.integrate()
        plan.say(f"audit: filled up to {size:,} records in {time.perf_counter() - begun:.0f} s")
        results += _search(plan, log)
        results.append(_verify(plan, log, size))
    return results


async def _appends(plan: Plan, log: DiskLog) -> list[Result]:
    await log.append(500, CALLERS)
    rates: list[float] = []
    p99s: list[float] = []
    bare_rates: list[float] = []
    bare_p99s: list[float] = []
    cpus_us: list[float] = []
    for number in range(plan.rounds):
        begun, begun_cpu = time.perf_counter(), time.process_time()
        waited = await log.append(2 * plan.requests, CALLERS)
        rates.append(len(waited) / (time.perf_counter() - begun))
        cpus_us.append((time.process_time() - begun_cpu) / len(waited) * 1e6)
        p99s.append(percentile(waited, 99) * 1000)
        synced = _host_appends(log.folder / "bare", _stored_bytes(log, CALLERS), max(20, plan.requests // 10))
        bare_rates.append(CALLERS * len(synced) / sum(synced))
        bare_p99s.append(percentile(synced, 99) * 1000)
        plan.say(
            f"audit round {number + 1}/{plan.rounds}: {rates[-1]:,.0f} appends/s, {cpus_us[-1]:.0f} µs CPU, "
            f"p99 {p99s[-1]:.1f} ms; "
            f"write and fsync alone {bare_rates[-1]:,.0f}/s, p99 {bare_p99s[-1]:.1f} ms"
        )
    log.tree.integrate()
    plan.say(f"audit: {spread(rates)} appends/s from {CALLERS} callers, p99 {spread(p99s, 1)} ms")
    rate, p99, bare_rate, bare_p99 = map(median, (rates, p99s, bare_rates, bare_p99s))
    return [
        Result("audit.appends_per_s", rate, "1/s", "higher", bare_rate),
        Result("audit.append_p99_ms", p99, "ms", "lower", bare_p99),
        Result("audit.append_cpu_us", median(cpus_us), "µs", "lower"),
    ]


def _stored_bytes(log: DiskLog, number: int) -> bytes:
    """What so many stored records consist of, one after the other."""
    with reading(log.engine) as session:
        rows = session.connection().exec_driver_sql("SELECT * FROM records ORDER BY idx DESC LIMIT ?", (number,))
        cells = [cell for row in rows for cell in row]
    return b"".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells)


def _host_appends(path: Path, group: bytes, times: int) -> list[float]:
    """Writes the same bytes of a whole group to a file and syncs it, again and again; seconds of each."""
    taken = []
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        for _ in range(times):
            begun = time.perf_counter()
            os.write(file, group)
            os.fsync(file)
            taken.append(time.perf_counter() - begun)
    finally:
        os.close(file)
        path.unlink()
    return taken


def _search(plan: Plan, log: DiskLog) -> list[Result]:
    """Pages of 50 as auditors ask for them, each kind of question as often as the others."""
    with reading(log.engine) as session:
        rows = session.connection().exec_driver_sql(
            "SELECT request_id, at FROM records WHERE idx % ? = 7", (max(1, log.audit.size // _SEARCHES),)
        )
        known = list(islice(cycle([(str(id), int(at * 1000)) for id, at in rows]), _SEARCHES))
    waited: dict[str, list[float]] = {}
    for place, (request_id, at_ms) in enumerate(known):
        agent = records.AGENTS[place % len(records.AGENTS)]
        for name, query in _questions(agent, request_id, at_ms).items():
            begun = time.perf_counter()
            with reading(log.engine) as session:
                found = trail.search(session, query, WHOLE)
            waited.setdefault(name, []).append((time.perf_counter() - begun) * 1000)
            if not found and not query.human:
                raise RuntimeError(f"a search for {name} found nothing")
    for name, times_ms in waited.items():
        plan.say(f"audit search, {name}: {spread(times_ms, 1)} ms")
    together = [time_ms for times_ms in waited.values() for time_ms in times_ms]
    return [Result("audit.search_p95_ms", percentile(together, 95), "ms", "lower")]


def _questions(agent: str, request_id: str, at_ms: int) -> Mapping[str, Query]:
    return {
        "newest of all": Query(),
        "newest of an agent": Query(agent=agent),
        "newest refusals": Query(outcome="deny"),
        "one request": Query(request_id=request_id),
        "one kind": Query(kind=Kind.CALL_REFUSED),
        "an agent since a moment": Query(agent=agent, since_ms=at_ms, oldest_first=True),
        "one model": Query(model=records.MODEL),
        "refusals of an owner": Query(owner=records.OWNER, outcome="deny", action="call"),
        "decided by a policy": Query(policy="outside-ceiling"),
        "of a policy until a moment": Query(policy="inside-ceiling", owner=records.OWNER, until_ms=at_ms + 1),
        "an action since a moment": Query(action="call", since_ms=at_ms, oldest_first=True),
        "an agent's calls of a model": Query(agent=agent, kind=Kind.CALL_ADMITTED, model=records.MODEL),
        "who is named nowhere": Query(human="nobody"),
    }


def _verify(plan: Plan, log: DiskLog, size: int) -> Result:
    """Checks the whole log and each record as an outsider with the auditor's role does; the floor is hashing alone."""
    begun = time.process_time()
    public: Any = PublicBytes(log.tree, log.engine)
    found = whole_log.verified(public, NoteVerifier.parse(log.vkey), None)
    whole_log.check_tiles(found.tree, lambda _: None)
    tiles_s = time.process_time() - begun
    whole_log.check_records(found.tree, 0, size, public.pages(size), lambda _: None, lambda: ())
    took_s = time.process_time() - begun
    floor_s = _hashing_s(_stored_bytes(log, CALLERS), size)
    scale = 1_000_000 / size
    plan.say(
        f"audit: {size:,} records checked in {took_s:.1f} s of CPU, their tiles alone in {tiles_s:.1f} s; a million in "
        f"{took_s * scale:.1f} s and {tiles_s * scale:.1f} s"
    )
    return Result("audit.verify_per_million_s", took_s * scale, "s", "lower", floor_s * scale)


def _hashing_s(group: bytes, size: int) -> float:
    """CPU seconds of as many SHA-256 over as many bytes as `size` records need."""
    piece = group[: len(group) // CALLERS // _HASHES_A_RECORD]
    begun = time.process_time()
    for _ in range(size * _HASHES_A_RECORD):
        sha256(piece).digest()
    return time.process_time() - begun
