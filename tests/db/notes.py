"""A group-committing writer of notes, with a gate that holds its thread at a chosen point: no test waits for luck."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from sqlalchemy import Connection, Engine

from broker.db.engine import execute, reading, writing
from broker.db.writer import Failed, GroupWriter
from broker.errors import Conflict


class Gate:
    """A probe that notes every point, and stops the writer's thread at one of them until it is opened."""

    def __init__(self) -> None:
        self.points: list[str] = []
        self._at = ""
        self._reached = threading.Event()
        self._opened = threading.Event()

    def close(self, point: str) -> None:
        """Stops the thread the next time it comes to `point`."""
        self._reached = threading.Event()
        self._at = point

    def __call__(self, point: str) -> None:
        """What the writer calls."""
        self.points.append(point)
        if point == self._at:
            self._at = ""
            self._opened = opened = threading.Event()
            self._reached.set()
            assert opened.wait(10)

    async def reached(self) -> None:
        """Waits until the thread stands at the gate."""
        assert await asyncio.to_thread(self._reached.wait, 10)

    def open(self) -> None:
        """Lets the thread go on from where it stands."""
        self._opened.set()


async def turns() -> None:
    """Lets callers hand their works over: they submit in one turn of the loop, and the writer has them in the next."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


class Notes:
    """The writer under test over a table of its own, and everything that it told.

    A note "no" is refused alone; a note "poison" makes the whole batch throw; any other becomes a row, and its result
    is the note with its place in the batch.

    Args:
        engine: the database.
        timeout_s, capacity, max_batch: see `GroupWriter`.
    """

    def __init__(self, engine: Engine, *, timeout_s: float = 5.0, capacity: int = 4096, max_batch: int = 256) -> None:
        with writing(engine) as connection:
            connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS notes (place INTEGER, text TEXT)")
        self.engine = engine
        self.gate = Gate()
        self.settled: list[Exception | None] = []
        self.batches: list[list[str]] = []
        self.abandoned: list[tuple[str, str]] = []
        self.writer: GroupWriter[str, str] = GroupWriter(
            engine,
            apply=self._apply,
            landed=self._landed,
            settle=self.settled.append,
            abandoned=lambda work, result: self.abandoned.append((work, result)),
            timeout_s=timeout_s,
            capacity=capacity,
            max_batch=max_batch,
            probe=self.gate,
        )

    def _apply(self, connection: Connection, works: Sequence[str]) -> list[str | Failed]:
        self.batches.append(list(works))
        if "poison" in works:
            raise ValueError("this batch cannot be written")
        for work in works:
            if work != "no":
                execute(connection, "INSERT INTO notes VALUES ((SELECT count(*) FROM notes), ?)", (work,))
        return [
            Failed(Conflict(f"refused at {place}")) if work == "no" else f"{work} at {place}"
            for place, work in enumerate(works)
        ]

    def _landed(self, connection: Connection) -> bool:
        """Whether the last note of the last batch is stored; notes in doubt are unlike all others."""
        return execute(connection, "SELECT 1 FROM notes WHERE text = ?", (self.batches[-1][-1],)).first() is not None

    def stored(self) -> list[str]:
        """Every note that is durable, in order."""
        with reading(self.engine) as session:
            rows = session.connection().exec_driver_sql("SELECT text FROM notes ORDER BY place")
            return [str(row[0]) for row in rows]

    async def hold(self, point: str = "begun") -> asyncio.Task[str]:
        """Stops the thread at a point of a first batch, so that what comes next queues up behind it."""
        self.gate.close(point)
        task = asyncio.create_task(self.writer.submit("first"))
        await self.gate.reached()
        return task

    async def queue(self, *works: str) -> list[asyncio.Task[str]]:
        """Submits works that are in the queue, in this order, when this returns."""
        tasks = [asyncio.create_task(self.writer.submit(work)) for work in works]
        await turns()
        return tasks
