"""Which questions look into which groups, and which columns tell what is withheld: none."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from sqlalchemy import Engine

from broker.audit import disclosure, export, trail
from broker.audit.log import Step
from broker.audit.search import Query
from broker.db.engine import reading
from broker.formats.record import GROUPS
from tests.audit.logs import event, open_log


def test_every_member_of_a_query_has_its_groups() -> None:
    """A new filter that nobody placed is an error here, and not a way around what is withheld."""
    told = Query(
        agent="a", kind="k", outcome="o", model="m", request_id="r", since_ms=1, until_ms=2, oldest_first=True,
        owner="w", human="h", action="c", policy="p",
    ).described()  # fmt: skip
    assert told.keys() == disclosure.ASKS_BY.keys()
    assert {group for groups in disclosure.ASKS_BY.values() for group in groups} == set(GROUPS)
    assert disclosure.Disclosure(frozenset({"what"})).withholds(Query(outcome="permit")) == ("outcome", "decision")
    assert disclosure.Disclosure(frozenset({"what"})).withholds(Query(model="m", kind="k", since_ms=1)) is None
    assert disclosure.WHOLE.withholds(Query(outcome="permit")) is None


@pytest.mark.parametrize(
    ("group", "column", "value"),
    [
        ("who", "agent", "nightly"),
        ("what", "model", "e/small"),
        ("decision", "outcome", "permit"),
        ("request", "request_id", "r-17"),
    ],
)
async def test_a_line_of_an_export_tells_no_group_by_its_column(
    engine: Engine, tmp_path: Path, group: str, column: str, value: str
) -> None:
    """What is withheld stands nowhere in it, and everything else does; so with each group that has a column."""
    log = open_log(engine, tmp_path)
    said = event("nightly", request_id="r-17", what={"model": "e/small"}, decision={"outcome": "permit"})
    await log.record(Step((said,)))
    with reading(engine) as session:
        (row,) = trail.page(session, Query())
    log.close()
    whole, less = (
        export.line(row, each) for each in (disclosure.WHOLE, disclosure.Disclosure(frozenset(GROUPS) - {group}))
    )
    assert orjson.loads(whole)[column] == value
    assert orjson.loads(less)[column] == ""
    assert value.encode() not in less
    told = orjson.loads(less)
    assert [told[each] for each in ("agent", "model", "outcome", "request_id")].count("") == 1
