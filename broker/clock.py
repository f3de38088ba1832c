"""The one reader of time. Everywhere else time is an argument."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """What tells the time: `SystemClock` in production, `tests.fakes.FakeClock` in tests."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        return time.monotonic()
