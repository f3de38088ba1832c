"""What decisions were made from: stored once under its digest, no later than the first record that names it."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import Engine

from broker.audit import erasure, inputs
from broker.audit.erasure import Erased, Selection
from broker.audit.events import Event, Kind
from broker.audit.inputs import Input, Use
from broker.audit.log import AuditLog, Step
from broker.db.engine import execute, forget_old_pages, reading, writing
from broker.errors import BrokerError, Conflict
from tests.audit.logs import AT, check_rows, event, kinds, open_log, reader, remedies
from tests.fakes import FakeClock


def named(text: str) -> Input:
    """An input of this text."""
    return Input(hashlib.sha256(text.encode()).hexdigest(), text.encode())


A, B, C = named("a"), named("b"), named("c")
_LATER = FakeClock(AT + 5 * 86_400)


def decided(agent: str, *of: Input, at: float = AT) -> Event:
    """A record of decisions, the first in its group, the others inside that."""
    decision: dict[str, object] = {}
    for each in reversed(of):
        decision = {"entities": each.digest, "operator": decision}
    return event(agent, decision=decision, inputs=of, at=at)


async def erased(log: AuditLog, engine: Engine, *groups: str, agent: str = "a") -> Erased:
    """Erases groups of an agent's records of days ago."""
    return await erasure.erase(
        log, reader(engine), Selection(groups, agent, -1, AT + 1), "why", by="operator:o", request_id="r", clock=_LATER
    )


def uses(engine: Engine, log: AuditLog) -> set[tuple[str, bytes]]:
    """Whose records name what, as it is stored."""
    tags = {log.tag(agent): agent for agent in "ab"}
    with reading(engine) as session:
        rows = session.connection().exec_driver_sql("SELECT agent_tag, digest FROM slice_uses")
        return {(tags[tag], dict([A, B, C])[digest]) for tag, digest in rows}


def check_named(engine: Engine) -> None:
    """Every record that kept its groups names what is stored, and a use of it is."""
    with reading(engine) as session:
        connection = session.connection()
        found = list(execute(connection, "SELECT agent_tag, groups FROM records"))
        noted = {Use(*row) for row in execute(connection, "SELECT agent_tag, digest FROM slice_uses")}
    named = set[Use]().union(*(inputs.uses_of(tag, orjson.loads(groups)) for tag, groups in found))
    assert named <= noted
    assert {use.digest for use in noted} == set(stored(engine))


def stored(engine: Engine) -> dict[str, bytes]:
    """Everything that is stored, by digest."""
    with reading(engine) as session:
        rows = session.connection().exec_driver_sql("SELECT digest, content FROM entity_slices")
        return {str(digest): bytes(content) for digest, content in rows}


@pytest.fixture
def log(engine: Engine, tmp_path: Path) -> AuditLog:
    """A log that is closed by the tests that must."""
    return open_log(engine, tmp_path)


async def test_what_many_records_name_is_stored_once(engine: Engine, log: AuditLog, tmp_path: Path) -> None:
    """In one batch and in the next, and by the next run of the broker."""
    await asyncio.gather(*(log.record(Step((event(inputs=(A, B)), event(inputs=(A,))))) for _ in range(20)))
    await log.record(Step((event(inputs=(B,)),)))
    log.close()
    again = open_log(engine, tmp_path)
    await again.record(Step((event(inputs=(A, named("c"))),)))
    again.close()
    assert stored(engine) == dict([A, B, named("c")])
    assert len(kinds(engine)) == 42
    check_rows(engine)


async def test_what_a_refused_step_names_is_not_stored(engine: Engine, log: AuditLog) -> None:
    """Its record is not there, so nobody names it; and the next one that does stores it."""

    def refuse(_session: object) -> None:
        raise Conflict("no")

    with pytest.raises(BrokerError):
        await log.record(Step((event(inputs=(A,)),), change=refuse))
    assert stored(engine) == {}
    await log.record(Step((event(inputs=(A,)),)))
    log.close()
    assert stored(engine) == dict([A])


async def test_what_a_lost_transaction_named_is_stored_by_the_next(engine: Engine, tmp_path: Path) -> None:
    """A commit that failed is not taken for one that stored it."""
    failing = True

    def probe(point: str) -> None:
        if failing and point == "applied":
            raise OSError("no")

    log = open_log(engine, tmp_path, probe=probe)
    with pytest.raises(BrokerError):
        await log.record(Step((event(inputs=(A,)),)))
    failing = False
    await log.record(Step((event(inputs=(A,)),)))
    log.close()
    assert stored(engine) == dict([A])
    assert len(kinds(engine)) == 1


def test_what_is_not_there_is_left_out(engine: Engine) -> None:
    """Erased, or never stored."""
    with writing(engine) as connection:
        execute(connection, "INSERT INTO entity_slices (digest, content) VALUES (?, ?)", A)
    with reading(engine) as session:
        assert inputs.stored(session.connection(), [A.digest, B.digest]) == dict([A])


@pytest.mark.parametrize("group", sorted(inputs.KEEPING))
async def test_an_erasure_takes_what_nobody_else_names(engine: Engine, log: AuditLog, group: str) -> None:
    """Whichever of the groups is erased that it repeats; what another's records name stays, for those alone."""
    await log.record(Step((decided("a", A, B), decided("b", B))))
    await log.record(Step((decided("a", A, C),)))
    done = await erased(log, engine, group)
    assert (len(done.indices), done.inputs) == (2, 3)
    assert stored(engine) == dict([B])
    assert uses(engine, log) == {("b", B.content)}
    assert [remedy["inputs"] for remedy in remedies(engine, Kind.RECORDS_ERASED)] == [3]
    again = await erased(log, engine, group)
    assert (again.indices, again.inputs, again.record) == ((), 0, None)
    log.close()


async def test_what_other_groups_say_keeps_the_inputs(engine: Engine, log: AuditLog) -> None:
    """They are no part of them, and neither is erased what a newer record still names."""
    await log.record(Step((decided("a", A, B),)))
    await log.record(Step((decided("a", B, at=AT + 4.5 * 86_400),)))
    assert (await erased(log, engine, "request", "remedy")).inputs == 0
    assert stored(engine) == dict([A, B])
    assert (await erased(log, engine, "decision")).inputs == 1
    assert stored(engine) == dict([B])
    check_named(engine)
    log.close()


async def test_what_was_erased_is_stored_again_with_the_next_that_names_it(engine: Engine, log: AuditLog) -> None:
    """The memory of what is stored forgets it, and never points to what is not there."""
    await log.record(Step((decided("a", A),)))
    await erased(log, engine, "decision")
    assert stored(engine) == {}
    await log.record(Step((decided("a", A),)))
    assert stored(engine) == dict([A])
    check_named(engine)
    log.close()


@pytest.mark.parametrize("first", ["the record", "the erasure"])
async def test_a_record_in_the_transaction_of_an_erasure_keeps_its_inputs(
    engine: Engine, tmp_path: Path, first: str
) -> None:
    """Whichever comes first in it."""
    held, at = threading.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def probe(point: str) -> None:
        if point == "begun" and not held.is_set():
            loop.call_soon_threadsafe(at.set)
            held.wait()

    held.set()
    log = open_log(engine, tmp_path, probe=probe)
    await log.record(Step((decided("a", A),)))
    held.clear()
    blocking = asyncio.create_task(log.record(Step((event("b"),))))
    await at.wait()
    submitted = asyncio.Event()
    record, writer = log.record, log.record(Step((decided("a", A),)))
    waiting = []

    async def both(step: Step) -> object:
        """What the erasure records, beside the other record, in the order asked for."""
        ours = asyncio.ensure_future(record(step))
        order = (
            [asyncio.ensure_future(writer), ours] if first == "the record" else [ours, asyncio.ensure_future(writer)]
        )
        waiting.extend(order)
        submitted.set()
        return await ours

    log.record = both  # type: ignore[assignment,method-assign]  # to have both wait for one transaction
    erasing = asyncio.create_task(erased(log, engine, "decision"))
    await submitted.wait()
    held.set()
    done, _ = await asyncio.gather(erasing, blocking)
    await asyncio.gather(*waiting)
    assert done.inputs == 1
    assert stored(engine) == dict([A])
    check_named(engine)
    log.close()


async def test_an_erasure_that_a_record_came_before_does_nothing(engine: Engine, log: AuditLog) -> None:
    """Between the look and the transaction somebody named it again: neither groups nor inputs are gone."""
    await log.record(Step((decided("a", A),)))
    read = reader(engine)

    async def slow(query: Any) -> Any:
        found = await read(query)
        if isinstance(found, tuple) and found[1] == 0:  # all of it was looked through
            await log.record(Step((decided("a", A),)))
        return found

    chosen = Selection(("decision",), "a", -1, AT + 1)
    with pytest.raises(Conflict, match="Try again"):
        await erasure.erase(log, slow, chosen, "why", by="operator:o", request_id="r", clock=_LATER)
    assert kinds(engine) == ["CallRefused"] * 2
    check_rows(engine)
    check_named(engine)
    assert stored(engine) == dict([A])
    log.close()


async def test_two_erasures_at_once_leave_nothing_that_both_kept(engine: Engine, log: AuditLog) -> None:
    """Whoever comes second looks when the first is done: each would have seen the other's record keep the input."""
    await log.record(Step((decided("a", A, at=AT), decided("a", A, at=AT + 10))))
    second: list[asyncio.Task[Erased]] = []

    async def read(query: Any) -> Any:
        with reading(engine) as session:
            found = query(session)
        if isinstance(found, tuple) and found[1] == 0 and not second:  # all of it was looked through
            chosen = Selection(("who",), "a", 0, AT + 11)
            second.append(asyncio.create_task(_erase(log, read, chosen)))
            for _ in range(50):
                await asyncio.sleep(0)
        return found

    await _erase(log, read, Selection(("who",), "a", -1, AT + 1))
    await second[0]
    assert stored(engine) == {}


async def _erase(log: AuditLog, read: Any, selection: Selection) -> Erased:
    return await erasure.erase(log, read, selection, "why", by="operator:o", request_id="r", clock=_LATER)


@pytest.mark.parametrize("group", ["decision", "who"])
async def test_more_inputs_than_one_step_takes(
    engine: Engine, log: AuditLog, monkeypatch: pytest.MonkeyPatch, group: str
) -> None:
    """Are erased in several, each on record; the answers say to go on until nothing is left."""
    monkeypatch.setattr(erasure, "MAX_BATCH", 2)
    await log.record(Step(tuple(decided("a", named(str(n)), named(f"-{n}")) for n in range(3))))
    chosen, seen = Selection((group,), "a", -1, AT + 1), []
    after: int | None = -1
    while after is not None:
        chosen = Selection(chosen.groups, "a", after, AT + 1)
        done = await erasure.erase(log, reader(engine), chosen, "y", by="o", request_id="r", clock=_LATER)
        seen.append((len(done.indices), done.inputs))
        after = done.next
    assert seen == [(2, 0), (1, 2), (0, 2), (0, 2)]
    assert stored(engine) == {}
    log.close()


@pytest.mark.sqlite
async def test_what_was_erased_is_on_no_page_of_the_file(engine: Engine, log: AuditLog, tmp_path: Path) -> None:
    """Nor on those that became free, nor in the write-ahead log beside it: contents, and inputs of decisions."""
    secret = b"ada-of-the-night-shift"
    large = named(secret.decode() * 1000)  # on pages of its own
    records = [event("a", decision={"entities": large.digest, "n": n}, inputs=(large,)) for n in range(20)]
    told = [event("a", who={"agent": secret.decode(), "more": "x" * 6000}) for _ in range(20)]
    await log.record(Step((*records, *told)))
    forget_old_pages(engine)
    assert _files_with(tmp_path, secret) == ["broker.db"]
    await erased(log, engine, "who", "decision")
    forget_old_pages(engine)
    assert _files_with(tmp_path, secret) == []
    log.close()


def _files_with(folder: Path, text: bytes) -> list[str]:
    return [file.name for file in sorted(folder.glob("broker.db*")) if text in file.read_bytes()]
