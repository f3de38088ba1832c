"""A record that was altered in the database: every door names it, and shows the others."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest

from broker.audit.stored_record import MAX_DEPTH, all_readable, at_ms, readable_groups
from broker.db.engine import execute, writing
from broker.formats.record import GROUPS
from tests.audit.packages import fetched, unpacked, verified
from tests.build import AGENT, MODEL, Running, running
from tests.fakes import FakeClock

_DAY_S = 86_400
_POLICY = """
@id("admin-erases")
permit (principal == Operator::"admin", action == Action::"erase", resource is Broker);
"""
_SALT = "0a" * 16


@pytest.fixture
async def run(tmp_path: Path) -> AsyncIterator[Running]:
    """A broker with a call of two days ago."""
    async with running(tmp_path, clock=FakeClock()) as run:
        run.whole_records = False
        admin = await run.operator()
        world = run.world()
        await run.apply({**world, "policies": {**world["policies"], "erase.cedar": _POLICY}}, by=admin)
        agent = await run.agent()
        body = {"model": MODEL, "messages": [{"role": "user", "content": "one two"}]}
        assert (await agent.post("/openai/v1/chat/completions", json=body)).status_code == 200
        run.clock.advance(2 * _DAY_S)  # type: ignore[attr-defined]  # it is the one above
        run.broker.tree.integrate()
        yield run


def _alter(run: Running, column: str, change: Callable[[Any], object]) -> int:
    """Alters a column of the call's record; gives its index."""
    with writing(run.broker.engine) as connection:
        statement = f"SELECT idx, {column} FROM records WHERE kind = 'CallAdmitted'"
        idx, was = execute(connection, statement).one()
        execute(connection, f"UPDATE records SET {column} = ? WHERE idx = ?", (change(was), idx))
    return int(idx)


def _with(name: str, *pair: object) -> Callable[[bytes], bytes]:
    return lambda stored: orjson.dumps({**orjson.loads(stored), name: list(pair)})


_UNREADABLE: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "no UTF-8": (lambda _: b"\xff\xfe", GROUPS),
    "nothing": (lambda _: b"", GROUPS),
    "a list": (lambda _: b"[]", GROUPS),
    "null": (lambda _: b"null", GROUPS),
    "a number for a group": (_with("who", 5), ("who",)),
    "a salt of another alphabet": (_with("who", "zz" * 16, "{}"), ("who",)),
    "a salt cut short": (_with("who", _SALT[:-1], "{}"), ("who",)),
    "content that is no JSON": (_with("decision", _SALT, "{{"), ("decision",)),
    "content that is no object": (_with("decision", _SALT, '"x"'), ("decision",)),
    "content of great depth": (_with("what", _SALT, '{"a":' * 900 + "1" + "}" * 900), ("what",)),
}


@pytest.mark.parametrize("how", _UNREADABLE)
async def test_an_unreadable_record_is_named_and_hides_no_other(run: Running, how: str, tmp_path: Path) -> None:
    """A search shows its page, a record what is left; what would prove or hand it on says which record it is."""
    admin = await run.operator()
    before = (await admin.get("/api/v1/audit/records", params={"limit": 500})).json()["records"]
    change, gone = _UNREADABLE[how]
    place = _alter(run, "groups", change)
    path = f"/api/v1/audit/records/{place}"
    page = (await admin.get("/api/v1/audit/records", params={"limit": 500})).json()["records"]
    assert [each for each in page if each["index"] in {was["index"] for was in before} - {place}] == [
        each for each in before if each["index"] != place
    ]
    shown = (await admin.get(path)).json()
    assert [each for each in page if each["index"] == place] == [shown]
    assert (shown["missing"], sorted(shown["groups"])) == (list(gone), sorted(_said(before, place) - {*gone}))

    bundle = await admin.get(f"{path}/bundle")
    assert bundle.status_code == 409
    told = f"Record {place}: content and salt of {', '.join(gone)} are missing"
    assert told in bundle.json()["detail"]
    lines = [orjson.loads(line) for line in (await admin.get("/api/v1/audit/export")).text.splitlines()]
    assert [each["index"] for each in lines[:-1]] == list(range(place))
    end = lines[-1]["export"]
    assert (end["error"], end["cursor"].split(":")[0]) == ("group_missing", str(place))
    assert told in end["detail"]
    entries = (await admin.get("/api/v1/audit/entries", params={"start": 0, "end": 99})).json()["entries"]
    assert [each["index"] for each in entries if each["groups"] is None] == [place]

    package = unpacked(await fetched(admin), tmp_path / "package")
    (tmp_path / "key").write_text(run.broker.log_key)
    code, said = verified(package, str(tmp_path / "key"))
    assert (code, f"record {place}: {', '.join(sorted(gone))} are missing" in said) == (1, True), said


def _said(records: list[dict[str, Any]], index: int) -> set[str]:
    return next(set(each["groups"]) for each in records if each["index"] == index)


async def _erase(run: Running, admin: httpx2.AsyncClient) -> httpx2.Response:
    before_ms = int((run.clock.now() - _DAY_S) * 1000)
    body = {"agent": AGENT, "groups": ["who"], "before_ms": before_ms, "why": "request 4711"}
    return await admin.post("/api/v1/audit/erase", json=body)


async def test_nothing_is_erased_beside_an_unreadable_record(run: Running) -> None:
    """It may hold what is to be erased, and nobody can tell: the text names it, and nothing is done by halves."""
    admin = await run.operator()
    was: list[bytes] = []

    def garbage(stored: bytes) -> bytes:
        was.append(stored)
        return b"\xff"

    place = _alter(run, "groups", garbage)
    refused = await _erase(run, admin)
    assert (refused.status_code, f"Record {place}: its groups cannot be read" in refused.text) == (409, True)
    _alter(run, "groups", lambda _: was[0])
    assert (await _erase(run, admin)).json()["erased"] == 4


@pytest.mark.parametrize("at", [math.inf, -math.inf, 1e300, -5.0])
async def test_a_time_that_no_calendar_has_hides_nothing(run: Running, at: float, tmp_path: Path) -> None:
    """Search, record, export and package show the record under a time that they have."""
    admin = await run.operator()
    place = _alter(run, "at", lambda _: at)
    expected = 0 if at < 0 else 253_402_300_799_000
    found = (await admin.get("/api/v1/audit/records", params={"kind": "CallAdmitted"})).json()["records"]
    assert [(each["index"], each["at_ms"]) for each in found] == [(place, expected)]
    assert (await admin.get(f"/api/v1/audit/records/{place}")).json()["at_ms"] == expected
    lines = (await admin.get("/api/v1/audit/export", params={"kind": "CallAdmitted"})).text.splitlines()
    assert orjson.loads(lines[0])["at_ms"] == expected
    page = unpacked(await fetched(admin), tmp_path / "package") / "index.html"
    assert ("9999-12-31" if expected else "1970-01-01") in page.read_text()


def test_only_groups_that_can_be_read_are() -> None:
    """Of another name, or with something beside salt and content, it is none; one that the record never had is."""
    good = {"who": [_SALT, "{}"], "what": [_SALT, ""], "request": [_SALT, _deep(MAX_DEPTH)]}
    assert readable_groups(orjson.dumps(good)) == {name: tuple(pair) for name, pair in good.items()}
    assert all_readable(orjson.dumps(good)) == readable_groups(orjson.dumps(good))
    for name, pair in {"evil": [_SALT, "{}"], "for_whom": [_SALT, "{}", ""], "posture": [_SALT, _deep(65)]}.items():
        stored = orjson.dumps({**good, name: pair})
        assert (set(readable_groups(stored)), all_readable(stored)) == (set(good), None)
    wide = orjson.dumps({"who": [_SALT, '{"a":' + _wide(100) + "}"]})
    assert readable_groups(wide).keys() == {"who"}
    assert (all_readable(wide) or {}).keys() == {"who"}
    wrong: dict[str, object] = {"salt": [_SALT[1:], "{}"], "dict": {_SALT: 1, "{}": 2}, "list": [_SALT, "[]"]}
    for name, other in wrong.items():
        assert readable_groups(orjson.dumps({"who": other})) == {}, name


def test_no_content_reaches_into_another() -> None:
    """Two that are an object each only together are none."""
    for who, what in (
        ('{"a":[1', "2]}"),
        ('{},{"a":[1', "2]}"),
        ('{},0,{"a":[1', "2]}"),
        ('{"a":', "{}}"),
        ("{}", ",{}"),
    ):
        stored = orjson.dumps({"who": [_SALT, who], "what": [_SALT, what], "request": [_SALT, "{}"]})
        assert all_readable(stored) is None
        assert readable_groups(stored).keys() <= {"who", "request"}
        assert readable_groups(stored).get("who", ("", "{}"))[1] == "{}"


def _deep(levels: int) -> str:
    return '{"a":' * levels + "1" + "}" * levels


def _wide(lists: int) -> str:
    return "[" + ",".join(["[]"] * lists) + "]"


def test_a_time_is_what_json_and_calendars_have() -> None:
    """Text, or no number at all, is no time."""
    assert [at_ms(each) for each in (1.5, 0, "abc", None, math.nan)] == [1500, 0, 0, 0, 0]
