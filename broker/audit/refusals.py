"""Refusals of callers who have proved nothing: counted, not recorded singly, so that strangers cannot fill the disk."""

from __future__ import annotations

from collections import Counter

from broker.audit.events import Event, Kind

MAX_SOURCES = 256
"""Sources counted apart in one minute; the rest share the name "other"."""

MAX_REASONS = 16


class RefusalCounter:
    """Counts (source, reason) until the minute is over. Bounded, whatever arrives."""

    def __init__(self) -> None:
        self._minute = 0
        self._counts: Counter[tuple[str, str]] = Counter()
        self._sources: set[str] = set()
        self._finished: list[Event] = []

    def count(self, source: str, reason: str, now: float) -> None:
        """Counts one refusal.

        Args:
            source: the peer's address as the socket tells it.
            reason: the error's stable word, never text of the caller's.
            now: seconds since the epoch.
        """
        self._turn(now)
        if source not in self._sources:
            if len(self._sources) < MAX_SOURCES:
                self._sources.add(source)
            else:
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
        if minute == self._minute and not force:
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
        del self._finished[: -2 * MAX_SOURCES * MAX_REASONS]
        self._counts.clear()
        self._sources.clear()
        self._minute = minute
