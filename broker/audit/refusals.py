"""Refusals of callers who have proved nothing: counted, not recorded singly, so that strangers cannot fill the disk."""

from __future__ import annotations

from collections import Counter

from broker.audit.events import Event, Kind

MAX_COUNTED = 256
"""Pairs of source and reason counted apart in one minute; then further sources share the name "other"."""

_MAX_FINISHED = 16 * MAX_COUNTED
"""Events that wait to be handed out; then a minute goes on until they are."""


ALLOWED_A_MINUTE = 30
"""Refusals recorded singly for one attester in a minute, of workloads that no rule knows."""


class Allowance:
    """How many records those may cause in a minute who have proved who they are, and that they are nobody of ours."""

    def __init__(self) -> None:
        self._minute = 0
        self._left: dict[str, int] = {}

    def admits(self, name: str, now: float) -> bool:
        """Whether one more may be recorded singly.

        Args:
            name: whose allowance; the names are ours, so there are few.
            now: seconds since the epoch.
        """
        minute = int(now // 60)
        if minute != self._minute:
            self._minute = minute
            self._left.clear()
        left = self._left.get(name, ALLOWED_A_MINUTE)
        self._left[name] = max(left - 1, 0)
        return left > 0


class RefusalCounter:
    """Counts (source, reason) until the minute is over. Bounded, whatever arrives."""

    def __init__(self) -> None:
        self._minute = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._finished: list[Event] = []

    def count(self, source: str, reason: str, now: float) -> None:
        """Counts one refusal.

        Args:
            source: the peer's address as the socket tells it.
            reason: the error's stable word, never text of the caller's.
            now: seconds since the epoch.
        """
        self._turn(now)
        if (source, reason) not in self._counts and len(self._counts) >= MAX_COUNTED:
            source = "other"
        self._counts[source, reason] += 1

    def drain(self, now: float, *, everything: bool = False) -> list[Event]:
        """The events of finished minutes, one per source and reason, each handed out once.

        Args:
            now: seconds since the epoch.
            everything: also the minute that has not ended (at shutdown).
        """
        self._turn(now, force=everything)
        finished, self._finished = self._finished, []
        return finished

    def _turn(self, now: float, *, force: bool = False) -> None:
        minute = int(now // 60)
        if (minute == self._minute or len(self._finished) >= _MAX_FINISHED) and not force:
            return
        for (source, reason), count in self._counts.items():
            self._finished.append(
                Event(
                    Kind.REFUSALS_COUNTED,
                    agent="broker",
                    at=now,
                    request_id=f"refusals-{self._minute}",
                    decision={"outcome": "deny", "reason": reason},
                    request={"source": source, "minute": self._minute, "count": count},
                )
            )
        self._counts.clear()
        self._minute = minute
