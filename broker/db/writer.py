"""The group-committing writer: many callers wait for one transaction, and each learns only of its own commit.

One thread takes whatever has queued up, applies it in one transaction, and answers after the commit. A caller that is
refused (its claim was taken, its change conflicts) is refused alone. A caller waits a bounded time; a commit that lands
after its caller left is handed to `abandoned`, so that the record can say that nobody received the effect. When the
database is lost in the middle of a COMMIT, nobody is answered, and nothing else is written, until it has said whether
that one landed.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from sqlalchemy import Connection, Engine

from broker.db.engine import FAILURES, InDoubt, writing
from broker.errors import BrokerError, Unavailable, Unconfirmed

log = logging.getLogger(__name__)

WorkT = TypeVar("WorkT")
ResultT = TypeVar("ResultT")

_ASKED_AGAIN_S = 0.5
"""How often a database that was lost in a COMMIT is asked about it while nobody else wants anything."""

_HANDED_OVER_AT_ONCE = 32
"""Works of one turn of the loop that are enough for a transaction of their own."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An outcome inside a batch: this caller alone gets `error` raised. Never seen outside the writer."""

    error: BrokerError


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[WorkT, ResultT]):
    work: WorkT
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[ResultT]


def no_probe(_point: str) -> None:
    """The probe of production: does nothing. Tests pass one that ends the process at a named point."""


class GroupWriter(Generic[WorkT, ResultT]):
    """Owns the one writing thread. Fails closed: no commit, no result.

    Args:
        engine: where to write.
        apply: applies a batch inside the transaction; gives one result or `Failed` a work, by position.
        landed: asked in a later transaction whether the batch applied last, whose commit was in doubt, is stored.
        settle: told on the thread whether the batch became durable, so that state in memory follows or falls back.
        abandoned: told on the loop of a work that became durable after its caller had left.
        timeout_s: how long a caller waits, under a second.
        capacity: how many works may wait; more are refused at once.
        max_batch: how many works one transaction takes.
        probe: called with "begun", "applied" and "committed"; a test seam.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        apply: Callable[[Connection, Sequence[WorkT]], list[ResultT | Failed]],
        landed: Callable[[Connection], bool],
        settle: Callable[[Exception | None], None],
        abandoned: Callable[[WorkT, ResultT], None],
        timeout_s: float,
        capacity: int = 4096,
        max_batch: int = 256,
        probe: Callable[[str], None] = no_probe,
    ) -> None:
        self._engine = engine
        self._apply = apply
        self._landed = landed
        self._settle = settle
        self._abandoned = abandoned
        self._timeout_s = timeout_s
        self._capacity = capacity
        self._max_batch = max_batch
        self._probe = probe
        self._failed = 0
        self._doubt: tuple[Sequence[_Waiting[WorkT, ResultT]], list[ResultT | Failed], InDoubt] | None = None
        self._closed = False
        self._gathered: dict[asyncio.AbstractEventLoop, list[_Waiting[WorkT, ResultT]]] = {}
        self._queue: queue.SimpleQueue[_Waiting[WorkT, ResultT] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="broker-writer", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> bool:
        """Whether the last transaction failed."""
        return self._failed > 0

    async def submit(self, work: WorkT) -> ResultT:
        """Waits until `work` is durable.

        Raises:
            Unconfirmed: not durable within the time; if the commit lands later all the same, `abandoned` hears of it.
            Unavailable: not durable, and it will not be.
            BrokerError: what `apply` said of this work alone; nothing of it was written.
        """
        loop = asyncio.get_running_loop()
        if self._closed or self._queue.qsize() + len(self._gathered.get(loop, ())) >= self._capacity:
            raise Unavailable("The broker cannot record more requests at the moment. Try again in a second.")
        waiting: _Waiting[WorkT, ResultT] = _Waiting(work, loop, loop.create_future())
        self._gather(waiting)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await waiting.future
        except TimeoutError:
            if _is_answered(waiting.future):  # in the very moment of the answer, which counts
                return waiting.future.result()
            raise Unconfirmed("The record could not be written in time, so nothing was done. Try again.") from None
        except asyncio.CancelledError:
            if _is_answered(waiting.future) and waiting.future.exception() is None:
                loop.call_soon(self._abandoned, work, waiting.future.result())
            raise

    def _gather(self, waiting: _Waiting[WorkT, ResultT]) -> None:
        """Hands over together what comes in one turn of the loop: a transaction costs more than they do."""
        gathered = self._gathered.setdefault(waiting.loop, [])
        gathered.append(waiting)
        if len(gathered) >= _HANDED_OVER_AT_ONCE:
            self._hand_over(waiting.loop)  # so that the loop goes on while these are written
        elif len(gathered) == 1:
            waiting.loop.call_soon(self._hand_over, waiting.loop)

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> None:
        for waiting in self._gathered.pop(loop, ()):
            self._queue.put(waiting)

    def close(self) -> None:
        """Writes what has queued up, then ends the thread; what comes later is refused at once."""
        self._closed = True
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_for_work = True
        while open_for_work:
            try:
                first = self._queue.get(timeout=None if self._doubt is None else _ASKED_AGAIN_S)
            except queue.Empty:
                self._resolve()
                continue
            batch: list[_Waiting[WorkT, ResultT]] = []
            while True:
                if first is None:
                    open_for_work = False
                    break
                if not first.future.done():  # a caller that left before the commit: nothing happens for it
                    batch.append(first)
                if len(batch) >= self._max_batch:
                    break
                try:
                    first = self._queue.get_nowait()
                except queue.Empty:
                    break
            if batch:
                self._commit(batch)
        self._resolve()

    def _commit(self, batch: Sequence[_Waiting[WorkT, ResultT]]) -> None:
        results: list[ResultT | Failed] = []
        if not self._resolve():
            self._fail(batch)
            return
        try:
            with writing(self._engine) as connection:
                self._probe("begun")
                batch = [waiting for waiting in batch if not waiting.future.done()]  # some left while it waited here
                results = self._apply(connection, [waiting.work for waiting in batch])
                self._probe("applied")
            self._probe("committed")
        except InDoubt as doubt:
            log.error("the database was lost in a commit; nothing is written before it is known whether it landed")
            self._failed += 1
            self._doubt = (batch, results, doubt)
            return
        except Exception as error:  # the thread must outlive whatever the database or a change throws
            self._settle(error)
            if len(batch) > 1 and not isinstance(error, FAILURES):
                log.warning("a batch failed and is written one by one", exc_info=error)
                for waiting in batch:
                    self._commit([waiting])
                return
            if not self._failed:
                log.error("nothing can be recorded, so nothing is granted, until this is mended", exc_info=error)
            self._fail(batch)
            return
        self._land(batch, results)

    def _resolve(self) -> bool:
        """Whether nothing is in doubt: asks the database about the commit that was, and answers its callers."""
        if self._doubt is None:
            return True
        batch, results, doubt = self._doubt
        try:
            with writing(self._engine) as connection:
                landed = self._landed(connection)
        except Exception as error:  # the thread must outlive whatever the database throws
            log.warning("whether the commit landed is not known yet", exc_info=error)
            return False
        self._doubt = None
        if landed:
            self._land(batch, results)
        else:
            self._settle(doubt)
            self._fail(batch)
        return True

    def _land(self, batch: Sequence[_Waiting[WorkT, ResultT]], results: Sequence[ResultT | Failed]) -> None:
        if self._failed:
            log.warning("records can be written again, after %d transactions that failed", self._failed)
            self._failed = 0
        self._settle(None)
        self._answer(batch, results)

    def _fail(self, batch: Sequence[_Waiting[WorkT, ResultT]]) -> None:
        self._failed += 1
        failure = Unavailable("The record could not be written, so nothing was done. Try again in a second.")
        self._answer(batch, [Failed(failure)] * len(batch))

    def _answer(self, batch: Sequence[_Waiting[WorkT, ResultT]], results: Sequence[ResultT | Failed]) -> None:
        """Wakes the callers: one call into each loop, however many wait there."""
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Waiting[WorkT, ResultT], ResultT | Failed]]] = {}
        for waiting, result in zip(batch, results, strict=True):
            by_loop.setdefault(waiting.loop, []).append((waiting, result))
        for loop, pairs in by_loop.items():
            try:
                loop.call_soon_threadsafe(self._release, pairs)
            except RuntimeError:  # the loop is closed: the process is ending and its callers are gone
                log.warning("%d callers were gone when their commit landed", len(pairs))

    def _release(self, pairs: Sequence[tuple[_Waiting[WorkT, ResultT], ResultT | Failed]]) -> None:
        for waiting, result in pairs:
            if not waiting.future.done():
                if isinstance(result, Failed):
                    waiting.future.set_exception(result.error)
                else:
                    waiting.future.set_result(result)
            elif not isinstance(result, Failed):  # in a turn of its own: whatever it throws, the others are answered
                waiting.loop.call_soon(self._abandoned, waiting.work, result)


def _is_answered(future: asyncio.Future[ResultT]) -> bool:
    return future.done() and not future.cancelled()
