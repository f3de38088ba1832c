"""How much is measured, and where progress is said."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a run.

    Args:
        rounds: of everything that is measured in rounds.
        requests: in an interval of load.
        full: whether the long ones are wanted.
    """

    rounds: int = 5
    requests: int = 3000
    full: bool = False
    _begun: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        """A line of progress, with the time since the run began."""
        sys.stderr.write(f"[{time.monotonic() - self._begun:5.0f} s] {line}\n")
        sys.stderr.flush()
