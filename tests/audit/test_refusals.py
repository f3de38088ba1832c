"""Counted refusals: bounded whatever arrives, nothing lost, nothing told twice."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from broker.audit.events import Event, Kind
from broker.audit.refusals import ALLOWED_A_MINUTE, MAX_COUNTED, Allowance, RefusalCounter

MINUTE = 60.0
START = 1_800_000_000.0


def _counts(events: list[Event]) -> dict[tuple[str, str], int]:
    counted: Counter[tuple[str, str]] = Counter()
    for event in events:
        assert event.request is not None
        assert event.decision is not None
        counted[str(event.request["source"]), str(event.decision["reason"])] += int(str(event.request["count"]))
    return dict(counted)


def test_one_event_for_each_source_and_reason_of_a_minute() -> None:
    """Refusals are told apart by source and reason, with the minute they fell into and how many there were."""
    counter = RefusalCounter()
    for source, reason in [("one", "x"), ("one", "x"), ("one", "y"), ("two", "x")]:
        counter.count(source, reason, START)
    assert counter.drain(START + 59) == []
    events = counter.drain(START + 60)
    assert _counts(events) == {("one", "x"): 2, ("one", "y"): 1, ("two", "x"): 1}
    first = events[0]
    assert (first.kind, first.agent, first.at) == (Kind.REFUSALS_COUNTED, "broker", START + 60)
    assert first.request == {"source": "one", "minute": int(START // 60), "count": 2}
    assert first.decision == {"outcome": "deny", "reason": "x"}


def test_each_event_is_handed_out_once() -> None:
    """What was drained is not drained again, also at the end of the broker."""
    counter = RefusalCounter()
    counter.count("one", "x", START)
    assert len(counter.drain(START + 60)) == 1
    assert counter.drain(START + 60) == []
    assert counter.drain(START + 120, everything=True) == []


def test_minutes_are_told_apart() -> None:
    """The same source and reason in two minutes are two events; the minute that goes on is kept for later."""
    counter = RefusalCounter()
    for second in (0, 59, 60, 120):
        counter.count("one", "x", START + second)
    events = counter.drain(START + 130)
    assert [event.request and (event.request["minute"], event.request["count"]) for event in events] == [
        (START // 60, 2),
        (START // 60 + 1, 1),
    ]
    assert _counts(counter.drain(START + 130, everything=True)) == {("one", "x"): 1}


def test_a_clock_that_goes_back_loses_nothing() -> None:
    """Whatever the clock does, every refusal is in some event."""
    counter = RefusalCounter()
    for now in (START, START - 3600, START + 60, START):
        counter.count("one", "x", now)
    assert _counts(counter.drain(START, everything=True)) == {("one", "x"): 4}


def test_strangers_cannot_make_it_grow() -> None:
    """A million sources in a minute are a bounded number of events: the first have their names, the rest share one."""
    counter = RefusalCounter()
    for number in range(10 * MAX_COUNTED):
        counter.count(f"10.0.{number // 256}.{number % 256}", ("x", "y")[number % 2], START)
    counts = _counts(counter.drain(START + 60))
    assert len(counts) == MAX_COUNTED + 2
    assert sum(counts.values()) == 10 * MAX_COUNTED
    assert counts["other", "x"] + counts["other", "y"] == 9 * MAX_COUNTED
    assert counts["10.0.0.0", "x"] == 1


def test_one_source_cannot_hide_another_forever() -> None:
    """The bound holds for a minute: in the next one a source has its own name again."""
    counter = RefusalCounter()
    for number in range(2 * MAX_COUNTED):
        counter.count(f"{number}", "x", START)
    counter.count("late", "x", START)
    counter.count("late", "x", START + 60)
    counts = _counts(counter.drain(START + 120))
    assert counts["late", "x"] == 1


def test_while_nobody_drains_it_stays_bounded_and_exact() -> None:
    """A log that takes no records for a day leaves a bounded number of events, in which every refusal is counted."""
    counter = RefusalCounter()
    total = 0
    for minute in range(24 * 60):
        for number in range(300):
            counter.count(f"{number}", "x", START + minute * MINUTE)
            total += 1
    waiting = counter.drain(START + 24 * 60 * MINUTE) + counter.drain(START + 24 * 60 * MINUTE, everything=True)
    assert len(waiting) <= 18 * (MAX_COUNTED + 1)
    assert sum(_counts(waiting).values()) == total


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 200), st.booleans()), max_size=40)
)
def test_every_refusal_is_counted_once(refusals: list[tuple[str, str, int, bool]]) -> None:
    """However refusals and drains fall, the counts of all events together are exact."""
    counter = RefusalCounter()
    drained: list[Event] = []
    wanted: Counter[tuple[str, str]] = Counter()
    now = START
    for source, reason, step, drain in refusals:
        now += step
        counter.count(source, reason, now)
        wanted[source, reason] += 1
        if drain:
            drained += counter.drain(now)
    drained += counter.drain(now, everything=True)
    assert _counts(drained) == dict(wanted)


def test_an_allowance_is_for_one_name_and_one_minute() -> None:
    """Each name has its own number of records in each minute, and no more."""
    allowance = Allowance()
    admitted = [allowance.admits("platform", START + second) for second in range(ALLOWED_A_MINUTE + 20)]
    assert admitted == [True] * ALLOWED_A_MINUTE + [False] * 20
    assert allowance.admits("another", START)
    assert allowance.admits("platform", START + 60)
