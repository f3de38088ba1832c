"""Groups of records that are not shown: withheld, erased or gone, and each is counted for what it is."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.audit.events import Kind
from broker.audit.log import Step
from broker.cli import whole_log
from broker.cli.log_check import GivenRecords
from broker.cli.public_log import PublicLog
from broker.cli.whole_log import CheckedRecords
from broker.db.engine import execute, reading
from broker.errors import ProofInvalid
from broker.formats.note import NoteVerifier
from tests.audit.logs import event
from tests.audit.packages import erase
from tests.build import running
from tests.cli.running import BrokerProcess, Person, signed_in
from tests.cli.stand_in_log import StandInLog, erasure, made, serving


@pytest.fixture
def log() -> Iterator[StandInLog]:
    """A log of somewhat more than two tiles."""
    with serving() as found:
        found.grow(600)
        yield found


def _checked(log: StandInLog, start: int, end: int) -> CheckedRecords:
    with PublicLog(log.url) as public:
        tree = whole_log.verified(public, NoteVerifier.parse(log.vkey), None).tree
        return whole_log.check_records(tree, start, end, log.pages(start, end), lambda _: None, log.erasures)


def test_a_withheld_group_changes_nothing(log: StandInLog) -> None:
    """The commitment alone stands for one of which the broker says so, and it counts; without a word it is missing."""
    for stated in log.records:
        del stated["groups"]["what"]
    with pytest.raises(ProofInvalid, match="Record 0: content and salt of what are missing"):
        _checked(log, 0, 600)
    for stated in log.records:
        stated["withheld"] = ["what", "who", "nothing"]
    assert _checked(log, 0, 600) == CheckedRecords(10, {"what": 600}, 0, 0)


@pytest.mark.parametrize("index", [-1, 600, "5", None])
def test_an_erasure_of_no_place_in_the_tree_excuses_nothing(log: StandInLog, index: object) -> None:
    """Whatever the broker says for one; one that came after the checkpoint may be the reason, so that is said."""
    del log.records[3]["groups"]["what"]
    stated = {**log.records[0], "index": index}
    with PublicLog(log.url) as public:
        tree = whole_log.verified(public, NoteVerifier.parse(log.vkey), None).tree
        with pytest.raises(ProofInvalid, match="Record 3: content and salt of what are missing") as caught:
            whole_log.check_records(tree, 0, 600, log.pages(0, 600), lambda _: None, lambda _start, _end: [stated])
    assert ("First verify again" in caught.value.detail) == (index == 600)


def test_what_was_erased_is_counted(log: StandInLog) -> None:
    """By the records of erasures that pass, and by those behind the range, which alone are asked for."""
    for index in (3, 4, 9):
        del log.records[index]["groups"]["what"]
    log.add(erasure(1, ["what", "decision"], 3, 4))
    log.add(erasure(2, ["what"], 9, 9))
    log.sign()
    log.asked.clear()
    assert _checked(log, 0, 602) == CheckedRecords(11, {}, 3, 0)
    assert [path for path in log.asked if path.startswith("erasures")] == []
    assert _checked(log, 0, 601) == CheckedRecords(11, {}, 3, 0)
    assert [path for path in log.asked if path.startswith("erasures")] == ["erasures 601:602"]


def test_what_an_erasure_does_not_show_is_untold(log: StandInLog) -> None:
    """Whoever may not read what erasures say is told how many groups that leaves open, and no lie about tampering."""
    for index in (3, 4):
        del log.records[index]["groups"]["what"]
    log.add(erasure(1, ["what"], 3, 4))
    log.add(made("agent-0", 61))
    log.sign()
    for stated in log.records:
        del stated["groups"]["remedy"]
        stated["withheld"] = ["remedy"]
    assert _checked(log, 0, 600) == CheckedRecords(10, {"remedy": 600}, 0, 2)
    assert _checked(log, 0, 602) == CheckedRecords(11, {"remedy": 602}, 0, 2)
    del log.records[601]["groups"]["what"]  # behind the erasure
    with pytest.raises(ProofInvalid, match="Record 601: content and salt of what are missing"):
        _checked(log, 0, 602)


@pytest.mark.parametrize("said", [{"groups": 5}, {"groups": ["what"], "records": [[3, 600]]}, None])
def test_an_erasure_that_says_nothing_excuses_nothing(log: StandInLog, said: object) -> None:
    """One of another shape, or of records that are not before it, is named."""
    del log.records[3]["groups"]["what"]
    log.add(made("operator", 1, "RecordsErased", remedy=said) if said else made("operator", 1, "RecordsErased"))
    log.sign()
    for end in (600, 601):
        with pytest.raises(ProofInvalid, match="Record 600: it is of an erasure, and does not say"):
            _checked(log, 0, end)


class _Counting:
    """An API that gives what a log holds, and counts the readings that a broker would record."""

    def __init__(self, log: StandInLog) -> None:
        self.log = log
        self.readings = 0

    def get(self, _path: str, _shape: object, *, start: int, end: int, **_: object) -> object:
        """A page of entries."""
        self.readings += 1
        return {"entries": self.log.records[start : min(end, start + 2000)]}

    def pages(self, _path: str, _shape: object, **_: object) -> Iterator[object]:
        """The records of erasures, newest first."""
        self.readings += 1
        found = [stated["index"] for stated in self.log.erasures(0, len(self.log.records))]  # type: ignore[index]  # all are given whole
        for last in range(len(found), 0, -500):
            yield {"records": [{"index": index} for index in reversed(found[max(last - 500, 0) : last])]}


def test_a_thousand_erasures_are_few_readings() -> None:
    """Those near each other are read at once; those before the range are none of it, and later ones are only named."""
    with serving() as log:
        for index in range(3000):
            log.add(erasure(index, ["what"], 0, 0) if index % 3 == 0 else made("agent", index))
        api: Any = _Counting(log)
        found = list(GivenRecords(api).erasures(600, 2700))
        assert api.readings == 3
        assert found[:100] == [{"index": index} for index in range(2997, 2699, -3)][:100]
        assert found[100:] == log.records[600:2700:3]


def test_what_is_not_shown_is_said(admin: Person, broker: BrokerProcess, tmp_path: Path) -> None:
    """Over HTTP: an auditor from whom a group is withheld reads of how many records; one who sees all reads of none."""
    forbid = (
        '@id("not-paula") forbid (principal == Operator::"paula", action == Action::"readGroup", resource is Broker)\n'
        'when { context.group == "posture" };'
    )
    world = {"operators": {"paula": {"roles": ["auditor"], "new_link": True}}, "policies": {"paula.cedar": forbid}}
    links = json.loads(admin.ok("apply", "-f", "-", "--json", input=json.dumps(world)))["sign_in_links"]
    paula = signed_in(tmp_path, links["paula"])
    arguments = ("audit", "verify", "--log", "--key", broker.log_key, "--records", "0:2")
    assert paula.json(*arguments)["not_shown"] == {"withheld": {"posture": 2}, "erased": 0, "untold": 0}
    shown = paula.ok(*arguments)
    assert "Not shown: 2 groups withheld from you (posture of 2), 0 erased, each as a record of an erasure" in shown
    assert "Not shown: 0 groups withheld from you, 0 erased" in admin.ok(*arguments)


async def test_erasures_behind_a_range_are_read_at_once(tmp_path: Path) -> None:
    """Over HTTP against a real broker: each counts, and all leave one record of a search and one of a reading."""
    async with running(tmp_path) as run:
        person = Person(tmp_path / "home")
        await asyncio.to_thread(person.ok, "login", await run.broker.sign_in.link("admin"))
        run.whole_records = False  # no erasure of this kind reaches records of the day
        made_up = tuple(event("a", Kind.CALL_ADMITTED, what={"model": "m"}, for_whom={"owner": "x"}) for _ in range(5))
        await run.broker.audit.record(Step(made_up))
        end = run.broker.audit.size
        for group in ("what", "for_whom", "posture"):
            await erase(run.broker.audit, run.broker.engine, group, Kind.CALL_ADMITTED)
        await asyncio.to_thread(run.broker.tree.integrate)
        before = run.broker.audit.size
        arguments = ("audit", "verify", "--log", "--key", run.broker.log_key, "--records", f"0:{end}")
        told = await asyncio.to_thread(person.json, *arguments)
        assert told["not_shown"] == {"withheld": {}, "erased": 15, "untold": 0}
        with reading(run.broker.engine) as session:
            statement = "SELECT kind FROM records WHERE idx >= ? ORDER BY idx"
            kinds = [kind for (kind,) in execute(session.connection(), statement, (before,))]
        assert kinds.count(Kind.TRAIL_READ) == 3  # of the range, of the search, and of the erasures
