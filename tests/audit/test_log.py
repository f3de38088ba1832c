"""The audit log: what a step makes durable together, numbers without gaps, refusals, late commits, owed ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from sqlmodel import Session

from broker.audit.events import ABANDONED, Kind
from broker.audit.log import AuditLog, Receipt, Step
from broker.db.claims import Claim, ClaimTaken, unexpired
from broker.db.engine import execute, reading, writing
from broker.errors import Conflict, Malformed, Unavailable
from broker.identity.instances import Instance, store
from tests.audit.logs import AT, SEALS, check_rows, event, kinds, open_log, remedies, rows
from tests.db.notes import Gate
from tests.faults import CappedDatabase, locked, until


@pytest.fixture
def log(engine: Engine, tmp_path: Path) -> Iterator[AuditLog]:
    """A log, closed at the end."""
    made = open_log(engine, tmp_path)
    yield made
    made.close()


def _claim(key: str) -> Claim:
    return Claim(key, "", AT + 60)


def _instance(session: Session, id: str = "i") -> str:
    store(session, Instance(id, "a", f"key of {id}", "platform", AT, AT))
    return f"stored {id}"


def _instances(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return [str(row[0]) for row in connection.exec_driver_sql("SELECT id FROM instances ORDER BY id")]


async def test_a_record_holds_what_its_event_says(log: AuditLog, engine: Engine) -> None:
    """The stored groups are the event's, under salts of their own; the entry names the agent by pseudonym only."""
    told = event("a", Kind.CALL_ADMITTED, what={"model": "m"}, decision={"outcome": "permit"}, at=AT + 0.5)
    await log.record(Step((told, told)))
    check_rows(engine)
    one, two = rows(engine)
    assert (one["outcome"], one["model"], one["agent"]) == ("permit", "m", "a")
    groups = {name: content for name, (_, content) in orjson.loads(one["groups"]).items() if content}
    assert groups == {
        "what": '{"model":"m"}',
        "decision": '{"outcome":"permit"}',
        "request": f'{{"at_ms":{int(AT * 1000) + 500},"id":"r"}}',
    }
    assert b'"a"' not in one["entry"]
    assert one["agent_tag"] == two["agent_tag"] == log.tag("a") != log.tag("b")
    assert one["commitments"] != two["commitments"]


async def test_several_events_are_one_step(log: AuditLog, engine: Engine) -> None:
    """A step's records stand together in order, and its receipt names their indices."""
    assert await log.record(Step((event("a"),))) == Receipt((0,), None)
    receipt = await log.record(Step((event("a", Kind.AGENT_ENROLLED), event("b"), event("a", Kind.TOKEN_ISSUED))))
    assert receipt.indices == (1, 2, 3)
    assert kinds(engine) == ["CallRefused", "AgentEnrolled", "CallRefused", "TokenIssued"]
    assert [row["seq"] for row in rows(engine)] == [1, 2, 1, 3]
    assert log.size == 4


async def test_numbers_go_on_after_a_restart(engine: Engine, tmp_path: Path) -> None:
    """Index and each agent's number continue where the last process stopped, without a gap and without a repeat."""
    for run in range(3):
        log = open_log(engine, tmp_path)
        assert log.size == 3 * run
        await asyncio.gather(*(log.record(Step((event(agent),))) for agent in "aab"))
        log.close()
    check_rows(engine)
    assert sorted((row["agent"], row["seq"]) for row in rows(engine)) == [
        *(("a", seq) for seq in range(1, 7)),
        *(("b", seq) for seq in range(1, 4)),
    ]


async def test_numbers_go_on_after_memory_forgot_them(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Agents whose last number is not kept in memory any more continue from the table."""
    monkeypatch.setattr("broker.audit.log._TAGS_KEPT", 2)
    log = open_log(engine, tmp_path)
    for agent in "abcabcab":
        await log.record(Step((event(agent),)))
    assert len(log._last) == 2
    log.close()
    check_rows(engine)


async def test_a_claim_held_by_another_leaves_nothing(log: AuditLog, engine: Engine) -> None:
    """A step that loses one key leaves no record, none of its other keys and no change, and says which key it was."""
    await log.record(Step((event(),), (_claim("used"),)))
    for change in (None, _instance):
        with pytest.raises(ClaimTaken) as taken:
            await log.record(Step((event(),), (_claim("free"), _claim("used")), change))
        assert taken.value.key == "used"
    assert len(rows(engine)) == 1
    assert [claim.key for claim in unexpired(engine, AT)] == ["used"]
    assert _instances(engine) == []


async def test_one_claim_has_one_winner_among_many(log: AuditLog, engine: Engine) -> None:
    """Of many steps that want the same key at once, with a change or without, exactly one is written."""
    steps = [Step((event(),), (_claim("wanted"),), _instance if number % 2 else None) for number in range(40)]
    outcomes = await asyncio.gather(*(log.record(step) for step in steps), return_exceptions=True)
    assert sum(isinstance(outcome, Receipt) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, ClaimTaken) for outcome in outcomes) == 39
    assert len(rows(engine)) == 1


async def test_a_change_comes_with_its_record(log: AuditLog, engine: Engine) -> None:
    """The step's own writes, its claims and its records are durable together, and the receipt brings its result."""
    receipt = await log.record(Step((event(),), (_claim("k"),), _instance))
    assert receipt == Receipt((0,), "stored i")
    assert _instances(engine) == ["i"]
    assert [claim.key for claim in unexpired(engine, AT)] == ["k"]


@pytest.mark.parametrize("error", [Conflict("it changed meanwhile"), ValueError("a mistake of ours")])
async def test_a_change_that_refuses_is_undone_alone(engine: Engine, tmp_path: Path, error: Exception) -> None:
    """Nothing of a refused or broken change stays, no record and no claim either; its neighbours in the batch do."""

    def refuse(session: Session) -> None:
        _instance(session, "undone")
        raise error

    gate = Gate()
    log = open_log(engine, tmp_path, probe=gate)
    gate.close("begun")
    first = asyncio.create_task(log.record(Step((event(),))))
    await gate.reached()
    steps = [
        Step((event("a"),), (_claim("before"),), lambda session: _instance(session, "before")),
        Step((event("a"),), (_claim("undone"),), refuse),
        Step((event("a"),), (_claim("undone"),), lambda session: _instance(session, "after")),
    ]
    others = [asyncio.create_task(log.record(step)) for step in steps]
    await asyncio.sleep(0)
    gate.open()
    await first
    before, refused, after = await asyncio.gather(*others, return_exceptions=True)
    assert isinstance(refused, Conflict if isinstance(error, Conflict) else Unavailable)
    assert (before, after) == (Receipt((1,), "stored before"), Receipt((2,), "stored after"))
    assert _instances(engine) == ["after", "before"]
    assert {claim.key for claim in unexpired(engine, AT)} == {"before", "undone"}
    check_rows(engine)
    log.close()


class _Broken:
    """A probe that makes the commit of a batch fail after everything was written, as often as it is told."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, point: str) -> None:
        if point == "applied" and self.times:
            self.times -= 1
            raise OperationalError("COMMIT", None, Exception("disk trouble"))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "refuse", "throw"])), max_size=6),
            st.integers(0, 2),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_whatever_fails_the_log_has_no_gap(
    engine: Engine, tmp_path: Path, rounds: list[tuple[list[tuple[str, str]], int, bool]]
) -> None:
    """Refusals, broken changes, taken claims, failed commits and restarts in any order: every record has its place."""

    async def play() -> None:
        written = len(rows(engine))
        probe = _Broken()
        log = open_log(engine, tmp_path, probe=probe)
        for steps, failures, restart in rounds:
            probe.times = failures
            outcomes = await asyncio.gather(*(log.record(_step(*step)) for step in steps), return_exceptions=True)
            written += sum(isinstance(outcome, Receipt) for outcome in outcomes)
            if restart:
                log.close()
                log = open_log(engine, tmp_path, probe=probe)
            probe.times = 0
        await log.record(Step((event("a"),)))
        log.close()
        assert log.size == written + 1 == len(rows(engine))
        check_rows(engine)

    asyncio.run(play())


def _step(agent: str, what: str) -> Step:
    def change(_session: Session) -> None:
        if what == "refuse":
            raise Conflict("no")
        if what == "throw":
            raise ValueError("a mistake of ours")

    return Step((event(agent),), (_claim(what),) if what == "x" else (), change if what not in ("", "x") else None)


async def _leave(log: AuditLog, gate: Gate, step: Step) -> None:
    """Records a step whose commit lands after its caller left."""
    gate.close("applied")
    task = asyncio.create_task(log.record(step))
    await gate.reached()
    task.cancel()
    await asyncio.wait([task])
    gate.open()


@pytest.mark.parametrize("kind", sorted(ABANDONED))
async def test_what_nobody_received_is_closed(engine: Engine, tmp_path: Path, kind: Kind) -> None:
    """A grant that became durable after its caller had left is followed by a record that closes it."""
    gate = Gate()
    log = open_log(engine, tmp_path, probe=gate)
    await _leave(log, gate, Step((event("b", Kind.AGENT_ENROLLED), event("a", kind, request_id="late"))))
    await until(lambda: len(rows(engine)) == 3)
    assert kinds(engine) == ["AgentEnrolled", kind, ABANDONED[kind]]
    closing = rows(engine)[2]
    assert (closing["agent"], closing["request_id"]) == ("a", "late")
    assert [remedy["closes"] for remedy in remedies(engine, ABANDONED[kind])] == [1]
    log.close()
    check_rows(engine)


async def test_a_late_refusal_needs_no_closing(engine: Engine, tmp_path: Path) -> None:
    """A record that granted nothing, durable too late, stands as it is."""
    gate = Gate()
    log = open_log(engine, tmp_path, probe=gate)
    await _leave(log, gate, Step((event("a", Kind.CALL_REFUSED),)))
    log.close()
    await asyncio.sleep(0)
    assert kinds(engine) == ["CallRefused"]
    assert log.owed == 0


async def test_memory_follows_what_is_durable(engine: Engine, tmp_path: Path) -> None:
    """`landed` hears once of every durable change, also of one whose caller had left, and of no other."""
    heard: list[object] = []
    gate = Gate()
    log = open_log(engine, tmp_path, probe=gate)
    await log.record(Step((event(),), change=lambda _session: "in time", landed=heard.append))

    def refuse(_session: Session) -> None:
        raise Conflict("no")

    with pytest.raises(Conflict):
        await log.record(Step((event(),), change=refuse, landed=heard.append))
    assert heard == ["in time"]
    await _leave(log, gate, Step((event(),), change=lambda _session: "late", landed=heard.append))
    await until(lambda: len(heard) == 2)
    assert heard == ["in time", "late"]
    log.close()


@pytest.mark.sqlite
async def test_a_full_disk_winds_down_and_recovers(log: AuditLog, engine: Engine, tmp_path: Path) -> None:
    """On a full disk the reserve is given up, beginnings are refused at once and ends are owed, until there is room."""
    database = CappedDatabase(engine)
    large = event("a", what={"text": "x" * 30_000})
    reserve = tmp_path / "reserve"
    assert reserve.exists()
    database.full = True
    with pytest.raises(Unavailable, match="could not be written"):
        await log.record(Step((large,)))
    assert (log.winding_down, reserve.exists()) == (True, False)
    begun = rows(engine)
    with pytest.raises(Unavailable, match="disk is full"):
        await log.record(Step((event("a"),)))
    await log.close_later(Step((event("a", Kind.CALL_COMPLETED, what={"text": "x" * 30_000}),)))
    assert (log.owed, await log.settle_owed(), log.winding_down) == (1, 1, True)
    assert rows(engine) == begun
    database.full = False
    assert (await log.settle_owed(), log.winding_down, reserve.exists()) == (0, False, True)
    await log.record(Step((event("a"),)))
    assert kinds(engine) == ["CallCompleted", "CallRefused"]
    check_rows(engine)


@pytest.mark.sqlite
async def test_ends_are_written_while_the_disk_is_full(log: AuditLog, engine: Engine, tmp_path: Path) -> None:
    """The room that the reserve gave up is for the ends of what was begun, while all else is refused."""
    database = CappedDatabase(engine)
    database.full = True
    with pytest.raises(Unavailable):
        await log.record(Step((event("a", what={"text": "x" * 30_000}),)))
    database.full = False
    with pytest.raises(Unavailable, match="disk is full"):
        await log.record(Step((event("a"),)))
    await log.close_later(Step((event("a", Kind.CALL_COMPLETED),)))
    assert kinds(engine) == ["CallCompleted"]
    assert log.owed == 0


@pytest.mark.sqlite
async def test_a_full_disk_is_noticed_inside_a_change(log: AuditLog, engine: Engine) -> None:
    """Also when it is a step's own change that found no room."""

    def fill(session: Session) -> None:
        for number in range(50):
            _instance(session, f"{number}" + "x" * 2000)

    database = CappedDatabase(engine)
    database.full = True
    with pytest.raises(Unavailable):
        await log.record(Step((event(),), change=fill))
    assert log.winding_down
    assert rows(engine) == []
    assert _instances(engine) == []


@pytest.mark.sqlite
async def test_a_start_on_a_full_disk_winds_down(engine: Engine, tmp_path: Path) -> None:
    """Without room for its reserve a log begins by refusing what begins, and still records ends."""
    (tmp_path / "reserve").mkdir()
    log = open_log(engine, tmp_path)
    with pytest.raises(Unavailable, match="disk is full"):
        await log.record(Step((event(),)))
    await log.close_later(Step((event("a", Kind.CALL_ABANDONED),)))
    (tmp_path / "reserve").rmdir()
    await log.settle_owed()
    assert not log.winding_down
    log.close()
    assert kinds(engine) == ["CallAbandoned"]


async def test_owed_ends_are_recorded_in_order(log: AuditLog, engine: Engine, tmp_path: Path) -> None:
    """Ends that could not be recorded while the database was held come later, each once, in their order."""
    ends = [Step((event("a", Kind.CALL_COMPLETED, request_id=f"{number}"),)) for number in range(3)]
    with locked(engine):
        await asyncio.gather(*(log.close_later(end) for end in ends))
    assert (log.owed, rows(engine)) == (3, [])
    assert await log.settle_owed() == 0
    assert await log.settle_owed() == 0
    assert [row["request_id"] for row in rows(engine)] == ["0", "1", "2"]


async def test_an_end_is_recorded_once(engine: Engine, tmp_path: Path) -> None:
    """An end that was given up on and landed all the same is not written again: its claim tells."""
    gate = Gate()
    log = open_log(engine, tmp_path, timeout_s=0.5, probe=gate)
    end = Step((event("a", Kind.CALL_COMPLETED),), (_claim("end:r"),))
    gate.close("applied")
    closing = asyncio.create_task(log.close_later(end))
    await gate.reached()
    await closing
    assert log.owed == 1
    gate.open()
    await until(lambda: log.size == 1)
    assert await log.settle_owed() == 0
    await log.close_later(end)
    assert (log.owed, kinds(engine)) == (0, ["CallCompleted"])
    log.close()


async def test_an_owed_end_is_not_lost_when_its_turn_is_cancelled(engine: Engine, tmp_path: Path) -> None:
    """The job that settles may be stopped in the middle: what was not recorded is still owed."""
    gate = Gate()
    log = open_log(engine, tmp_path, probe=gate)
    with locked(engine):
        await log.close_later(Step((event("a", Kind.CALL_COMPLETED),)))
    gate.close("begun")
    turn = asyncio.create_task(log.settle_owed())
    await gate.reached()
    turn.cancel()
    await asyncio.wait([turn])
    gate.open()
    assert (log.owed, await log.settle_owed()) == (1, 0)
    assert kinds(engine) == ["CallCompleted"]
    log.close()


async def test_an_end_that_can_never_be_recorded_blocks_nobody(log: AuditLog, engine: Engine) -> None:
    """An event that cannot be written at all is told to the operator and given up; it is not owed for ever."""
    await log.close_later(Step((event("a", Kind.CALL_COMPLETED, request={"count": 2**60}),)))
    assert log.owed == 0
    await log.close_later(Step((event("a", Kind.CALL_COMPLETED),)))
    assert kinds(engine) == ["CallCompleted"]
    with pytest.raises(Malformed):
        await log.record(Step((event("a", request={"count": 2**60}),)))


async def test_another_writers_records_are_never_overwritten(
    log: AuditLog, engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor are they gone on behind: nothing is recorded, and the log says which they are, until they are gone."""
    await log.record(Step((event("a"),)))
    columns = "at, kind, agent, agent_tag, outcome, model, request_id, entry, leaf, commitments, groups"
    with writing(engine) as connection:
        connection.exec_driver_sql(f"INSERT INTO records (idx, seq, {columns}) SELECT 1, 2, {columns} FROM records")
    for _ in range(3):
        with pytest.raises(Unavailable):
            await log.record(Step((event("a"),)))
    assert caplog.text.count("Record 1 was not written by this broker. Nothing is recorded after that") == 1
    assert (log.ready, len(rows(engine))) == (False, 2)
    with writing(engine) as connection:
        execute(connection, "DELETE FROM records WHERE idx = 1")
    assert (await log.record(Step((event("a"),)))).indices == (1,)
    assert [row["seq"] for row in rows(engine)] == [1, 2]


@pytest.mark.parametrize("landed", [True, False])
async def test_a_commit_that_failed_is_its_own_whether_it_landed_or_not(
    engine: Engine, tmp_path: Path, landed: bool
) -> None:
    """Rows that it finds after a failure are its own, or nobody's: it goes on behind them, again and again."""

    def probe(point: str) -> None:
        if failing and point == ("committed" if landed else "applied"):
            raise OperationalError("COMMIT", None, Exception("disk trouble"))

    failing, durable = False, 1
    log = open_log(engine, tmp_path, probe=probe)
    await log.record(Step((event("a"),)))
    for _ in range(2):
        failing = True
        for _ in range(2):
            with pytest.raises(Unavailable):
                await log.record(Step((event("a"),) * 3))
            durable += 3 * landed
        failing = False
        assert (await log.record(Step((event("a"),)))).indices == (durable,)
        durable += 1
    log.close()
    check_rows(engine)
    with reading(engine) as session:
        SEALS.check(session.connection(), 0, durable)
