"""Audit logs as the broker builds them, over a real database, and the check of everything that they store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson
from sqlalchemy import Connection, Engine
from sqlmodel import Session

from broker.audit import erasures
from broker.audit.disclosure import WHOLE
from broker.audit.erasure import Read
from broker.audit.events import Event, Kind
from broker.audit.log import AuditLog
from broker.audit.log_keys import LogKeys
from broker.audit.ranges import read_range
from broker.audit.seals import Seals
from broker.audit.tree import AuditTree
from broker.db.engine import insert_rows, reading
from broker.db.reserve import DiskReserve
from broker.db.writer import no_probe
from broker.entropy import system_entropy
from broker.formats import record
from broker.formats.merkle import leaf_hash
from broker.formats.note import NoteSigner

AT = 1_800_000_000.0
TAG_KEY = b"k" * 32
SEALS = Seals(TAG_KEY)
T = TypeVar("T")


def open_log(
    engine: Engine, folder: Path, *, timeout_s: float = 5.0, probe: Callable[[str], None] = no_probe
) -> AuditLog:
    """A log over the database of `folder`, as `broker.assembly` makes it; close it."""
    return AuditLog(
        engine,
        tag_key=TAG_KEY,
        entropy=system_entropy,
        reserve=DiskReserve(folder, 1024 * 1024),
        timeout_s=timeout_s,
        probe=probe,
    )


def put_records(connection: Connection, columns: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
    """Stores rows of records that follow each other as one batch, sealed as the log seals what it commits."""
    insert_rows(connection, "records", columns, rows)
    if rows:
        SEALS.seal(connection, rows[0][columns.index("idx")], [row[columns.index("leaf")] for row in rows])


def reader(engine: Engine) -> Read:
    """Reads as `Broker.read` does."""

    async def read(query: Callable[[Session], T]) -> T:
        def run() -> T:
            with reading(engine) as session:
                return query(session)

        return await asyncio.to_thread(run)

    return read


def event(agent: str = "a", kind: Kind = Kind.CALL_REFUSED, **groups: Any) -> Event:
    """An event with as little as an event needs."""
    return Event(kind, agent=agent, at=groups.pop("at", AT), request_id=groups.pop("request_id", "r"), **groups)


def rows(engine: Engine) -> list[Mapping[str, Any]]:
    """Every stored record, in order."""
    with reading(engine) as session:
        found = session.connection().exec_driver_sql("SELECT * FROM records ORDER BY idx")
        return [dict(row) for row in found.mappings()]


def kinds(engine: Engine) -> list[str]:
    """The kinds of all records, in order."""
    return [row["kind"] for row in rows(engine)]


def check_rows(engine: Engine) -> None:
    """Every record is where its index says, numbers each agent without a gap, and opens its own commitments."""
    last: dict[str, int] = {}
    for index, row in enumerate(rows(engine)):
        assert row["idx"] == index
        fields = record.parse_entry(row["entry"])
        assert (fields.kind, fields.agent_tag, fields.seq) == (row["kind"], row["agent_tag"], row["seq"])
        assert fields.seq == last.get(fields.agent_tag, 0) + 1
        last[fields.agent_tag] = fields.seq
        assert row["leaf"] == leaf_hash(row["entry"])
        groups = orjson.loads(row["groups"])
        disclosed = {name: (bytes.fromhex(salt), content.encode()) for name, (salt, content) in groups.items()}
        assert set(disclosed) == set(record.GROUPS)
        record.verify_groups(fields.root, row["commitments"], disclosed)


def remedies(engine: Engine, kind: Kind) -> list[dict[str, Any]]:
    """The `remedy` groups of all records of a kind."""
    return [orjson.loads(orjson.loads(row["groups"])["remedy"][1]) for row in rows(engine) if row["kind"] == kind]


class PublicBytes:
    """What `broker.cli.public_log.PublicLog` fetches, and the records of the API, without a server between."""

    def __init__(self, tree: AuditTree, engine: Engine) -> None:
        self._tree = tree
        self._engine = engine

    def checkpoint(self) -> str:
        """The newest one."""
        return self._tree.head()

    def successions(self) -> tuple[str, ...]:
        """Of the log's keys."""
        return self._tree.successions()

    def fetch(self, level: int, n: int, width: int) -> bytes:
        """A tile."""
        return self._tree.tile(level, n, width)

    def kept(self, _level: int, _n: int, _width: int = 256) -> None:
        """Nothing was kept."""

    def keep(self, level: int, n: int, data: bytes) -> None:
        """Keeps nothing."""

    def continues(self) -> None:
        """Keeps nothing."""

    def pages(self, size: int) -> Iterator[list[dict[str, Any]]]:
        """The records before `size`, page after page."""
        start = 0
        while start < size:
            with reading(self._engine) as session:
                page = read_range(session, start, size, WHOLE)
            if not page:
                return
            yield page
            start += len(page)

    def erasures(self, start: int, _end: int) -> Iterator[dict[str, Any]]:
        """The records of erasures from `start` on, as `pages` gives records."""
        with reading(self._engine) as session:
            indices = [each.idx for each in erasures.stored(session.connection(), by_trait=False)]
            for index in (each for each in indices if each >= start):
                yield from read_range(session, index, index + 1, WHOLE)


def signed_by(signer: NoteSigner) -> LogKeys:
    """The keys of a log that has had this one alone."""
    return LogKeys({signer.vkey: signer}, signer)
