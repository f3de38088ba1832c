"""The audit log: nothing takes effect before its record is durable.

A `Step` is what one request needs durable at once: the keys it claims, the change it makes, its records. `AuditLog`
commits steps in groups. An attacker who can write the database can add, change or remove rows here; the checkpoints
that outsiders hold show it (`broker.audit.tree`).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from sqlalchemy import Connection, Engine, Index, text
from sqlmodel import Field, Session, SQLModel, UniqueConstraint

from broker.audit.events import ABANDONED, Event, why_abandoned
from broker.audit.inputs import StoredInputs
from broker.audit.seals import Seals, not_continued
from broker.audit.traits import Key, Traits, human_of, key_of, note_spans, sort_in
from broker.db.claims import Claim, ClaimTaken, take
from broker.db.engine import BIG_INTEGER, execute, insert_rows, reading
from broker.db.reserve import DiskReserve
from broker.db.sqlite import is_full
from broker.db.writer import Failed, GroupWriter, no_probe
from broker.entropy import Entropy
from broker.errors import BrokerError, Unavailable
from broker.formats import record
from broker.formats.merkle import leaf_hash

log = logging.getLogger(__name__)

_TAGS_KEPT = 65_536
"""Agents whose last running number is kept in memory; the others' is read from the table."""

_NAMED = text("human <> ''")
"""Only records that name somebody beside their agent are in the index of those names."""

Change = Callable[[Session], object]


class RecordRow(SQLModel, table=True):
    """One entry with its groups beside it. `idx` is dense from 0: the entry's index in the tree.

    `trait` and `human` are what it is searched by (`broker.audit.traits`); 0 is a record that is not sorted in yet.
    """

    __tablename__ = "records"
    __table_args__ = (
        UniqueConstraint("agent_tag", "seq"),
        Index("ix_records_trait", "trait", "idx"),
        Index("ix_records_agent_trait", "agent", "trait", "idx"),
        Index("ix_records_human_trait", "human", "trait", "idx", sqlite_where=_NAMED, postgresql_where=_NAMED),
    )

    idx: int = Field(primary_key=True, sa_type=BIG_INTEGER, sa_column_kwargs={"autoincrement": False})
    at: float
    kind: str
    agent: str
    agent_tag: str
    seq: int = Field(sa_type=BIG_INTEGER)
    outcome: str
    model: str
    request_id: str = Field(index=True)
    entry: bytes
    leaf: bytes
    commitments: bytes
    groups: bytes
    trait: int = Field(default=0, sa_column_kwargs={"server_default": text("0")})
    human: str = Field(default="", sa_column_kwargs={"server_default": text("''")})


_COLUMNS = (
    "idx", "at", "kind", "agent", "agent_tag", "seq", "outcome", "model", "request_id", "entry", "leaf", "commitments",
    "groups", "trait", "human",
)  # fmt: skip
_LEAF = _COLUMNS.index("leaf")


@dataclass(frozen=True, slots=True)
class Step:
    """What one request needs durable before it may take effect.

    Args:
        events: its records, in order.
        claims: keys it takes; if one is held by another, nothing of the step happens.
        change: writes of its own in a session inside the transaction; it must not commit.
        landed: takes what the change returned into memory, on the loop, once it is durable, also when nobody waits for
            it any more: memory never differs from what is stored.
        closing: records the end of what was begun, and is written even while the broker winds down on a full disk.
    """

    events: tuple[Event, ...]
    claims: tuple[Claim, ...] = ()
    change: Change | None = None
    landed: Callable[[object], None] | None = None
    closing: bool = False


@dataclass(frozen=True, slots=True)
class Receipt:
    """A durable step: the indices of its records, and what its change returned."""

    indices: tuple[int, ...]
    result: object


@dataclass(frozen=True, slots=True)
class _Record:
    event: Event
    agent_tag: str
    root: bytes
    commitments: bytes
    groups: bytes
    key: Key
    human: str


@dataclass(frozen=True, slots=True)
class Prepared:
    """A step whose records are built: salted, committed to and encoded. What is left is their place in the log."""

    step: Step
    records: tuple[_Record, ...]


class AuditLog:
    """Appends, and knows nothing of reading. Fails closed: `Unavailable` when a step cannot be made durable.

    Args:
        engine: the database.
        tag_key: keys the pseudonym under which an agent stands in the public entry.
        entropy: salts.
        reserve: disk space held back; None where the database has a disk of its own, which it cannot help.
        timeout_s: how long a caller waits for its commit, under a second.
        probe: a test seam, see `GroupWriter`.

    Attributes:
        inputs, traits: what is stored of them; for the writer's thread alone, so for changes.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        tag_key: bytes,
        entropy: Entropy,
        reserve: DiskReserve | None,
        timeout_s: float,
        probe: Callable[[str], None] = no_probe,
    ) -> None:
        self._tag_key = tag_key
        self._seals = Seals(tag_key)
        self._entropy = entropy
        self._reserve = reserve
        self._owed: deque[Step] = deque()  # as many as there were calls under way: none begins that cannot be recorded
        self._tasks: set[asyncio.Task[None]] = set()
        sort_in(engine)
        with reading(engine) as session:
            self._size = stored_size(session.connection())
        self._next: int | None = self._size
        self._last: OrderedDict[str, int] = OrderedDict()
        self.inputs = StoredInputs()
        self.traits = Traits()
        self._proof: tuple[int, bytes] | None = None
        self._told = ""  # why the log cannot go on in this database, so that it is said once
        self._winding_down = reserve is not None and not reserve.hold()
        self._writer: GroupWriter[Prepared, Receipt] = GroupWriter(
            engine,
            apply=self._apply,
            landed=self._landed,
            settle=self._settle,
            abandoned=self._abandon,
            timeout_s=timeout_s,
            probe=probe,
        )

    @property
    def size(self) -> int:
        """How many entries are durable."""
        return self._size

    @property
    def owed(self) -> int:
        """How many ends could not be recorded yet."""
        return len(self._owed)

    @property
    def winding_down(self) -> bool:
        """True while the disk is full: only the ends of what was begun are recorded."""
        return self._winding_down

    @property
    def ready(self) -> bool:
        """Whether new steps can be recorded, as far as the last ones tell."""
        return not (self._winding_down or self._owed or self._writer.failing)

    async def record(self, step: Step) -> Receipt:
        """Waits until the step is durable; only then may it take effect.

        Raises:
            Unavailable: it is not durable; nothing may take effect.
            ClaimTaken: one of its claims is held by another; nothing was written.
            BrokerError: its change refused; nothing was written.
        """
        return await self.append(self.prepare(step))

    def prepare(self, step: Step) -> Prepared:
        """Builds the step's records; needs neither the database nor the writer."""
        return Prepared(step, tuple([self._built(event) for event in step.events]))

    async def append(self, prepared: Prepared) -> Receipt:
        """Waits until a prepared step is durable; see `record`."""
        step = prepared.step
        if self._winding_down and not step.closing:
            raise Unavailable("The disk is full. Nothing is issued until there is room for its record.")
        receipt = await self._writer.submit(prepared)
        if step.landed is not None:
            step.landed(receipt.result)
        return receipt

    async def close_later(self, step: Step) -> None:
        """Records the end of what was begun; when that fails, keeps it and tries again with `settle_owed`."""
        step = replace(step, closing=True)
        if not await self._ended(step):
            log.warning("the end of a request could not be recorded yet")
            self._owed.append(step)

    async def settle_owed(self) -> int:
        """Tries to record what is owed, and to win the reserve back; returns how many ends are still owed."""
        while self._owed and await self._ended(self._owed[0]):
            self._owed.popleft()
        if self._winding_down and self._reserve and not self._owed and await asyncio.to_thread(self._reserve.hold):
            self._winding_down = False
            log.warning("there is room on the disk again: normal service")
        return len(self._owed)

    async def _ended(self, step: Step) -> bool:
        """Records the end of what was begun; whether there is nothing left to do."""
        try:
            await self.record(step)
        except ClaimTaken:
            log.info("the end of a request was recorded already")
        except Unavailable:
            return False
        except BrokerError:
            log.exception("the end of a request can never be recorded; the next start finds it left open")
        return True

    def tag(self, agent: str) -> str:
        """The keyed pseudonym of a principal."""
        return agent_tag(self._tag_key, agent)

    def close(self) -> None:
        """Writes what waits and ends the writer."""
        self._writer.close()

    def _built(self, event: Event) -> _Record:
        groups = event.groups()
        salts = self._entropy(record.SALTS_BYTES)
        committed = record.commit_groups(groups, salts)
        stored = {
            name: (salts[16 * place : 16 * place + 16].hex(), content.decode())
            for place, (name, content) in enumerate(zip(record.GROUPS, committed.contents, strict=True))
        }
        key, human = key_of(str(event.kind), groups), human_of(groups)
        return _Record(
            event, self.tag(event.agent), committed.root, committed.commitments, orjson.dumps(stored), key, human
        )

    def _apply(self, connection: Connection, works: Sequence[Prepared]) -> list[Receipt | Failed]:
        """Runs on the writer's thread, inside the transaction."""
        lost = iter(take(connection, [work.step.claims for work in works if work.step.change is None]))
        outcomes: list[Receipt | Failed] = []
        placed: list[tuple[int, _Record]] = []
        self._load_sequences(connection, works)
        size = self._stored(connection) if self._next is None else self._next
        for work in works:
            result: object = None
            try:
                if work.step.change is not None:
                    result = _claim_and_change(connection, work.step.claims, work.step.change)
                elif (key := next(lost)) is not None:
                    raise ClaimTaken(key)
            except BrokerError as error:
                outcomes.append(Failed(error))
                continue
            indices = range(size, size + len(work.records))
            placed += zip(indices, work.records, strict=True)
            size = indices.stop
            outcomes.append(Receipt(tuple(indices), result))
        # only now, for a change may have erased inputs and combinations
        rows = [self._row(idx, built, self.traits.id_of(connection, built.key)) for idx, built in placed]
        self.inputs.store(connection, [(built.agent_tag, each) for _, built in placed for each in built.event.inputs])
        insert_rows(connection, "records", _COLUMNS, rows)
        self._seals.seal(connection, size - len(rows), [row[_LEAF] for row in rows])
        note_spans(connection, size - len(rows), size)
        self._next = size
        self._proof = (rows[-1][0], rows[-1][_LEAF]) if rows else None
        return outcomes

    def _stored(self, connection: Connection) -> int:
        """How many entries are stored after a failure: those durable before it, or its own batch, too. Fails closed."""
        size = stored_size(connection)
        if self._proof is not None and self._landed(connection):
            self._size = max(self._size, self._proof[0] + 1)  # its commit failed, and is stored all the same
        if size != self._size:
            refusal = not_continued(self._size, size)
            if refusal.detail != self._told:
                log.error(refusal.detail)
                self._told = refusal.detail
            raise refusal
        return size

    def _landed(self, connection: Connection) -> bool:
        """Whether the batch applied last is stored: its last leaf is like no other, for every entry is salted."""
        if self._proof is None:
            return False
        found = execute(connection, "SELECT leaf FROM records WHERE idx = ?", self._proof[:1]).scalar()
        return found is not None and bytes(found) == self._proof[1]

    def _row(self, idx: int, built: _Record, trait: int) -> tuple[Any, ...]:
        event, (kind, _, _, outcome, model, _) = built.event, built.key
        seq = self._last[built.agent_tag] = self._last[built.agent_tag] + 1
        entry = record.entry(kind, built.agent_tag, seq, built.root)
        return (
            idx, event.at_ms / 1000, kind, event.agent, built.agent_tag, seq, outcome, model, event.request_id,
            entry, leaf_hash(entry), built.commitments, built.groups, trait, built.human,
        )  # fmt: skip

    def _load_sequences(self, connection: Connection, works: Sequence[Prepared]) -> None:
        for tag in {built.agent_tag for work in works for built in work.records}:
            if tag in self._last:
                self._last.move_to_end(tag)
            else:
                found = execute(connection, "SELECT max(seq) FROM records WHERE agent_tag = ?", (tag,)).scalar()
                self._last[tag] = int(found) if found is not None else 0

    def _settle(self, error: Exception | None) -> None:
        """Runs on the writer's thread after each transaction: memory follows what the database did."""
        self.inputs.settle(committed=error is None)
        if error is None:
            self._size = self._next or 0
            while len(self._last) > _TAGS_KEPT:
                self._last.popitem(last=False)
            return
        self._last.clear()
        self.traits.forget()
        self._next = None  # read anew in the next transaction
        if self._reserve is not None and is_full(error) and not self._winding_down:
            self._winding_down = True
            self._reserve.release()
            log.error("the disk is full: only the ends of calls are recorded until there is room")

    def _abandon(self, work: Prepared, receipt: Receipt) -> None:
        """Runs on the loop: the commit landed after the caller had been told 503, or had left."""
        if work.step.landed is not None:
            work.step.landed(receipt.result)
        ends = tuple(
            replace(event, kind=end, remedy={"closes": idx, "why": why_abandoned(end)})
            for event, idx in zip(work.step.events, receipt.indices, strict=True)
            if (end := ABANDONED.get(event.kind)) is not None
        )
        if ends:
            task = asyncio.get_running_loop().create_task(self.close_later(Step(ends)))
            self._tasks.add(task)  # the loop holds tasks weakly
            task.add_done_callback(self._tasks.discard)


def agent_tag(key: bytes, agent: str) -> str:
    """The pseudonym of a principal under a key: HMAC-SHA256, 32 hex digits."""
    return hmac.digest(key, agent.encode(), hashlib.sha256)[:16].hex()


def stored_size(connection: Connection) -> int:
    """How many entries are stored, counted from the last one's index."""
    return int(execute(connection, "SELECT coalesce(max(idx), -1) + 1 FROM records").scalar_one())


def _claim_and_change(connection: Connection, claims: tuple[Claim, ...], change: Change) -> object:
    """Both or neither, and without touching what the rest of the batch does."""
    with connection.begin_nested():
        if (key := take(connection, [claims])[0]) is not None:
            raise ClaimTaken(key)
        with Session(bind=connection, expire_on_commit=False, join_transaction_mode="rollback_only") as session:
            result = change(session)
            session.flush()
            return result
