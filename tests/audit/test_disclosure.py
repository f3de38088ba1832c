"""Which questions look into which groups."""

from __future__ import annotations

from broker.audit import disclosure
from broker.audit.search import Query
from broker.formats.record import GROUPS


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
