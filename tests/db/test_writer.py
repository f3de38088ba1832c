"""The group-committing writer over a real database: company, refusals, poison, full queues, late commits, the end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from broker.db.sqlite import is_full
from broker.errors import Conflict, Unavailable
from tests.db.notes import Notes
from tests.faults import CappedDatabase, locked, until


class Thrower:
    """Stands where the abandoned are kept, and throws instead."""

    def append(self, told: tuple[str, str]) -> None:
        """Throws."""
        raise ValueError(f"told of {told[0]}")


@pytest.fixture
def notes(engine: Engine) -> Iterator[Notes]:
    """A writer of notes, closed at the end."""
    made = Notes(engine)
    yield made
    made.gate.open()
    made.writer.close()


async def test_many_callers_share_one_transaction(notes: Notes) -> None:
    """Whatever queued up while a commit ran becomes durable with the next one, each caller with its own result."""
    first = await notes.hold()
    others = await notes.queue(*(f"note {number}" for number in range(64)))
    notes.gate.open()
    assert await asyncio.gather(*others) == [f"note {number} at {number}" for number in range(64)]
    assert await first == "first at 0"
    assert notes.gate.points.count("committed") == 2
    assert notes.stored() == ["first", *(f"note {number}" for number in range(64))]


async def test_a_transaction_takes_a_bounded_batch(engine: Engine) -> None:
    """No batch is larger than `max_batch`, and order is kept across batches."""
    notes = Notes(engine, max_batch=4)
    first = await notes.hold()
    others = await notes.queue(*(f"{number}" for number in range(10)))
    notes.gate.open()
    await asyncio.gather(first, *others)
    assert [len(batch) for batch in notes.batches] == [1, 4, 4, 2]
    assert notes.stored() == ["first", *(f"{number}" for number in range(10))]
    notes.writer.close()


async def test_one_callers_refusal_is_its_own(notes: Notes) -> None:
    """A refused work raises for its caller alone; those before and after it in the batch are written."""
    await notes.hold()
    before, refused, after = await notes.queue("before", "no", "after")
    notes.gate.open()
    assert [await before, await after] == ["before at 0", "after at 2"]
    with pytest.raises(Conflict, match="refused at 1"):
        await refused
    assert notes.stored() == ["first", "before", "after"]


async def test_a_poison_work_fails_alone(notes: Notes) -> None:
    """A work that makes its batch throw costs the others nothing: they are written one by one, answered by position."""
    await notes.hold()
    before, poison, refused, after = await notes.queue("before", "poison", "no", "after")
    notes.gate.open()
    assert [await before, await after] == ["before at 0", "after at 0"]
    with pytest.raises(Unavailable, match="nothing was done"):
        await poison
    with pytest.raises(Conflict):
        await refused
    assert notes.stored() == ["first", "before", "after"]


async def test_a_caller_that_leaves_during_the_second_try_gets_nothing(notes: Notes) -> None:
    """Before a failed batch is written one by one, those who left meanwhile are let go."""
    await notes.hold()
    poison, left = await notes.queue("poison", "left")
    for _ in range(2):  # once for both, then for the poison alone
        notes.gate.close("begun")
        notes.gate.open()
        await notes.gate.reached()
    left.cancel()
    await asyncio.wait([left])
    notes.gate.open()
    with pytest.raises(Unavailable):
        await poison
    await notes.writer.submit("last")
    assert notes.stored() == ["first", "last"]
    assert notes.abandoned == []


async def test_a_full_queue_refuses_at_once(engine: Engine) -> None:
    """More than `capacity` waiting callers are refused without waiting; those in the queue are not harmed."""
    notes = Notes(engine, capacity=2)
    first = await notes.hold()
    waiting = await notes.queue("one", "two")
    with pytest.raises(Unavailable, match="cannot record more"):
        await notes.writer.submit("three")
    assert not first.done()
    notes.gate.open()
    await asyncio.gather(first, *waiting)
    assert notes.stored() == ["first", "one", "two"]
    notes.writer.close()


async def test_what_did_not_begin_in_time_does_not_happen(engine: Engine) -> None:
    """A caller told 503 before its work began can be sure: it is never applied, and nothing is abandoned."""
    notes = Notes(engine, timeout_s=0.05)
    first = await notes.hold()
    (late,) = await notes.queue("late")
    with pytest.raises(Unavailable, match="in time"):
        await late
    with pytest.raises(Unavailable):
        await first
    notes.gate.open()
    notes.writer.close()
    await asyncio.sleep(0)
    assert notes.stored() == []
    assert notes.abandoned == []


async def test_those_who_left_hold_up_nobody(engine: Engine) -> None:
    """No transaction is begun for callers that are gone: what comes after them does not wait for it."""
    notes = Notes(engine, max_batch=1)
    await notes.hold()
    gone = await notes.queue("one", "two", "three")
    for task in gone:
        task.cancel()
    await asyncio.wait(gone)
    notes.gate.open()
    await notes.writer.submit("last")
    assert notes.gate.points.count("begun") == 2
    assert notes.stored() == ["first", "last"]
    notes.writer.close()


@pytest.mark.sqlite
async def test_what_waited_in_vain_for_the_lock_does_not_happen(tmp_path: Path, engine: Engine) -> None:
    """While another process holds the database, a caller leaves in time, and its work is not applied afterwards."""
    notes = Notes(engine, timeout_s=0.05)
    with locked(engine), pytest.raises(Unavailable, match="in time"):
        await notes.writer.submit("late")
    notes.writer.close()
    await asyncio.sleep(0)
    assert notes.stored() == []
    assert notes.abandoned == []


async def test_a_commit_that_lands_after_its_caller_left_is_told(engine: Engine) -> None:
    """A caller whose time ran out in the middle of the commit is told 503; `abandoned` hears of the durable work."""
    notes = Notes(engine, timeout_s=0.05)
    late = await notes.hold("applied")
    with pytest.raises(Unavailable):
        await late
    notes.gate.open()
    notes.writer.close()
    await until(lambda: notes.abandoned == [("first", "first at 0")])
    assert notes.stored() == ["first"]


async def test_a_caller_that_left_harms_no_other(engine: Engine) -> None:
    """Whatever goes wrong when the left one is told of, the others of its batch get their answers."""
    notes = Notes(engine)
    await notes.hold()
    left, other = await notes.queue("left", "other")
    for point in ("begun", "applied"):  # of the second batch
        notes.gate.close(point)
        notes.gate.open()
        await notes.gate.reached()
    left.cancel()
    await asyncio.wait([left])
    notes.abandoned = Thrower()  # type: ignore[assignment]  # a list that throws
    caught: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: caught.append(context["exception"]))
    notes.gate.open()
    assert await other == "other at 1"
    await until(lambda: [str(error) for error in caught] == ["told of left"])
    notes.writer.close()


async def test_a_commit_that_lands_after_its_caller_was_cancelled_is_told(notes: Notes) -> None:
    """A client that hangs up in the middle of the commit leaves a durable work, and `abandoned` hears of it."""
    gone = await notes.hold("applied")
    gone.cancel()
    await asyncio.wait([gone])
    notes.gate.open()
    await notes.writer.submit("next")
    await until(lambda: notes.abandoned == [("first", "first at 0")])


def _wait_until_answered(notes: Notes, batches: int) -> None:
    """Blocks the loop until the answers of all batches but the last lie in its queue, unread."""
    while len(notes.settled) < batches:
        threading.Event().wait(0.001)


async def test_a_caller_cancelled_in_the_moment_of_its_answer_is_told(engine: Engine) -> None:
    """The answer and the cancellation meet in one turn of the loop: the work is durable, so `abandoned` hears of it."""
    notes = Notes(engine, max_batch=1)
    one, two = await notes.queue("one", "two")
    _wait_until_answered(notes, 2)
    asyncio.get_running_loop().call_soon(one.cancel)
    assert await two == "two at 0"
    assert one.cancelled()
    assert notes.stored() == ["one", "two"]
    await until(lambda: notes.abandoned == [("one", "one at 0")])
    notes.writer.close()


async def test_an_answer_that_meets_the_timeout_counts(engine: Engine) -> None:
    """The answer and the timeout meet in one turn of a busy loop: the work is durable, so its caller gets it."""
    notes = Notes(engine, max_batch=1, timeout_s=0.05)
    one, two, refused = await notes.queue("one", "two", "no")
    _wait_until_answered(notes, 3)
    threading.Event().wait(0.06)
    assert [await one, await two] == ["one at 0", "two at 0"]
    with pytest.raises(Conflict):
        await refused
    assert notes.abandoned == []
    notes.writer.close()


async def test_close_writes_what_waits(engine: Engine) -> None:
    """What queued up before the end is durable and answered; what comes after is refused at once."""
    notes = Notes(engine, timeout_s=60)
    first = await notes.hold()
    waiting = await notes.queue(*(f"{number}" for number in range(20)))
    ending = asyncio.create_task(asyncio.to_thread(notes.writer.close))
    notes.gate.open()
    await ending
    assert await asyncio.gather(first, *waiting)
    assert len(notes.stored()) == 21
    async with asyncio.timeout(5):
        with pytest.raises(Unavailable):
            await notes.writer.submit("too late")
    assert len(notes.stored()) == 21


@pytest.mark.sqlite
async def test_a_failed_commit_is_raised_and_the_next_one_works(notes: Notes) -> None:
    """A failure is never a result: every caller of the batch gets it raised, nothing is stored, the thread lives on."""
    database = CappedDatabase(notes.engine)
    await notes.hold()
    waiting = await notes.queue("one", "two" * 100_000)
    database.full = True
    notes.gate.open()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
    assert is_full(notes.settled[-1])
    database.full = False
    assert await notes.writer.submit("after") == "after at 0"
    assert notes.stored() == ["first", "after"]


async def test_a_locked_database_fails_within_a_second(tmp_path: Path, engine: Engine) -> None:
    """While another process holds the database every caller is told so within a second; then it goes on by itself."""
    notes = Notes(engine, timeout_s=0.9)
    with locked(engine):
        async with asyncio.timeout(3):
            with pytest.raises(Unavailable):
                await notes.writer.submit("locked out")
    assert await notes.writer.submit("after") == "after at 0"
    notes.writer.close()
    assert notes.stored() == ["after"]


async def test_trouble_shows_until_it_is_over(notes: Notes) -> None:
    """Whether the last transaction failed can be asked for."""
    seen = [notes.writer.failing]
    for work in ("poison", "no", "note"):
        await asyncio.wait([asyncio.create_task(notes.writer.submit(work))])
        seen.append(notes.writer.failing)
    assert seen == [False, True, False, False]


async def test_memory_is_told_of_every_outcome(notes: Notes) -> None:
    """`settle` hears of each transaction in order: durable as None, failed with its error."""
    await notes.writer.submit("one")
    with pytest.raises(Unavailable):
        await notes.writer.submit("poison")
    await notes.writer.submit("two")
    assert [type(error) for error in notes.settled] == [type(None), ValueError, type(None)]


async def test_callers_of_two_loops_are_answered_in_their_own(notes: Notes) -> None:
    """A batch of callers from several loops wakes each in its loop."""
    first = await notes.hold()
    elsewhere = asyncio.to_thread(asyncio.run, notes.writer.submit("elsewhere"))
    task = asyncio.create_task(elsewhere)
    (here,) = await notes.queue("here")
    notes.gate.open()
    assert (await first, (await task)[:9], (await here)[:4]) == ("first at 0", "elsewhere", "here")


async def test_a_loop_that_ended_does_not_stop_the_writer(notes: Notes) -> None:
    """Callers whose loop is closed are gone; the thread goes on for everybody else."""
    notes.gate.close("applied")

    async def leave() -> None:
        asyncio.get_running_loop().create_task(notes.writer.submit("gone"))
        await notes.gate.reached()

    await asyncio.to_thread(asyncio.run, leave())
    notes.gate.open()
    assert await notes.writer.submit("here") == "here at 0"
    assert notes.stored() == ["gone", "here"]
