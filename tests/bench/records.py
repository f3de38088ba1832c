"""A log of the bench's own on a disk, with records as calls leave them."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Engine

from broker import migrations
from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog, Step
from broker.audit.log_keys import LogKeys
from broker.audit.tree import AuditTree
from broker.clock import SystemClock
from broker.db.claims import Claim
from broker.db.engine import open_engine
from broker.db.reserve import DiskReserve
from broker.db.sqlite import sqlite_url
from broker.entropy import new_id, system_entropy
from broker.formats.note import NoteSigner
from tests.bench import machine
from tests.bench.fleet import ACCOUNTS, NAMESPACE

REFUSED_EVERY = 500
"""One record in so many is of a refusal, as in a healthy installation."""

AGENTS = tuple(f"cluster/{NAMESPACE}/account-{number:02}" for number in range(ACCOUNTS))
MODEL = "provider/bench-small"
OWNER = "platform-team"


@dataclass(frozen=True, slots=True)
class DiskLog:
    """A log with its tree and its database in a folder on a disk."""

    folder: Path
    engine: Engine
    audit: AuditLog
    tree: AuditTree
    vkey: str

    async def append(self, number: int, callers: int) -> list[float]:
        """Appends so many records from callers that each wait for their own; returns the seconds each waited."""
        waited: list[float] = []
        now = SystemClock().now()
        places = iter(range(number))

        async def caller() -> None:
            for place in places:
                step = _step(place, now)
                begun = time.perf_counter()
                await self.audit.record(step)
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
        audit = AuditLog(
            engine,
            tag_key=b"k" * 32,
            entropy=system_entropy,
            reserve=DiskReserve(folder, 1024 * 1024),
            timeout_s=1.0,
        )
        try:
            yield DiskLog(folder, engine, audit, AuditTree(engine, LogKeys({signer.vkey: signer}, signer)), signer.vkey)
        finally:
            audit.close()
            engine.dispose()


def _step(place: int, now: float) -> Step:
    """What a call needs durable: the claim of its proof and a record as `broker.gateway.calls` makes it."""
    refused = place % REFUSED_EVERY == REFUSED_EVERY - 1
    agent, thumbprint, id = AGENTS[place % len(AGENTS)], "t" * 43, new_id(system_entropy)
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
