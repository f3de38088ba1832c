"""Counted refusals: bounded, none lost and none twice, in any order of events."""

from __future__ import annotations

from collections import Counter

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from broker.audit.refusals import ALLOWED_A_MINUTE, MAX_COUNTED, Allowance, RefusalCounter
from tests.fakes import FakeClock
from tests.fuzz.databases import steps

REASONS = ("invalid_client", "malformed", "expired")


class Refusals(RuleBasedStateMachine):
    """A flood of strangers, minutes that pass, a clock that goes back, and the job that hands events out."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.counter = RefusalCounter()
        self.counted: Counter[str] = Counter()
        self.told: Counter[str] = Counter()
        self.allowance = Allowance()

    @rule(first=st.integers(0, 300), sources=st.integers(1, 400), reason=st.sampled_from(REASONS))
    def flood(self, first: int, sources: int, reason: str) -> None:
        """Refusals of so many sources."""
        for number in range(first, first + sources):
            self.counter.count(f"10.0.{number >> 8}.{number & 255}", reason, self.clock.now())
        self.counted[reason] += sources

    @rule(seconds=st.sampled_from([0.0, 1.0, 59.0, 60.0, 3600.0]))
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)

    @rule(seconds=st.sampled_from([1.0, 61.0]))
    def turn_back(self, seconds: float) -> None:
        """The wall clock goes back."""
        self.clock.jump(-seconds)

    @rule(everything=st.booleans())
    def drain(self, everything: bool) -> None:
        """One event for each source and reason of a minute; with everything, nothing is left to tell."""
        events = self.counter.drain(self.clock.now(), everything=everything)
        for event in events:
            decision, request = dict(event.decision or {}), dict(event.request or {})
            count = request["count"]
            assert isinstance(count, int)
            self.told[str(decision["reason"])] += count
        assert len(events) <= 18 * (MAX_COUNTED + len(REASONS))
        if everything:
            assert self.told == self.counted
        assert self.told <= self.counted

    @rule(name=st.sampled_from(["platform", "other"]), times=st.integers(1, 40))
    def admit(self, name: str, times: int) -> None:
        """No attester's strangers cause more than their allowance in one minute."""
        now = self.clock.now()
        fresh = Allowance()
        assert sum(fresh.admits(name, now) for _ in range(times)) == min(times, ALLOWED_A_MINUTE)
        assert sum(self.allowance.admits(name, now) for _ in range(times)) <= ALLOWED_A_MINUTE

    @invariant()
    def nothing_is_told_that_was_not_counted(self) -> None:
        """Whatever was handed out had been counted."""
        assert all(self.told[reason] <= self.counted[reason] for reason in REASONS)


TestRefusals = Refusals.TestCase
TestRefusals.settings = steps(20, 20)
