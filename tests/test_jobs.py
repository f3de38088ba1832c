"""Periodic work: each job does its own, fails alone, and stops with the broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlmodel import Session

from broker import jobs, migrations
from broker.assembly import Broker, assemble
from broker.audit.events import Event, Kind
from broker.audit.log import Step
from broker.audit.refusals import MAX_COUNTED
from broker.db.claims import Claim, unexpired
from broker.errors import Unavailable
from broker.formats import checkpoint
from broker.identity import instances
from broker.identity.instances import Instance
from tests.audit.logs import check_rows, kinds, rows
from tests.build import settings_for
from tests.fakes import FakeClock
from tests.faults import CappedDatabase, locked, until


@pytest.fixture
def clock() -> FakeClock:
    """The broker's time."""
    return FakeClock()


@pytest.fixture
async def broker(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Broker]:
    """A started broker without HTTP and without running jobs."""
    made = assemble(settings_for(tmp_path), prepare=migrations.upgrade, clock=clock)
    await made.start()
    yield made
    await made.close()


def _event(broker: Broker, kind: Kind = Kind.CALL_REFUSED) -> Event:
    return Event(kind, agent="a", at=broker.clock.now(), request_id="r")


async def test_the_checkpoint_follows_the_log(broker: Broker) -> None:
    """What was recorded is under the newest checkpoint after the next turn."""
    await broker.audit.record(Step((_event(broker), _event(broker))))
    await jobs.integrate(broker)
    assert checkpoint.parse_unverified(broker.tree.head()).size == broker.audit.size == len(rows(broker.engine))


async def test_refusals_are_recorded_after_their_minute(broker: Broker, clock: FakeClock) -> None:
    """Counted refusals become records once, when their minute is over, and not one by one."""
    before = len(rows(broker.engine))
    for _ in range(1000):
        broker.refusals.count("192.0.2.1", "invalid_request", clock.now())
    await jobs.write_refusals(broker)
    assert len(rows(broker.engine)) == before
    clock.advance(60)
    for _ in range(2):
        await jobs.write_refusals(broker)
    assert kinds(broker.engine)[before:] == ["RefusalsCounted"]


async def test_many_refusals_are_recorded_in_parts(broker: Broker, clock: FakeClock) -> None:
    """The most that one minute can hold is recorded whole, a bounded number of records in a step."""
    for number in range(2 * MAX_COUNTED):
        broker.refusals.count(f"{number}", "invalid_request", clock.now())
    clock.advance(60)
    await jobs.write_refusals(broker)
    assert kinds(broker.engine).count("RefusalsCounted") == MAX_COUNTED + 1
    check_rows(broker.engine)


@pytest.mark.sqlite
async def test_strangers_do_not_get_the_last_of_the_disk(broker: Broker, clock: FakeClock) -> None:
    """While the broker winds down their refusals are only counted; when there is room again none is missing."""
    database = CappedDatabase(broker.engine)
    database.full = True
    large = Event(Kind.CALL_REFUSED, agent="a", at=0, request_id="r", what={"text": "x" * 30_000})
    with pytest.raises(Unavailable):
        await broker.audit.record(Step((large,)))
    database.full = False
    broker.refusals.count("192.0.2.1", "invalid_request", clock.now())
    clock.advance(60)
    await jobs.write_refusals(broker)
    assert "RefusalsCounted" not in kinds(broker.engine)
    await jobs.settle(broker)
    await jobs.write_refusals(broker)
    assert kinds(broker.engine)[-1] == "RefusalsCounted"


async def test_what_was_owed_is_settled_first(broker: Broker, clock: FakeClock) -> None:
    """Ends of calls that could not be recorded come before the refusals of strangers, which wait."""
    with locked(broker.engine):
        await broker.audit.close_later(Step((_event(broker, Kind.CALL_COMPLETED),)))
    broker.refusals.count("192.0.2.1", "invalid_request", clock.now())
    clock.advance(60)
    await jobs.write_refusals(broker)
    assert kinds(broker.engine)[-1] == "BrokerStarted"
    await jobs.settle(broker)
    await jobs.write_refusals(broker)
    assert kinds(broker.engine)[-2:] == ["CallCompleted", "RefusalsCounted"]


async def test_what_has_ended_is_pruned(broker: Broker, clock: FakeClock) -> None:
    """Claims and instances go at their end, from the table and from memory; every record stays."""
    now = clock.now()
    ending = Instance("ending", "a", "key 1", "platform", now, now + 10)
    lasting = Instance("lasting", "a", "key 2", "platform", now, now + 11)
    claims = tuple(Claim(f"{number:04}", "", now + 10) for number in range(2_500))

    def store(session: Session) -> None:
        for instance in (ending, lasting):
            instances.store(session, instance)

    await broker.audit.record(Step((_event(broker),), (*claims, Claim("lasting", "", now + 11)), store))
    for instance in (ending, lasting):
        broker.instances.remember(instance)
    clock.advance(9.999)
    await jobs.prune(broker)
    assert (len(unexpired(broker.engine, 0)), len(broker.instances)) == (2_501, 2)
    clock.advance(0.001)
    await jobs.prune(broker)
    assert [claim.key for claim in unexpired(broker.engine, 0)] == ["lasting"]
    assert broker.instances.of("a") == [lasting]
    with broker.engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT id FROM instances").scalars().all() == ["lasting"]
    assert len(rows(broker.engine)) == broker.audit.size


async def test_a_job_that_fails_fails_alone(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again in its next turn, the others go on, and all of them end with the block."""
    turns = {"failing": 0, "fine": 0}

    async def failing(_broker: Broker) -> None:
        turns["failing"] += 1
        raise ValueError("a mistake of ours")

    async def fine(_broker: Broker) -> None:
        turns["fine"] += 1

    monkeypatch.setattr(jobs, "SCHEDULE", ((0.001, failing), (0.001, fine)))
    async with jobs.running(broker):
        await until(lambda: min(turns.values()) >= 3)
    after = dict(turns)
    await asyncio.sleep(0.02)
    assert turns == after


async def test_an_error_in_the_block_is_not_swallowed(broker: Broker) -> None:
    """Jobs stop, and what ended the block goes on its way."""

    async def block() -> None:
        async with jobs.running(broker):
            raise KeyError("from the block")

    with pytest.raises(ExceptionGroup) as failure:
        await block()
    assert [repr(error) for error in failure.value.exceptions] == ["KeyError('from the block')"]


def test_every_job_is_on_the_schedule() -> None:
    """Nothing that must happen from time to time is forgotten; the checkpoint comes at least every second."""
    periods = {job.__name__: period for period, job in jobs.SCHEDULE}
    assert set(periods) == {"integrate", "settle", "write_refusals", "prune", "rotate_keys"}
    assert periods["integrate"] <= 1
    assert periods["settle"] <= 1
