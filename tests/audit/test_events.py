"""The catalogue of events: closed, consistent, and sorted into the groups that can be disclosed apart."""

from __future__ import annotations

import pytest

from broker.audit.events import ABANDONED, CALL_ENDS, Event, Kind
from broker.formats import record


def test_every_kind_fits_into_an_entry() -> None:
    """Kinds are short names of their own spelling, so that an entry's canonical form is the obvious one."""
    for kind in Kind:
        assert record.parse_entry(record.entry(kind, "tag", 1, bytes(32))).kind == str(kind)


def test_what_closes_is_never_closed_itself() -> None:
    """Abandoning is the end of it: no record of an abandonment can be abandoned, or the log would feed itself."""
    assert not set(ABANDONED.values()) & set(ABANDONED)
    assert all(str(end).endswith("Abandoned") for end in ABANDONED.values())
    assert ABANDONED[Kind.CALL_ADMITTED] in CALL_ENDS
    assert Kind.CALL_ADMITTED not in CALL_ENDS


def test_groups_hold_only_what_there_is() -> None:
    """An event without a group leaves it out; the id and the time always stand in `request`, and win over nothing."""
    bare = Event(Kind.CALL_REFUSED, agent="a", at=1.5, request_id="r", who={}, what={"model": "m"})
    assert bare.groups() == {"what": {"model": "m"}, "request": {"id": "r", "at_ms": 1500}}
    assert set(bare.groups()) <= set(record.GROUPS)


@pytest.mark.parametrize(("at", "ms"), [(0.0, 0), (1.0009, 1000), (1_800_000_000.123, 1_800_000_000_123)])
def test_time_is_in_whole_milliseconds(at: float, ms: int) -> None:
    """Cut off, not rounded up into the future."""
    assert Event(Kind.CALL_REFUSED, agent="a", at=at, request_id="r").at_ms == ms
