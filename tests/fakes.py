"""Stand-ins for the doors: a clock that is set by hand. Nothing of the broker itself is replaced."""

from __future__ import annotations


class FakeClock:
    """A clock that stands still until it is moved.

    Args:
        now: where both clocks start, in seconds.
    """

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._now = now
        self._monotonic = now

    def now(self) -> float:
        """Seconds since the epoch."""
        return self._now

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self._monotonic

    def advance(self, seconds: float) -> None:
        """Moves both clocks forward."""
        self._now += seconds
        self._monotonic += seconds

    def jump(self, seconds: float) -> None:
        """Moves only the wall clock, either way, as an operator or NTP would."""
        self._now += seconds
