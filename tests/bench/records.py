"""A log of the bench's own on a disk, with records as calls leave them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from broker import migrations
from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, Prepared, Receipt, Step
from broker.audit.log_keys import LogKeys
from broker.audit.seals import Seals
from broker.audit.tree import AuditTree
from broker.clock import SystemClock
from broker.db.claims import Claim
from broker.db.engine import open_engine
from broker.db.reserve import DiskReserve
from broker.db.sqlite import sqlite_url
from broker.entropy import new_id, new_id_in_order, system_entropy
from broker.formats.note import NoteSigner
from tests.bench import machine
from tests.bench.fleet import ACCOUNTS, NAMESPACE

REFUSED_EVERY = 500
"""One record in so many is of a refusal, as in a healthy installation."""

AGENTS = tuple(f"cluster/{NAMESPACE}/account-{number:02}" for number in range(ACCOUNTS))
MODEL = "provider/bench-small"
OWNER = "platform-team"

_FILLED_AT_ONCE, _A_STEP, _FILLING = 20_000, 20, 32
"""Records, records a step, and callers, while a log is only filled."""


@dataclass(frozen=True, slots=True)
class DiskLog:
    """A log with its tree and its database in a folder on a disk."""

    folder: Path
    engine: Engine
    audit: AuditLog
    tree: AuditTree
    vkey: str

    async def append(self, number: int, callers: int) -> list[float]:
        """Builds and appends so many records from callers that wait for their own; returns the seconds each waited."""
        now = SystemClock().now()
        return await _driven((self.audit.record(_step(place, now)) for place in range(number)), callers)

    def prepared(self, number: int) -> list[Prepared]:
        """So many records, built, and without claims: all that is left is to append them."""
        now = SystemClock().now()
        return [self.audit.prepare(Step(_step(place, now).events)) for place in range(number)]

    async def append_prepared(self, prepared: Sequence[Prepared], callers: int) -> list[float]:
        """Appends records from callers that each wait for their own; returns the seconds each waited."""
        return await _driven(map(self.audit.append, prepared), callers)

    def building_us(self, number: int) -> float:
        """CPU microseconds to build one record: its groups encoded, salted and committed to."""
        now = SystemClock().now()
        steps = [_step(place, now) for place in range(number)]
        begun = time.process_time()
        for step in steps:
            self.audit.prepare(step)
        return (time.process_time() - begun) / number * 1e6

    async def fill(self, size: int) -> None:
        """Appends until the log holds so many records, many in a step; the tree follows."""
        while (missing := size - self.audit.size) > 0:
            number, now = min(missing, _FILLED_AT_ONCE), SystemClock().now()
            events = [_step(place, now).events[0] for place in range(number)]
            steps = (Step(tuple(events[start : start + _A_STEP])) for start in range(0, number, _A_STEP))
            await _driven(map(self.audit.record, steps), _FILLING)
            self.tree.integrate()


async def _driven(appends: Iterable[Awaitable[Receipt]], callers: int) -> list[float]:
    waited: list[float] = []
    left = iter(appends)

    async def caller() -> None:
        for append in left:
            begun = time.perf_counter()
            await append
            waited.append(time.perf_counter() - begun)

    async with asyncio.TaskGroup() as group:
        for _ in range(callers):
            group.create_task(caller())
    return waited


@contextmanager
def on_disk() -> Iterator[DiskLog]:
    """An empty log in a temporary folder, with the database's durability as in production."""
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=machine.disk_folder()) as name:
        folder = Path(name)
        engine = open_engine(sqlite_url(folder))
        migrations.upgrade(engine)
        signer = NoteSigner("bench.example/log", Ed25519PrivateKey.generate())
        tag_key = b"k" * 32
        audit = AuditLog(
            engine,
            tag_key=tag_key,
            entropy=system_entropy,
            reserve=DiskReserve(folder, 1024 * 1024),
            timeout_s=10.0,  # on a busy disk an append waits, and is measured, where a broker would give up
        )
        try:
            yield DiskLog(
                folder,
                engine,
                audit,
                AuditTree(engine, LogKeys({signer.vkey: signer}, signer), Seals(tag_key)),
                signer.vkey,
            )
        finally:
            audit.close()
            engine.dispose()


def _step(place: int, now: float) -> Step:
    """What a call needs durable: the claim of its proof and a record as `broker.gateway.calls` makes it."""
    refused = place % REFUSED_EVERY == REFUSED_EVERY - 1
    agent, thumbprint, id = AGENTS[place % len(AGENTS)], "t" * 43, new_id_in_order(system_entropy, now)
    event = Event(
        Kind.CALL_REFUSED if refused else Kind.CALL_ADMITTED,
        agent=agent,
        at=now,
        request_id=id,
        who={"agent": agent, "instance": "i" * 32, "thumbprint": thumbprint},
        for_whom={"owner": OWNER},
        what={"action": "call", "operation": "chat.completions", "model": MODEL, "token_id": new_id(system_entropy)},
        decision={
            "outcome": "deny" if refused else "permit",
            "policies": ["outside-ceiling" if refused else "inside-ceiling"],
            "set": "5" * 64,
            "limited_by": "ceiling" if refused else "",
            "inputs": {"operation": "chat.completions", "stream": True, "confirmation": "dpop"},
        },
        request={"source": "127.0.0.1", "bytes": 1203},
        posture={"confirmation": "dpop"},
    )
    return Step((event,), (Claim(f"proof:{thumbprint}:{id}", "", now + 120),))
