"""Erasure: what a group said is gone for good, and everything that was proved stays proved."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from broker.audit.erasures import Erasures
from broker.audit.trail import open_calls, verify_bundle
from broker.db.engine import execute, forget_old_pages, writing
from broker.errors import Malformed
from broker.formats.note import NoteVerifier
from tests.build import AGENT, MODEL, Running, running
from tests.fakes import FakeClock

_DAY_S = 86_400
_POLICY = """
@id("admin-erases")
permit (principal, action in [Action::"erase", Action::"readTrail"], resource is Broker)
when { [Operator::"admin", Operator::"eve"].contains(principal) };
"""


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:
    """A broker with calls of two days ago, whose admin may erase."""
    async with running(tmp_path, clock=FakeClock()) as run:
        admin = await run.operator()
        world = run.world()
        await run.apply({**world, "policies": {**world["policies"], "erase.cedar": _POLICY}}, by=admin)
        agent = await run.agent()
        body = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}]}
        assert (await agent.post("/openai/v1/chat/completions", json=body)).status_code == 200
        run.clock.advance(2 * _DAY_S)  # type: ignore[attr-defined]  # it is the one above
        await run.check_log()
        yield run


async def _erase(run: Running, admin: httpx2.AsyncClient, *groups: str, agent: str = AGENT, **more: Any) -> Any:
    before_ms = int((run.clock.now() - _DAY_S) * 1000)
    body = {"agent": agent, "groups": groups, "before_ms": before_ms, "why": "request 4711", **more}
    return await admin.post("/api/v1/audit/erase", json=body)


async def _rows(run: Running) -> list[Any]:
    return await run.broker.read(
        lambda session: list(session.connection().exec_driver_sql("SELECT * FROM records ORDER BY idx").mappings())
    )


async def _places(run: Running, text: str) -> list[tuple[int, str]]:
    """Where in the table a text stands."""
    found = []
    for row in await _rows(run):
        for column, value in row.items():
            shown = bytes(value) if isinstance(value, bytes | memoryview) else str(value).encode()
            if text.encode() in shown:
                found.append((int(row["idx"]), str(column)))
    return found


async def test_what_was_erased_is_nowhere_and_all_proofs_hold(run: Running) -> None:
    """Neither in a group nor in a column; the log verifies from its public bytes and continues what was kept."""
    admin = await run.operator()
    before = [bytes(row["entry"]) for row in await _rows(run)]
    assert await _places(run, AGENT)
    done = await _erase(run, admin, "who", "for_whom", "what", "decision", "request")
    assert done.status_code == 200, done.text
    assert done.json()["erased"] == 4  # the agent, its token, the call, its end
    assert [place for place in await _places(run, f'"{AGENT}"') if place[1] != "groups"] == []
    erased = [row for row in await _rows(run) if "who" not in orjson.loads(row["groups"])]
    assert [row["kind"] for row in erased] == ["AgentEnrolled", "TokenIssued", "CallAdmitted", "CallCompleted"]
    for row in erased:
        assert set(orjson.loads(row["groups"])) == {"posture", "remedy"}
        assert (row["agent"], row["model"], row["outcome"], row["request_id"]) == ("", "", "", "")
        assert row["at"] % _DAY_S == 0
    assert [bytes(row["entry"]) for row in await _rows(run)][: len(before)] == before
    await run.check_log()
    bundle = (await admin.get(f"/api/v1/audit/records/{erased[0]['idx']}/bundle")).content
    proved = verify_bundle(bundle, NoteVerifier.parse(run.broker.log_key))
    assert "who" not in proved.groups
    assert "posture" in proved.groups


async def test_an_erasure_is_a_record(run: Running) -> None:
    """Who, which groups of which records, and why; not whose they were."""
    admin = await run.operator()
    done = (await _erase(run, admin, "who")).json()
    record = (await admin.get(f"/api/v1/audit/records/{done['record']}")).json()
    assert record["kind"] == "RecordsErased"
    assert record["groups"]["who"] == {"agent": "operator:admin"}
    remedy = record["groups"]["remedy"]
    assert (remedy["groups"], remedy["count"], remedy["why"]) == (["who"], 4, "request 4711")
    assert sum(last - first + 1 for first, last in remedy["records"]) == 4
    assert AGENT not in orjson.dumps(record["groups"]).decode()


async def test_what_is_left_can_be_erased_later(run: Running) -> None:
    """Though the name was erased first; and what is gone is not erased, or recorded, twice."""
    admin = await run.operator()
    assert (await _erase(run, admin, "who")).json()["erased"] == 4
    assert (await _erase(run, admin, "for_whom")).json()["erased"] == 4
    size = len(await _rows(run))
    again = (await _erase(run, admin, "who", "for_whom")).json()
    assert again == {"erased": 0, "inputs": 0, "record": None, "next": None}
    assert len(await _rows(run)) == size


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"groups": ["whom"]}, "Name the groups"),
        ({"groups": []}, "groups"),
        ({"agent": ""}, "agent"),
        ({"before_ms": 2**53 - 1}, "last day"),
        ({"agent": "broker"}, "the broker itself"),
        ({"agent": "operator:admin"}, "Nobody erases records of what they did themselves"),
        ({"why": ""}, "why"),
    ],
)
async def test_what_cannot_be_erased_is_refused(run: Running, change: dict[str, Any], text: str) -> None:
    """An unknown group, nobody's records, those of today, no reason: nothing is touched."""
    admin = await run.operator()
    before = await _places(run, AGENT)
    refused = await _erase(run, admin, "who", **change)
    assert refused.status_code == 400
    assert text in refused.text
    assert await _places(run, AGENT) == before


async def test_nobody_erases_unless_a_policy_says_so(tmp_path: Path) -> None:
    """Neither an admin nor an auditor; the wish is recorded."""
    async with running(tmp_path, clock=FakeClock()) as run:
        admin = await run.operator()
        answer = await _erase(run, admin, "who")
        assert answer.status_code == 403
        assert (await run.kinds())[-1] == "OperatorRefused"
        await run.check_log()


async def test_what_was_erased_stays_on_record(run: Running) -> None:
    """An erasure's own record is not erased: nobody hides by a second one what the first one took."""
    admin = await run.operator()
    record = (await _erase(run, admin, "who")).json()["record"]
    applied = await run.apply({"operators": {"eve": {"roles": ["auditor"], "new_link": True}}}, by=admin)
    eve = await run.operator("eve", link=applied["sign_in_links"]["eve"])
    run.clock.advance(3 * _DAY_S)  # type: ignore[attr-defined]  # it is the one above
    done = await _erase(run, eve, "who", "remedy", agent="operator:admin")
    assert done.json()["erased"] > 0
    groups = (await eve.get(f"/api/v1/audit/records/{record}")).json()["groups"]
    assert groups["who"] == {"agent": "operator:admin"}
    assert groups["remedy"]["why"] == "request 4711"


async def test_an_erased_call_is_not_left_open(run: Running) -> None:
    """Though its end came after what was erased: without its id nobody can tell, and nothing is made up."""
    admin = await run.operator()
    with writing(run.broker.engine) as connection:  # as if the end had come a day later
        execute(connection, "UPDATE records SET at = at + ? WHERE kind = 'CallCompleted'", (2.0 * _DAY_S,))
    assert (await _erase(run, admin, "request")).json()["erased"] == 3  # the agent, its token, the call
    assert await run.broker.read(open_calls) == []


async def test_what_is_gone_and_was_not_erased_is_told(run: Running) -> None:
    """Beside what was: a record shown names both, a search too, and nobody takes a bundle that hides it."""
    admin = await run.operator()
    done = (await _erase(run, admin, "who")).json()
    (place, other) = [int(row["idx"]) for row in await _rows(run) if row["kind"] in ("CallAdmitted", "CallCompleted")]
    with writing(run.broker.engine) as connection:
        stored = execute(connection, "SELECT groups FROM records WHERE idx = ?", (place,)).scalar_one()
        groups = orjson.loads(bytes(stored))
        del groups["what"]
        execute(connection, "UPDATE records SET groups = ? WHERE idx = ?", (orjson.dumps(groups), place))
    shown = (await admin.get(f"/api/v1/audit/records/{place}")).json()
    assert (shown["erased"], shown["missing"]) == ({"who": done["record"]}, ["what"])
    found = (await admin.get("/api/v1/audit/records", params={"kind": "CallAdmitted"})).json()["records"]
    assert [(each["erased"], each["missing"]) for each in found] == [(shown["erased"], shown["missing"])]
    refused = await admin.get(f"/api/v1/audit/records/{place}/bundle")
    assert refused.status_code == 409
    assert f"Record {place}: content and salt of what are missing" in refused.text
    assert (await admin.get(f"/api/v1/audit/records/{other}/bundle")).status_code == 200
    with pytest.raises(AssertionError, match="no record of an erasure says so"):
        await run.check_log()


async def test_an_erasure_that_was_altered_covers_nothing(run: Running) -> None:
    """Whoever takes a group, and has the record of an erasure name it, is found: its entry commits to no such thing."""
    admin = await run.operator()
    record = (await _erase(run, admin, "who")).json()["record"]
    rows = await _rows(run)
    place = next(row["idx"] for row in rows if row["kind"] == "CallAdmitted")
    taken, erasing = orjson.loads(bytes(rows[place]["groups"])), orjson.loads(bytes(rows[record]["groups"]))
    del taken["what"]
    erasing["remedy"][1] = erasing["remedy"][1].replace('"who"', '"who","what"')
    with writing(run.broker.engine) as connection:
        for idx, groups in ((place, taken), (record, erasing)):
            execute(connection, "UPDATE records SET groups = ? WHERE idx = ?", (orjson.dumps(groups), idx))
    shown = (await admin.get(f"/api/v1/audit/records/{place}")).json()
    (found,) = (await admin.get("/api/v1/audit/records", params={"kind": "CallAdmitted"})).json()["records"]
    assert (shown["erased"], shown["missing"]) == (found["erased"], found["missing"]) == ({}, ["who", "what"])
    assert (await admin.get(f"/api/v1/audit/records/{place}/bundle")).status_code == 409


@pytest.mark.parametrize("records", [[[3, 5]], [[5, 5]], [[3, 2]], [[-1, 0]], [[0, 1], [4, 9]], [0, 1], "0-1", None])
def test_an_erasure_covers_records_before_it_and_no_others(records: object) -> None:
    """One that names itself, what came after it, or no ranges is no erasure."""
    with pytest.raises(Malformed, match="Record 5"):
        Erasures().add(5, {"groups": ["who"], "records": records})
    Erasures().add(5, {"groups": ["who"], "records": [[0, 4]]})


@pytest.mark.sqlite
async def test_no_salt_of_what_was_erased_is_left_in_any_file(run: Running, tmp_path: Path) -> None:
    """Once it is answered, not only when somebody writes next: neither in the database nor in its journal."""
    admin = await run.operator()
    salts = {
        orjson.loads(row["groups"])[name][0].encode()
        for row in await _rows(run)
        if row["agent"] == AGENT
        for name in ("who", "what")
    }
    forget_old_pages(run.broker.engine)
    assert _in_files(tmp_path, salts) == {"broker.db": salts}
    assert (await _erase(run, admin, "who", "what")).json()["erased"] == len(salts) // 2
    assert _in_files(tmp_path, salts) == {}


def _in_files(folder: Path, texts: set[bytes]) -> dict[str, set[bytes]]:
    """Which of the texts are in which files of the database."""
    files = {file.name: file.read_bytes() for file in (folder / "data").glob("broker.db*")}
    found = {name: {text for text in texts if text in content} for name, content in files.items()}
    return {name: there for name, there in found.items() if there}
