"""The audit log on a disk: durable appends, search, the check of a whole log and its export, each beside its floor."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from itertools import cycle, islice
from typing import Any, TypeVar

from sqlmodel import Session

from broker.audit import export, trail
from broker.audit.disclosure import WHOLE
from broker.audit.events import Kind
from broker.audit.trail import Query
from broker.cli import whole_log
from broker.db.engine import reading
from broker.formats.note import NoteVerifier
from tests.audit.logs import PublicBytes
from tests.bench import appends, records
from tests.bench.plan import Plan
from tests.bench.processes import rss_bytes
from tests.bench.records import DiskLog
from tests.bench.results import Result, percentile, spread

T = TypeVar("T")

SIZES = (10_000, 100_000, 1_000_000)
"""Records at which appends are measured again; search, export and verification meet the last."""

SEARCHED_FULL = 5_000_000
APPENDED_FULL = 10_000_000

SEARCH_AIM_MS, VERIFY_AIM_S = 200.0, 60.0

_SEARCHES = 40
_PAGE = 50
_EXPORTED = export.PAGES_A_REQUEST * export.PAGE
"""As many as one request is answered with."""

_MIB = 1024 * 1024


async def run(plan: Plan) -> list[Result]:
    """Appends in rounds beside their floors, then as the log grows; then searches it, checks it and exports it."""
    with records.on_disk() as log:
        results = await appends.grown(plan, log, (1_000,))
        results += await appends.measured(plan, log)
        results += await appends.grown(plan, log, SIZES)
        results += _search(plan, log, SIZES[-1])
        results += await _export(plan, log)
        results.append(_verify(plan, log, log.audit.size))
        if plan.full:
            await log.fill(SEARCHED_FULL)
            results += _search(plan, log, SEARCHED_FULL)
            results += await appends.grown(plan, log, (APPENDED_FULL,))
    return results


def _search(plan: Plan, log: DiskLog, size: int) -> list[Result]:
    """Pages of 50 as auditors ask for them, each kind of question as often as the others; the floor is a bare page."""
    with reading(log.engine) as session:
        rows = session.connection().exec_driver_sql(
            "SELECT request_id, at FROM records WHERE idx % ? = 7", (max(1, log.audit.size // _SEARCHES),)
        )
        known = list(islice(cycle([(str(id), int(at * 1000)) for id, at in rows]), _SEARCHES))
    waited: dict[str, list[float]] = {}
    bare: list[float] = []
    for place, (request_id, at_ms) in enumerate(known):
        agent = records.AGENTS[place % len(records.AGENTS)]
        statement = "SELECT * FROM records WHERE idx >= ? ORDER BY idx LIMIT ?"
        first = log.audit.size * place // len(known)
        with reading(log.engine) as session:
            begun = time.perf_counter()
            session.connection().exec_driver_sql(statement, (first, _PAGE)).all()
            bare.append((time.perf_counter() - begun) * 1000)
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
    p95, bare_p95 = percentile(together, 95), percentile(bare, 95)
    return [Result(f"audit.search_p95_ms.of_{size}", p95, "ms", "lower", bare_p95, SEARCH_AIM_MS)]


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
    whole_log.check_records(found.tree, 0, size, public.pages(size), lambda _: None, lambda _start, _end: ())
    took_s = time.process_time() - begun
    floor_s = appends.hashing_s(appends.stored_bytes(appends.newest_rows(log, appends.CALLERS)), size)
    scale = 1_000_000 / size
    plan.say(
        f"audit: {size:,} records checked in {took_s:.1f} s of CPU, their tiles alone in {tiles_s:.1f} s; a million in "
        f"{took_s * scale:.1f} s and {tiles_s * scale:.1f} s"
    )
    return Result("audit.verify_per_million_s", took_s * scale, "s", "lower", floor_s * scale, VERIFY_AIM_S)


async def _export(plan: Plan, log: DiskLog) -> list[Result]:
    """Records as lines, as `GET /audit/export` streams them; the floor is reading the same rows."""
    size, begun_mib = min(log.audit.size, _EXPORTED), rss_bytes(os.getpid()) / _MIB
    most_mib, lines = begun_mib, 0

    async def read(query: Callable[[Session], T]) -> T:
        with reading(log.engine) as session:
            return query(session)

    begun = time.perf_counter()
    async for chunk in export.stream(read, Query(), export.begin(log.tree, ""), WHOLE):
        lines += chunk.count(b"\n") - 1
        most_mib = max(most_mib, rss_bytes(os.getpid()) / _MIB)
    if lines != size:
        raise RuntimeError(f"{lines} of {size} records were exported")
    took_s = time.perf_counter() - begun
    begun = time.perf_counter()
    with reading(log.engine) as session:
        connection = session.connection()
        for first in range(0, size, export.PAGE):
            statement = "SELECT * FROM records WHERE idx >= ? ORDER BY idx LIMIT ?"
            connection.exec_driver_sql(statement, (first, export.PAGE)).all()
    bare_s = time.perf_counter() - begun
    plan.say(f"audit: {size:,} records exported in {took_s:.1f} s, {begun_mib:.0f} MiB before, {most_mib:.0f} at most")
    return [
        Result("audit.exported_per_s", size / took_s, "1/s", "higher", size / bare_s),
        Result("audit.export_growth_mib", most_mib - begun_mib, "MiB", "lower"),
    ]
