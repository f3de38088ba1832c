"""Looks for inputs that break a parser, for as long as it is told: `python -m tests.fuzz [FAMILY] [SECONDS]`.

Each family is a file of this folder. Its tests run again and again, with new examples each time, until its time is used
up; the first failure ends the run with the `@reproduce_failure` line that brings it back.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.clock import Clock, SystemClock

FOLDER = Path(__file__).parent
SECONDS = 120.0
PROFILE = "fuzz"

_EXAMPLES = re.compile(r"(\d+) passing")


class Repeated:
    """Runs the collected tests in turn until the time is up, and counts.

    Args:
        seconds: how long; a test that runs is not interrupted.
        clock: the time.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self.runs = 0
        self.examples = 0

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own loop, which runs each test once."""
        end = self._clock.monotonic() + self._seconds
        turns = _in_turn(session.items) if not session.testsfailed else iter(())
        item = next(turns, None)
        while item is not None:
            following = next(turns) if self._clock.monotonic() < end else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            self.runs += 1
            self.examples += sum(map(int, _EXAMPLES.findall(getattr(item, "hypothesis_statistics", ""))))
            if session.shouldfail:
                raise session.Failed(session.shouldfail)
            item = following
        return True


def families() -> list[str]:
    """The names of all families."""
    return sorted(path.stem.removeprefix("test_") for path in FOLDER.glob("test_*.py"))


def search(family: str, seconds: float, clock: Clock) -> tuple[bool, str]:
    """Searches one family; whether everything held, and a line that says what was done."""
    loop = Repeated(seconds, clock)
    path = FOLDER / f"test_{family}.py"
    options = ["-x", "-q", "--no-header", "--no-summary", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=short"]
    began = clock.monotonic()
    held = pytest.main([*options, f"--hypothesis-profile={PROFILE}", "--capture=fd", str(path)], [loop]) == 0
    spent = clock.monotonic() - began
    return held, f"{family}: {loop.examples} examples in {loop.runs} runs, {spent:.0f} s"


def main(arguments: list[str]) -> int:
    """Searches every family, or the one that is named."""
    only, seconds = [*arguments, "", ""][:2]
    known = families()
    if only and only not in known:
        sys.stderr.write(f"fuzz: there is no family {only}; there are {', '.join(known)}\n")
        return 2
    for family in [only] if only else known:
        held, line = search(family, float(seconds or SECONDS), SystemClock())
        sys.stdout.write(f"fuzz: {line}: {'held' if held else 'FAILED, see above'}\n")
        sys.stdout.flush()
        if not held:
            return 1
    return 0


def _in_turn(items: list[Any]) -> Iterator[Any]:
    while items:
        yield from items


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
